"""The door of KAdaptation (arXiv 2203.16329)."""

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class KAdaptationConfig(Record):
    """What a fitted classifier was asked; classes and head are in its `config.json`, the adapter in PEFT's file."""

    image_size: int = Field(224, ge=8, description="side in pixels that the base reads")
    templates: list[str] = Field(default_factory=list, description="sentences that the head started from")


METHODS = (
    Method(
        name="kadaptation",
        title="KAdaptation",
        hub_task="image-classification",
        about=(
            "A few-shot classifier: a Kronecker adapter on the query and value projections of a frozen CLIP image "
            "tower, and a head that started from the names of its classes. It was fitted to a handful of pictures a "
            "class."
        ),
        settings=KAdaptationConfig,
        paper="arXiv:2203.16329",
        pipeline="wm_pipelines.kadaptation.pipeline.KAdaptationPipeline",
    ),
)
