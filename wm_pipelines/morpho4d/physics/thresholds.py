"""What valid clips reach: 95th percentiles over simulated clips, by `benchmarks/morpho4d_physics.py`.

`thresholds` are of each term and, as `overall`, of the largest term over its threshold. Clips were 64 x 64 and
32 x 32, 16 frames at 8 a second; other footage should be calibrated on its own valid clips: `calibrate`.
"""

from collections.abc import Iterable, Mapping

import numpy as np

LIFTED = {
    64: {
        **{"presence": 0.2004, "volume": 0.4518, "momentum": 0.25, "penetration": 0.5282, "support": 0.1},
        **{"energy": 0.2086, "overall": 1.2667},
    },
    32: {
        **{"presence": 0.2286, "volume": 0.6418, "momentum": 0.25, "penetration": 0.2381, "support": 0.1},
        **{"energy": 0.184, "overall": 1.2813},
    },
}
"""By the height of the pictures, pixels; of 26 clips."""
FITTED = {
    **{"rigidity": 0.05, "presence": 0.5, "volume": 0.6, "momentum": 0.6, "penetration": 0.5, "support": 0.1},
    "energy": 0.5,
}
"""Of scenes in time: not calibrated yet, chosen by hand."""
UNJUDGED = ("agreement",)
"""No part of the verdict, which must not depend on what is installed."""
LEAST = {"rigidity": 0.01, "momentum": 0.25, "spin": 0.1, "support": 0.1}
"""Thresholds are no lower, lest what is never there in valid clips weighs without end; of the other terms 0.05."""


def lifted_thresholds(height: int) -> dict[str, float]:
    """Of clips whose pictures are so high: those of the nearest size, by its logarithm."""
    return LIFTED[min(LIFTED, key=lambda size: abs(np.log(size / height)))]


def calibrate(valid: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Thresholds of what valid clips gave, for `thresholds=` of the next reports.

    Args:
        valid: `PhysicsReport.scores` of valid clips, 20 or more.

    Raises:
        ValueError: fewer.
    """
    scores = list(valid)
    if len(scores) < 20:
        raise ValueError(f"`valid` has {len(scores)}; 20 or more are needed for a 95th percentile")
    found = {}
    for name in sorted({name for score in scores for name in score}):
        values = [score[name] for score in scores if name in score]
        found[name] = max(float(np.quantile(values, 0.95)), LEAST.get(name, 0.05))
    worst = [max(score[name] / found[name] for name in score if name not in UNJUDGED) for score in scores]
    return found | {"overall": max(float(np.quantile(worst, 0.95)), 1.0)}
