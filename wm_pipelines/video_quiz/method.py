"""The door of the miniature world's video-language model."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record

USAGE = """\
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("<this repository or its folder>")
processor = AutoProcessor.from_pretrained("<this repository or its folder>")"""


class DioramaVLMConfig(Record):
    """What the model was shown; its architecture is in its `config.json`."""

    image_size: int = Field(64, ge=8, description="side in pixels of a frame")
    frames: int = Field(8, ge=1, description="of a clip, given as so many pictures in the order of time")
    sources: list[Literal["real", "synthetic", "pictures"]] = Field(
        default_factory=list, description="what it was trained on"
    )
    blind: bool = Field(False, description="trained on the same texts with no picture")


def _record(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.video_quiz.words import vocabulary

    settings = {
        "image_size": options.get("size", 64),
        "sources": options.get("sources", ["real", "synthetic", "pictures"]),
        "blind": options.get("blind", False),
    }
    return {"method_config": settings, "vocabulary": list(vocabulary())}


METHODS = (
    Method(
        name="diorama-vlm",
        title="diorama-vlm",
        hub_task="image-text-to-text",
        about=(
            "A small video-language model (LLaVA in a tiny configuration), trained on multiple-choice questions about "
            "clips of a miniature world: a few coloured solids that move on a floor. It is there to try evaluations "
            "with, and it knows nothing else."
        ),
        settings=DioramaVLMConfig,
        usage=USAGE,
        library="transformers",
        tasks={"diorama-vlm": "wm_pipelines.video_quiz.training.DioramaVLMTask"},
        record=_record,
    ),
)
