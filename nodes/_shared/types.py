"""The sockets of this pack, and ComfyUI's tensors as the library wants them."""

from inspect import signature
from math import isfinite
from typing import Any

import torch
from comfy_api.latest import io

Pipeline = io.Custom("WM_PIPELINE")
"""A `memory.PipelineHandle`."""

Conditions = io.Custom("WM_CONDITIONS")
"""A tuple of `wm_pipelines.flexecontrol.conditions.condition.Condition`, or of tuples of them: of a batch of maps, one
for each picture. `rows_of` takes them apart."""

SceneGraph = io.Custom("WM_SCENE_GRAPH")
"""A `wm_pipelines.text.scene_graph.SceneGraph`."""

Segs = io.Custom("SEGS")
"""Of the Impact Pack: a size, and segments."""

CATEGORY = "WM"
"""The menu; behind a stroke the task: control, video, adapt, match, measure, world."""

ADVANCED = {"advanced": True} if "advanced" in signature(io.Float.Input).parameters else {}
"""For a widget that few need: newer cores fold it away."""


def aliases(words: str) -> dict[str, list[str]]:
    """Other words under which a node is searched for, separated by commas; nothing where the core has none."""
    return {"search_aliases": words.split(", ")} if "search_aliases" in io.Schema.__dataclass_fields__ else {}


def rgb_of(image: torch.Tensor, name: str) -> torch.Tensor:
    """An IMAGE `(B, H, W, C)` as `(B, 3, H, W)`: of four channels the last is left out, grey becomes three alike.

    Raises:
        ValueError: another shape, or another number of channels.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{name} has shape {tuple(image.shape)}; it must be (B, H, W, C) with 1, 3 or 4 channels")
    three = image.expand(-1, -1, -1, 3) if image.shape[-1] == 1 else image[..., :3]
    return three.movedim(-1, 1).float()


def one_picture(image: torch.Tensor, name: str) -> torch.Tensor:
    """The only picture of an IMAGE `(1, H, W, C)` as `(3, H, W)` in [0, 1].

    Raises:
        ValueError: as `rgb_of`, or the batch holds another number of pictures.
    """
    pictures = rgb_of(image, name)
    if len(pictures) != 1:
        raise ValueError(f"{name} holds {len(pictures)} pictures; it must hold one")
    return pictures[0].contiguous()


def pictures_of(image: torch.Tensor, name: str) -> list[torch.Tensor]:
    """The pictures of an IMAGE `(B, H, W, C)`, each a copy `(3, H, W)` in [0, 1].

    Raises:
        ValueError: as `rgb_of`.
    """
    return list(rgb_of(image, name).clone())


def lines_of(text: str, name: str) -> list[str]:
    """The lines of the text box `name`, without the empty ones at its end.

    Raises:
        ValueError: a line between others is blank.
    """
    lines = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    blank = [number for number, line in enumerate(lines, 1) if not line]
    if blank:
        raise ValueError(f"line {blank[0]} of {name} is blank; fill it, or take it away")
    return lines


def numbers_of(text: str, name: str) -> list[float]:
    """The numbers of a text box, separated by commas, blanks or line breaks.

    Raises:
        ValueError: something that is no finite number.
    """
    try:
        found = [float(number) for number in text.replace(",", " ").split()]
    except ValueError:
        found = [float("nan")]
    if not all(map(isfinite, found)):
        raise ValueError(f"{name} is {text.strip()!r}; numbers such as 1, 0.5, 0")
    return found


def masks_of(mask: torch.Tensor) -> list[torch.Tensor]:
    """The masks of a MASK `(B, H, W)` or `(H, W)`, each `(1, H, W)` in [0, 1]."""
    return list((mask if mask.ndim == 3 else mask[None]).float()[:, None])


def rows_of(conditions: tuple) -> list[list[Any]]:
    """The conditions of each picture; one row for all where no condition is of a batch.

    Raises:
        ValueError: batches of different length.
    """
    lengths = sorted({len(one) for one in conditions if isinstance(one, tuple)})
    if len(lengths) > 1:
        counts = ", ".join(map(str, lengths))
        raise ValueError(f"conditions holds batches of {counts} maps; those of one sampler must be as many")
    count = lengths[0] if lengths else 1
    return [[one[n] if isinstance(one, tuple) else one for one in conditions] for n in range(count)]


def to_image(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures `(B, 3, H, W)` in [0, 1] on any device as a ComfyUI IMAGE: float32 `(B, H, W, 3)` on the CPU."""
    return pictures.detach().float().cpu().movedim(1, -1).clamp(0, 1).contiguous()


def pil_image(picture: Any) -> torch.Tensor:
    """One `PIL.Image` as a ComfyUI IMAGE `(1, H, W, 3)`."""
    from wm_pipelines.media.pictures import to_tensor

    return to_image(to_tensor(picture)[None])
