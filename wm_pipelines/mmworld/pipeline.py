"""MMWorld (arXiv 2406.08407) as a pipeline: questions about videos of seven disciplines."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.pipeline import VideoMCQOutput, VideoMCQPipeline
from wm_pipelines.evaluation.mcq.rows import Row
from wm_pipelines.evaluation.mcq.summary import headline
from wm_pipelines.mmworld.data import write_submission
from wm_pipelines.mmworld.metrics import vision_by_flags


class MMWorldPipeline(VideoMCQPipeline):
    """Asks a model the questions of MMWorld, with controls.

    One discipline has half of the questions, so the headline gives the mean over disciplines (macro) beside the score
    over all items: which of the two ranks models is a choice that the paper's table makes silently.
    `report["knowledge_by_flags"]` splits the score, and what the frames add to it, by whether a question needs
    knowledge of its domain and whether it can be answered without the video, as the annotators saw it.

    Args:
        model, processor, layout: as for `VideoMCQPipeline`.

    Example:
        ```py
        from wm_pipelines import MMWorldPipeline
        from wm_pipelines.mmworld.data import load_mmworld

        pipe = MMWorldPipeline.from_model("Qwen/Qwen2.5-VL-3B-Instruct", dtype="bfloat16")
        items = load_mmworld("mmworld.json", videos="videos")
        out = pipe(items, out="outputs/qwen")
        pipe.submit("outputs/qwen/submission.json", items, out)
        ```
    """

    def extended(self, report: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
        return report | {"knowledge_by_flags": vision_by_flags(rows)}

    def headline(self, report: dict[str, Any]) -> str:
        macro = report["macro"].get("discipline")
        return headline(report) + ("" if macro is None else f"; mean of disciplines {100 * macro:.1f} %")

    def submit(self, path: str | os.PathLike, items: Sequence[Item], output: VideoMCQOutput) -> Path:
        """Write the answers as the authors' server reads them; as `data.write_submission`."""
        letters = {item.uid: letter for item, letter in zip(items, output.answers, strict=True)}
        return write_submission(path, items, letters)
