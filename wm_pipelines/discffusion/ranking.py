"""Candidates of one item: how far each is from its best rival, and who can drop out early."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wm_pipelines.discffusion.timesteps import spread_order
from wm_pipelines.evaluation.statistics import paired_difference

LEAST, STRICTNESS = 8, 4.0


def standard_errors(scores: np.ndarray) -> np.ndarray:
    """Of the means over steps, `(...)`, of scores `(steps, ...)`; NaN for a single step."""
    if len(scores) < 2:
        return np.full(scores.shape[1:], np.nan)
    return scores.std(0, ddof=1) / len(scores) ** 0.5


def against_rivals(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each candidate the mean difference to its best rival `(M,)`, and the 95 % interval of it `(M, 2)`.

    Paired over steps, by Student's t; NaN where there is one step.

    Args:
        scores: `(steps, M)`, M of 2 or more.
    """
    steps, count = scores.shape
    means = scores.mean(0)
    differences, intervals = np.empty(count), np.full((count, 2), np.nan)
    for i in range(count):
        others = [j for j in range(count) if j != i]
        rival = max(others, key=lambda j: means[j])
        differences[i] = means[i] - means[rival]
        if steps > 1:
            found = paired_difference(scores[:, i], scores[:, rival])
            intervals[i] = found.low, found.high
    return differences, intervals


def rivals(scores: np.ndarray, lone: bool) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Differences to the best rival, and their intervals; None where there is none.

    Args:
        scores: `(n, images, texts)`, or `(n, B)`, of one item unless its pairs are `lone`.
    """
    if lone or max(scores.shape[1:]) == 1:
        return None, None
    if scores.ndim == 2:
        return against_rivals(scores)
    if scores.shape[2] == 1:
        differences, intervals = against_rivals(scores[:, :, 0])
        return differences[:, None], intervals[:, None]
    rows = [against_rivals(scores[:, i]) for i in range(scores.shape[1])]
    return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


@dataclass
class Race:
    """The result of `run_race`.

    Args:
        scores: `(steps, M)`, NaN where a candidate was not looked at any more.
        seen: steps that each was looked at. order: candidates from best to worst.
    """

    scores: np.ndarray
    seen: np.ndarray
    order: list[int]


def run_race(
    look: Callable[[int, list[int]], Sequence[float]],
    steps: int,
    candidates: int,
    least: int = LEAST,
    strictness: float = STRICTNESS,
) -> Race:
    """Successive elimination: a candidate that the best one so far beats beyond doubt is looked at no more.

    After k of n steps, taken in an order whose every beginning is spread over the schedule, a candidate goes where the
    mean of its paired differences to the leader, plus `strictness` standard errors, is below 0. The steps are a sample
    without replacement from the n of the full run, so the error has the factor √(1 - k/n) (our design, after the
    adaptive evaluation of Diffusion Classifier, arXiv 2303.16203).

    Args:
        look: (step, candidates that are left) -> a score for each.
        least: steps before the first may go.
    """
    scores = np.full((steps, candidates), np.nan)
    left, gone = list(range(candidates)), []
    for k, step in enumerate(spread_order(steps), 1):
        scores[step, left] = look(step, left)
        if k < least:
            continue
        seen = scores[~np.isnan(scores[:, left[0]])][:, left]
        leader = int(seen.mean(0).argmax())
        behind = seen - seen[:, leader : leader + 1]
        error = behind.std(0, ddof=1) * ((1 - k / steps) / k) ** 0.5 if k > 1 else np.full(len(left), np.inf)
        out = behind.mean(0) + strictness * error < 0
        gone += [left[n] for n in sorted(np.flatnonzero(out), key=lambda n: behind[:, n].mean())]
        left = [c for c, dropped in zip(left, out, strict=True) if not dropped]
        if len(left) == 1 and candidates > 1:
            break
    means = np.nanmean(scores, 0)
    order = sorted(left, key=lambda c: -means[c]) + gone[::-1]
    return Race(scores, (~np.isnan(scores)).sum(0), order)
