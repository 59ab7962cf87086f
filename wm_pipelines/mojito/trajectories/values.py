"""Numbers as people hand them in: Python's, NumPy's and torch's, in any precision, lists and single values of them.

A number is taken for what it says, or refused by name; none is rounded, and text is no number.
"""

import math
import operator
import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch

Numbers = Sequence[Any] | np.ndarray | torch.Tensor

MOST_FRAMES = 1_000_000
"""Frames of a clip beyond which a number is a slip of the pen: hours of video."""

_DEPTH = 3
"""Lists in lists that an array of rows may have, with single values in tensors."""

_LONGEST = 120

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 80
_brief.maxlevel = 3


def brief(value: Any) -> str:
    """`repr` for a message, cut short where it is long or deep."""
    try:
        written = _brief.repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "a number of too many digits"
    return written if len(written) <= _LONGEST else written[:_LONGEST] + ".."


def whole(value: Any) -> int | None:
    """A whole number of any kind (`operator.index`), None for anything else; True and 4.0 are none."""
    if isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) in (torch.bool, np.bool_):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def real(value: Any) -> float | None:
    """A finite number of any kind, None for anything else; True and "1" are none."""
    if isinstance(value, torch.Tensor | np.ndarray):
        if value.ndim or str(value.dtype).endswith("bool"):
            return None
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real | np.floating | np.integer):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def frame_count(value: Any, name: str = "num_frames") -> int:
    """`value`, the number of frames of a clip, as an int.

    Raises:
        ValueError: anything but a whole number from 1 to `MOST_FRAMES`.
    """
    count = whole(value)
    if count is None or count < 1:
        raise ValueError(f"{name}={brief(value)}; it must be a whole number of at least 1")
    if count > MOST_FRAMES:
        raise ValueError(f"{name}={brief(value)}; a clip has at most {MOST_FRAMES} frames")
    return count


def pair(values: Any, name: str) -> tuple[float, float]:
    """Width and height, both above 0.

    Raises:
        ValueError: anything but two such numbers.
    """
    try:
        sides = [] if isinstance(values, str | bytes) else [real(value) for value in values]
    except TypeError:
        sides = []
    if len(sides) != 2:
        raise ValueError(f"{name} is {brief(values)}; it must be two numbers, width and height")
    if None in sides:
        raise ValueError(f"{name} is {brief(values)}; width and height must be finite numbers")
    if min(sides) <= 0:
        raise ValueError(f"{name} is {brief(values)}; width and height must be above 0")
    return sides[0], sides[1]


def array(values: Any, width: int, name: str) -> np.ndarray:
    """float64 `(width,)` or `(N, width)`, N at least 1, of lists, arrays and tensors of any precision, also mixed.

    Raises:
        ValueError: another shape, or something that is no number; NaN and infinity pass.
    """
    form = f"it must be ({width},) or (N, {width}) numbers"
    try:
        found = np.asarray(_plain(values))
        if found.dtype.kind == "V" and found.dtype.names is None:  # bfloat16 and its like, which NumPy has no kind for
            found = found.astype(np.float64)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(f"{name} has rows of different lengths; {form}") from None
    if found.dtype.kind not in "iuf":
        raise ValueError(f"{name} holds something that is no number; {form}")
    if found.ndim not in (1, 2) or found.shape[-1] != width or not len(found):
        raise ValueError(f"{name} has shape {found.shape}; {form}")
    return found.astype(np.float64)


def _plain(values: Any, depth: int = 0) -> Any:
    """The same without tensors: NumPy has no bfloat16."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()
    if isinstance(values, list | tuple):
        if depth == _DEPTH:
            raise ValueError("too deep")
        return [_plain(value, depth + 1) for value in values]
    return values
