"""VLM4D (arXiv 2508.02095) as a pipeline: whether a model reads motion in real and synthetic clips."""

from collections.abc import Sequence
from typing import Any

from wm_pipelines.evaluation.mcq.pipeline import VideoMCQPipeline
from wm_pipelines.evaluation.mcq.rows import Row

COLUMNS = {
    "ego": ("facet", "ego"),
    "exo": ("facet", "exo"),
    "real": ("subset", "real"),
    "directional": ("facet", "directional"),
    "false positive": ("facet", "false positive"),
    "synthetic": ("subset", "synthetic"),
}
"""Columns of the paper's table 1, and the group of items that each is over."""


class VLM4DPipeline(VideoMCQPipeline):
    """Asks a model the questions of VLM4D, with the controls that the benchmark lacks.

    `report["columns"]` has the columns of the paper's table 1, each with its interval. The headline is the score over
    all items and, with the control "mirror", how often the clip and its mirror image are both answered rightly: a
    model that guesses from the text alone gives both the same answer.

    Args:
        model, processor, layout: as for `VideoMCQPipeline`.

    Example:
        ```py
        from wm_pipelines import VLM4DPipeline
        from wm_pipelines.vlm4d.data import load_vlm4d

        pipe = VLM4DPipeline.from_model("HuggingFaceTB/SmolVLM2-256M-Video-Instruct")
        out = pipe(load_vlm4d("VLM4D"), controls=("blind", "mirror"), unfit="skip", out="outputs/smolvlm2")
        print(out.headline)
        ```
    """

    def extended(self, report: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
        groups = report["groups"]
        found = {name: groups.get(group, {}).get(value) for name, (group, value) in COLUMNS.items()}
        return report | {"columns": {name: figure for name, figure in found.items() if figure}}
