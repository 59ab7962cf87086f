"""The door of MMWorld (arXiv 2406.08407)."""

from typing import Literal

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class MMWorldConfig(Record):
    """How a model is asked."""

    layout: Literal["images", "grid", "video"] = Field("images", description="how frames are given")
    num_frames: int = Field(8, ge=1, description="frames of a video that are shown")


METHODS = (
    Method(
        name="mmworld",
        title="MMWorld",
        hub_task="video-text-to-text",
        about=(
            "What a video-language model understands of videos from seven disciplines: explanation, what-if, "
            "prediction, expertise. Scores come with intervals over videos, per discipline and facet, as the mean "
            "over disciplines beside that over questions, and with what they are blind."
        ),
        settings=MMWorldConfig,
        paper="arXiv:2406.08407",
        pipeline="wm_pipelines.mmworld.pipeline.MMWorldPipeline",
    ),
)
