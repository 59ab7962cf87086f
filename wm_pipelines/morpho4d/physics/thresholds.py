"""What valid clips reach: 95th percentiles over simulated clips, by `benchmarks/morpho4d_physics.py`.

`thresholds` are of each term and, as `overall`, of the largest term over its threshold. Clips were 64 x 64 and
32 x 32, 16 frames at 8 a second; other footage should be calibrated on its own valid clips: `calibrate`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

LIFTED = {
    64: {"presence": 0.3, "volume": 0.6, "momentum": 0.6, "penetration": 0.5, "support": 0.1, "energy": 1.0},
    32: {"presence": 0.3, "volume": 0.6, "momentum": 0.6, "penetration": 0.5, "support": 0.1, "energy": 1.0},
}
"""By the height of the pictures, pixels."""
FITTED = {"rigidity": 0.05, "presence": 0.5, "volume": 0.6, "momentum": 0.6, "penetration": 0.5, "support": 0.1}
LEAST = {"rigidity": 0.01, "presence": 0.05, "volume": 0.05, "momentum": 0.05, "penetration": 0.05, "support": 0.05}
"""Thresholds are no lower, lest what is never there in valid clips weighs without end."""


def lifted_thresholds(height: int) -> dict[str, float]:
    """Of clips whose pictures are so high: those of the nearest size, by its logarithm."""
    return LIFTED[min(LIFTED, key=lambda size: abs(np.log(size / height)))]


def calibrate(reports: Iterable[Any]) -> dict[str, float]:
    """Thresholds of what valid clips gave, for `thresholds=` of the next reports.

    Args:
        reports: `PhysicsReport`s of valid clips, 20 or more.

    Raises:
        ValueError: fewer.
    """
    scores: list[Mapping[str, float]] = [report.scores for report in reports]
    if len(scores) < 20:
        raise ValueError(f"`reports` are {len(scores)}; 20 or more are needed for a 95th percentile")
    found = {}
    for name in sorted({name for score in scores for name in score}):
        values = [score[name] for score in scores if name in score]
        found[name] = max(float(np.quantile(values, 0.95)), LEAST.get(name, 0.05))
    worst = [max(score[name] / found[name] for name in score) for score in scores]
    return found | {"overall": max(float(np.quantile(worst, 0.95)), 1.0)}
