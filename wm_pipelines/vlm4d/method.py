"""The door of VLM4D (arXiv 2508.02095)."""

from typing import Literal

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class VLM4DConfig(Record):
    """How a model is asked."""

    layout: Literal["images", "grid", "video"] = Field("images", description="how frames are given")
    num_frames: int = Field(8, ge=1, description="frames of a clip that are shown")


METHODS = (
    Method(
        name="vlm4d",
        title="VLM4D",
        hub_task="video-text-to-text",
        about=(
            "Whether a video-language model reads motion: multiple choice about translation, rotation, counting "
            "and what is not there, in real and synthetic clips. Scores come with intervals, and with what they are "
            "blind, on shuffled frames, and on mirrored and reversed clips."
        ),
        settings=VLM4DConfig,
        paper="arXiv:2508.02095",
        pipeline="wm_pipelines.vlm4d.pipeline.VLM4DPipeline",
    ),
)
