"""Whether a model prefers a letter: what it said against what was right, letter by letter."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from wm_pipelines.evaluation.mcq.rows import Row


class PositionBias(NamedTuple):
    """Letters as they were shown, of the replies that name one.

    Args:
        said, right: letter -> share of the items. recall: letter -> how often it was said where it is right.
        spread: standard deviation of the recalls (RStd; Zheng et al., 2309.03882), 0 for no preference.
        p: of chi-square, that the letters said are as frequent as those that are right; None for too few letters.
        n: items, unanswered ones left out.
    """

    said: dict[str, float]
    right: dict[str, float]
    recall: dict[str, float]
    spread: float
    p: float | None
    n: int


def position_bias(rows: Iterable[Row]) -> PositionBias:
    """The bias of rows, which all have as many options.

    Raises:
        ValueError: no answered row, or rows with different numbers of options.
    """
    rows = [row for row in rows if row.answered]
    sizes = {row.options for row in rows}
    if len(sizes) != 1:
        raise ValueError(f"`rows` have {sorted(sizes)} options; they must be some, and all have as many")
    letters = sorted({row.shown(letter) for row in rows for letter in row.right})
    gold = [row.shown(row.right[0]) for row in rows]
    said = [row.said for row in rows]
    letters = sorted({*letters, *(letter for letter in said if letter)})
    recall = {
        letter: sum(row.correct for row, g in zip(rows, gold, strict=True) if g == letter) / gold.count(letter)
        for letter in letters
        if letter in gold
    }
    counts = np.array([[said.count(letter), gold.count(letter)] for letter in letters], dtype=float)
    return PositionBias(
        said={letter: said.count(letter) / len(rows) for letter in letters},
        right={letter: gold.count(letter) / len(rows) for letter in letters},
        recall=recall, spread=float(np.std(list(recall.values()))), p=_chi_square(counts), n=len(rows),
    )  # fmt: skip


def _chi_square(counts: np.ndarray) -> float | None:
    """Pearson's test of two rows of counts over the letters."""
    from scipy.special import chdtrc

    if len(counts) < 2 or not counts.sum(axis=0).all():
        return None
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    return float(chdtrc(len(counts) - 1, (np.square(counts - expected) / expected).sum()))
