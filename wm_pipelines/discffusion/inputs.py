"""What a call may be given; every refusal says what came and what is allowed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from wm_pipelines.data.class_folders import Pictures, list_pictures
from wm_pipelines.media.pictures import to_tensor

Range = tuple[float, float]
RANGES = ((0, 1), (-1, 1))


@dataclass(frozen=True)
class Asked:
    """How a call's pictures and captions are read, and at which noise they are looked at; named as its arguments."""

    timesteps: int | Sequence[int] | None = None
    seed: int = 0
    shared_noise: bool = True
    size: tuple[int, int] | None = None
    value_range: Range = (0, 1)
    truncate: bool = False
    batch_size: int = 16


def read_pictures(
    images: Pictures, value_range: Range, size: tuple[int, int] | None, multiple: int
) -> list[torch.Tensor]:
    """Pictures as float32 `(3, H, W)` in [-1, 1].

    Args:
        value_range: what numbers of tensors and arrays lie in, (0, 1) or (-1, 1). It is never guessed: a bright
            picture in [-1, 1] looks like one in [0, 1].
        size: (height, width) that they are stretched to.
        multiple: what sides must be multiples of.

    Raises:
        ValueError: no picture, values outside the range, or a size that the base can't take.
    """
    if not isinstance(value_range, tuple | list) or tuple(value_range) not in RANGES:
        raise ValueError(f"`value_range` is {value_range!r}; it must be (0, 1) or (-1, 1)")
    check_size(size, multiple)
    found = []
    for n, image in enumerate(list_pictures(images)):
        try:
            picture = _unit(image, value_range)
        except ValueError as error:
            raise ValueError(f"`images`[{n}]: {error}") from None
        if size is not None:
            picture = functional.interpolate(
                picture[None], tuple(size), mode="bilinear", antialias=True, align_corners=False
            )[0].clamp(0, 1)  # fmt: skip
        height, width = picture.shape[-2:]
        if height % multiple or width % multiple:
            raise ValueError(
                f"`images`[{n}] is {height}x{width}; sides must be multiples of {multiple} for this base; pass "
                "size=(height, width) to stretch it, as the authors do"
            )
        found.append(picture * 2 - 1)
    return found


def check_size(size: Any, multiple: int) -> None:
    """ValueError unless it is None or (height, width), multiples of `multiple`."""
    sides = size if isinstance(size, tuple | list) and len(size) == 2 else (0, 0)
    if size is not None and not all(type(side) is int and side > 0 and side % multiple == 0 for side in sides):
        raise ValueError(f"`size` is {size!r}; it must be (height, width), multiples of {multiple}")


def _unit(image: Any, value_range: Range) -> torch.Tensor:
    if tuple(value_range) == (-1, 1):
        array = isinstance(image, np.ndarray) and image.dtype.kind == "f"
        if not array and not (isinstance(image, torch.Tensor) and image.is_floating_point()):
            raise ValueError("value_range=(-1, 1) is for float tensors and arrays alone")
        image = (image + 1) / 2
    return to_tensor(image)


def pair_up(images: int, texts: int, pairwise: bool | None) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """(picture, caption) pairs and the shape of their scores: `(B,)`, or `(images, texts)` for all with all.

    Raises:
        ValueError: several of both and `pairwise` does not say how, or numbers that don't pair up.
    """
    if pairwise is not None and type(pairwise) is not bool:
        raise ValueError(f"`pairwise` is {pairwise!r}; it must be True, False or None")
    if pairwise is False:
        return [(i, j) for i in range(images) for j in range(texts)], (images, texts)
    if 1 not in (images, texts):
        if pairwise is None:
            raise ValueError(
                f"{images} images and {texts} texts: `pairwise` must say what is meant: True for one to one, False "
                "for every image with every text"
            )
        if images != texts:
            raise ValueError(f"`pairwise`=True needs equal numbers, or one of either: {images} images, {texts} texts")
    count = max(images, texts)
    return [(0 if images == 1 else n, 0 if texts == 1 else n) for n in range(count)], (count,)


def read_candidates(candidates: Any) -> Any:
    """Captions or pictures that compete: a list, or the tensor or array of a batch as it is.

    Raises:
        ValueError: none, or something that holds neither; a lone string would be taken for its letters.
    """
    if isinstance(candidates, torch.Tensor | np.ndarray):
        listed: Any = candidates
    elif isinstance(candidates, str | Mapping) or not isinstance(candidates, Iterable):
        raise ValueError(f"`candidates` must be a list of captions or of pictures, got {candidates!r:.80}")
    else:
        listed = list(candidates)
    if len(listed) == 0:
        raise ValueError("`candidates` is empty; give at least one")
    return listed


def flags(**given: Any) -> None:
    """ValueError for the first that is neither True nor False; "no" would count as yes."""
    for name, value in given.items():
        if type(value) is not bool:
            raise ValueError(f"`{name}` is {value!r}; it must be True or False")


def whole(name: str, value: Any, least: int) -> None:
    """ValueError unless `value` is an integer of at least `least`."""
    if type(value) is not int or value < least:
        raise ValueError(f"`{name}` is {value!r}; it must be an integer of at least {least}")
