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
