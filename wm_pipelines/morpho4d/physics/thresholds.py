"""What valid clips reach: 95th percentiles over simulated clips, by `benchmarks/morpho4d_physics.py`.

`thresholds` are of each term and, as `overall`, of the largest term over its threshold. Clips were 64 x 64 and
32 x 32, 16 frames at 8 a second; other footage should be calibrated on its own valid clips: `calibrate`.
"""

from collections.abc import Iterable, Mapping

import numpy as np

LIFTED = {
    64: {
        **{"presence": 0.183, "volume": 0.4289, "momentum": 0.25, "penetration": 0.3825, "support": 0.1},
        **{"energy": 0.15, "agreement": 0.9, "overall": 1.3526},
    },
    32: {
        **{"presence": 0.2015, "volume": 0.4012, "momentum": 0.25, "penetration": 0.0995, "support": 0.1},
        **{"energy": 0.15, "agreement": 0.9, "overall": 1.7739},
    },
}
"""By the height of the pictures, pixels; of 200 clips."""
FITTED = {
    **{"rigidity": 0.1012, "strain": 0.211, "presence": 0.3453, "volume": 0.05, "momentum": 1.1303, "spin": 0.2108},
    **{"penetration": 0.7338, "support": 0.2406, "balance": 0.1812, "energy": 0.15, "agreement": 0.9},
    "overall": 1.5679,
}
"""Of scenes in time: of 24 fits of simulated clips, four cameras, 64 x 64, 300 steps; spin of 6, balance of 12."""
UNJUDGED = ("agreement",)
"""No part of the verdict, which must not depend on what is installed."""
LEAST = {"rigidity": 0.01, "momentum": 0.25, "spin": 0.1, "support": 0.1, "energy": 0.15}
"""Thresholds are no lower, lest what is never there in valid clips weighs without end; of the other terms 0.05. Of
energy: what 0.03 radii a frame make of a body at 4 m/s."""


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
