"""What the statistics take: vectors of numbers, labels of clusters, counts and shares."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def numbers(name: str, values: Any, length: int | None = None) -> np.ndarray:
    """float64 `(n,)` of finite numbers.

    Raises:
        ValueError: another shape, none, something that is no number, NaN, infinity, or another length than asked for.
    """
    try:
        found = np.asarray(values)
    except ValueError:
        raise ValueError(f"`{name}` must be one row of numbers") from None
    if found.ndim != 1 or not found.size:
        raise ValueError(f"`{name}` has shape {found.shape}; it must be one row of at least one number")
    if found.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` holds {found.dtype}; it must hold numbers")
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"`{name}` holds NaN or infinity at place {int(np.flatnonzero(~np.isfinite(found))[0])}")
    if length is not None and len(found) != length:
        raise ValueError(f"`{name}` has {len(found)} numbers; {length} are needed")
    return found


def zeros_and_ones(name: str, values: Any, length: int | None = None) -> np.ndarray:
    """As `numbers`, of 0 and 1 (or booleans) only."""
    found = numbers(name, values, length)
    strange = found[(found != 0) & (found != 1)]
    if len(strange):
        raise ValueError(f"`{name}` holds {strange[0]:g}; it must hold 0 and 1 only")
    return found


def probabilities(name: str, values: Any, length: int | None = None) -> np.ndarray:
    """As `numbers`, all in [0, 1]."""
    found = numbers(name, values, length)
    strange = found[(found < 0) | (found > 1)]
    if len(strange):
        raise ValueError(f"`{name}` holds {strange[0]:g}; it must lie in [0, 1]")
    return found


def cluster_numbers(clusters: Sequence[str] | Sequence[int] | None, length: int) -> np.ndarray:
    """int64 `(n,)`: the place of each item's cluster among the sorted labels; without `clusters` each is its own.

    Raises:
        ValueError: another length, labels that are neither all text nor all integers, or fewer than two of them.
    """
    labels = list(range(length) if clusters is None else clusters)
    if len(labels) != length:
        raise ValueError(f"`clusters` has {len(labels)} labels for {length} items")
    if not (all(isinstance(x, str) for x in labels) or all(is_integer(x) for x in labels)):
        raise ValueError("`clusters` must be all text or all integers")
    place = {label: i for i, label in enumerate(sorted(set(labels)))}
    if len(place) < 2:
        raise ValueError(f"`clusters` has {len(place)}; how much clusters differ takes at least two")
    return np.array([place[label] for label in labels])


def count(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An integer of at least `low` and at most `high`; ValueError else."""
    if not is_integer(value) or value < low or high is not None and value > high:
        upwards = "or more" if high is None else f"to {high}"
        raise ValueError(f"`{name}` is {value!r}; it must be an integer of {low} {upwards}")
    return int(value)


def share(name: str, value: Any, low: float = 0.0) -> float:
    """A number between `low` and 1, neither of them; ValueError else."""
    if not is_number(value) or not low < value < 1:
        raise ValueError(f"`{name}` is {value!r}; it must lie between {low:g} and 1")
    return float(value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
