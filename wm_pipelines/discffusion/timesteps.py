"""Which timesteps a score looks at, and in which order where candidates may drop out."""

from collections.abc import Sequence

EDGE = 10  # of the schedule, which the authors leave out at both ends


def released_timesteps(n: int, train: int = 1000) -> list[int]:
    """The authors' table: indices 10, 10 + rate, ... below train - 10 into train-1 .. 0, where rate = int(train / n).

    Ascending. It may hold fewer or more than `n`: 49 for 50, 196 for 200.

    Args:
        train: timesteps of the schedule.

    Raises:
        ValueError: `n` is no integer from 1 to `train`, or the schedule is all edge.
    """
    if type(n) is not int or not 1 <= n <= train:
        raise ValueError(f"`timesteps` is {n!r}; it must be an integer from 1 to {train}, or a list of timesteps")
    if train <= 2 * EDGE:
        raise ValueError(
            f"`timesteps` is {n}, but the authors' table leaves out {EDGE} timesteps at either end, and this schedule "
            f"has {train}; give a list of timesteps from 0 to {train - 1}"
        )
    return sorted(train - 1 - i for i in range(EDGE, train - EDGE, int(train / n)))


def read_timesteps(given: int | Sequence[int], train: int) -> list[int]:
    """The timesteps of a call: the authors' table for a number, else those given, ascending.

    Raises:
        ValueError: as `released_timesteps`; an empty list, one with repeats, or a timestep outside the schedule.
    """
    if isinstance(given, int) or not isinstance(given, Sequence | range) or isinstance(given, str):
        return released_timesteps(given, train)
    for t in given:
        if type(t) is not int or not 0 <= t < train:
            raise ValueError(f"`timesteps` has {t!r}; each must be an integer from 0 to {train - 1}")
    if not given or len(set(given)) < len(given):
        raise ValueError(f"`timesteps` must be a non-empty list without repeats, got {list(given)}")
    return sorted(given)


def spread_order(n: int) -> list[int]:
    """0 to n - 1 so that every beginning is spread over the whole: sorted by the bits of the index, read backwards."""
    bits = max(1, (n - 1).bit_length())
    return sorted(range(n), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
