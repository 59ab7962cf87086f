"""Labelled pictures of one size, a few of each class, some held out."""

from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageOps
import torch

from wm_pipelines.media.pictures import load_image, to_tensor
from wm_pipelines.runtime.random import keyed

FITS = ("crop", "pad", "stretch")
"""How a picture that is not square gets square: its middle, all of it on black, or distorted."""


def read_square(paths: Sequence[Path], size: int, fit: str = "crop") -> torch.Tensor:
    """The pictures as float32 `(N, 3, size, size)` in [0, 1].

    Args:
        size: side in pixels. fit: one of `FITS`.

    Raises:
        ValueError: an unknown `fit`, no picture, or a file that is none.
    """
    if fit not in FITS:
        raise ValueError(f"`fit` must be one of {', '.join(FITS)}, got {fit!r}")
    if type(size) is not int or size < 1:
        raise ValueError(f"`size` must be a positive integer, got {size!r}")
    if not paths:
        raise ValueError("`paths` is empty; give at least one picture")
    smooth = PIL.Image.Resampling.BICUBIC
    read = []
    for path in paths:
        image = load_image(path)
        if fit == "crop":
            image = PIL.ImageOps.fit(image, (size, size), smooth)
        elif fit == "pad":
            image = PIL.ImageOps.pad(image, (size, size), smooth, color="black")
        else:
            image = image.resize((size, size), smooth)
        read.append(to_tensor(image))
    return torch.stack(read)


def few_of_each(labels: Sequence[str], shots: int, held_out: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """Which pictures to fit to and which to hold out: numbers of `labels`, class by class as they first occur.

    Args:
        shots: of each class to fit to; 0 takes all that are not held out.
        held_out: of each class, none of which is fitted to.
        seed: of the choice; the same of a class whatever the other classes are.

    Raises:
        ValueError: a negative number, or a class with too few pictures, named.
    """
    for name, value in (("shots", shots), ("held_out", held_out)):
        if type(value) is not int or value < 0:
            raise ValueError(f"`{name}` must be an integer of at least 0, got {value!r}")
    fitted, held = [], []
    for label in dict.fromkeys(labels):
        own = [n for n, other in enumerate(labels) if other == label]
        if len(own) < held_out + max(shots, 1):
            raise ValueError(
                f"class {label!r} has {len(own)} pictures; {held_out} held out and {max(shots, 1)} to fit to need "
                f"{held_out + max(shots, 1)}"
            )
        order = [own[n] for n in keyed("few of each", seed, label).permutation(len(own))]
        held += sorted(order[:held_out])
        fitted += sorted(order[held_out : held_out + shots] if shots else order[held_out:])
    return fitted, held
