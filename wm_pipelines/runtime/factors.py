"""Factors over the steps of a sampling, as a user writes them: at equally spaced times, linear between."""

from collections.abc import Sequence

import numpy as np


def checked_factors(factors: object, name: str) -> tuple[float, ...]:
    """The factors as they came, from 0 to 1.

    Args:
        name: of the argument, for the message.

    Raises:
        ValueError: no list, an empty one, or something that is no number from 0 to 1.
    """
    listed = isinstance(factors, Sequence) and not isinstance(factors, str | bytes)
    values = [None if isinstance(value, bool) else value for value in factors] if listed else []
    if not values or not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
        raise ValueError(f"{name} must be a list of factors from 0 to 1, got {factors!r}")
    return tuple(float(value) for value in values)


def factor_at(factors: Sequence[float], step: int, steps: int) -> float:
    """The factor at `step` (0-based) of `steps`: the first at the first step, the last at the last."""
    at = step / (steps - 1) if steps > 1 else 0.0
    return float(np.interp(at, np.linspace(0, 1, len(factors)), factors))
