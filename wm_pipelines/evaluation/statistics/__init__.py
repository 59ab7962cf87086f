"""How sure a figure is: intervals, errors over clusters, paired tests, calibration. Without torch."""

from wm_pipelines.evaluation.statistics.bootstrap import cluster_bootstrap, hierarchical, interval
from wm_pipelines.evaluation.statistics.calibration import (
    Bin,
    brier_score,
    expected_calibration_error,
    reliability_table,
)
from wm_pipelines.evaluation.statistics.means import Mean, clustered_mean, wilson
from wm_pipelines.evaluation.statistics.paired import (
    McNemar,
    detectable_gap,
    holm,
    mcnemar,
    mcnemar_p,
    paired_difference,
)

__all__ = [
    "Bin", "McNemar", "Mean", "brier_score", "cluster_bootstrap", "clustered_mean", "detectable_gap",
    "expected_calibration_error", "hierarchical", "holm", "interval", "mcnemar", "mcnemar_p", "paired_difference",
    "reliability_table", "wilson",
]  # fmt: skip
