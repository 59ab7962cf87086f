"""The sockets of this pack, and ComfyUI's tensors as the library wants them."""

from inspect import signature
from typing import Any

import torch
from comfy_api.latest import io

Pipeline = io.Custom("WM_PIPELINE")
"""A `memory.PipelineHandle`."""

Conditions = io.Custom("WM_CONDITIONS")
"""A tuple of `wm_pipelines.flexecontrol.conditions.condition.Condition`."""

SceneGraph = io.Custom("WM_SCENE_GRAPH")
"""A `wm_pipelines.text.scene_graph.SceneGraph`."""

CATEGORY = "WM"
"""The menu; behind a stroke the task: control, video, adapt, match, measure, world."""

ADVANCED = {"advanced": True} if "advanced" in signature(io.Float.Input).parameters else {}
"""For a widget that few need: newer cores fold it away."""


def aliases(words: str) -> dict[str, list[str]]:
    """Other words under which a node is searched for, separated by commas; nothing where the core has none."""
    return {"search_aliases": words.split(", ")} if "search_aliases" in io.Schema.__dataclass_fields__ else {}


def one_picture(image: torch.Tensor, name: str) -> torch.Tensor:
    """The only picture of an IMAGE `(1, H, W, C)` as `(3, H, W)` in [0, 1].

    Raises:
        ValueError: the batch holds another number of pictures.
    """
    if image.shape[0] != 1:
        raise ValueError(f"{name} holds {image.shape[0]} pictures; it must hold one")
    return image[0, ..., :3].movedim(-1, 0).float().contiguous()


def pictures_of(image: torch.Tensor) -> list[torch.Tensor]:
    """The pictures of an IMAGE `(B, H, W, C)`, each a copy `(3, H, W)` in [0, 1]."""
    return list(image[..., :3].movedim(-1, 1).float().clone())


def lines_of(text: str) -> list[str]:
    """The lines of a text box, without the empty ones at its end."""
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []


def labels_of(text: str) -> list[str]:
    """The lines of a text box that names the class of each picture.

    Raises:
        ValueError: a line between others is blank.
    """
    lines = lines_of(text)
    blank = [number for number, line in enumerate(lines, 1) if not line]
    if blank:
        raise ValueError(f"line {blank[0]} of labels is blank; each line names the class of one picture")
    return lines


def one_mask(mask: torch.Tensor, name: str) -> torch.Tensor:
    """The only mask of a MASK `(1, H, W)` or `(H, W)` as `(1, H, W)` in [0, 1].

    Raises:
        ValueError: the batch holds another number of masks.
    """
    mask = mask if mask.ndim == 3 else mask[None]
    if mask.shape[0] != 1:
        raise ValueError(f"{name} holds {mask.shape[0]} masks; it must hold one")
    return mask.float()


def to_image(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures `(B, 3, H, W)` in [0, 1] on any device as a ComfyUI IMAGE: float32 `(B, H, W, 3)` on the CPU."""
    return pictures.detach().float().cpu().movedim(1, -1).clamp(0, 1).contiguous()


def pil_image(picture: Any) -> torch.Tensor:
    """One `PIL.Image` as a ComfyUI IMAGE `(1, H, W, 3)`."""
    from wm_pipelines.media.pictures import to_tensor

    return to_image(to_tensor(picture)[None])
