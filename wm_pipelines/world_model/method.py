"""The doors of the world model (arXiv 2506.06006) and of the miniature world's base for both directions."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from wm_pipelines.dynamics.method import tuned
from wm_pipelines.methods import Method
from wm_pipelines.record import Record

PIPELINE = "wm_pipelines.world_model.pipeline.WorldModelPipeline"


class WorldModelConfig(Record):
    """What the world model was tuned with, and how it is best asked."""

    tuning: Literal["lora", "full"] = Field("lora", description="what was trained")
    alpha: float = Field(0.8, ge=0, le=1, description="share of the loss's weight that every place gets; 1: plain")
    temperature: float = Field(1.0, ge=0, description="recommended")
    num_candidates: int = Field(4, ge=1, description="recommended, with a dynamics model that picks")


class DioramaWorldConfig(Record):
    """What pictures the base takes; its architecture is in its `config.json` files."""

    image_size: int = Field(64, ge=8, description="side in pixels")


def _record(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    tuning, base = tuned(options)
    return {"method_config": {"tuning": tuning, "alpha": options.get("alpha", 0.8)}, **base}


def _base(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.diorama.words import VOCABULARY

    return {"method_config": {"image_size": 64}, "vocabulary": list(VOCABULARY)}


METHODS = (
    Method(
        name="world-model",
        title="World model",
        hub_task="image-to-image",
        about=(
            "A picture and an action in words to the next picture. It draws several candidates, drops near copies of "
            "the source, and takes the one in which a dynamics model sees the action."
        ),
        settings=WorldModelConfig,
        paper="arXiv:2506.06006",
        pipeline=PIPELINE,
        tasks={"world-model": "wm_pipelines.world_model.training.WorldModelTask"},
        record=_record,
    ),
    Method(
        name="diorama-world",
        title="diorama-world",
        hub_task="image-to-image",
        about=(
            "A small causal language model over words and the codes of pictures, trained on pairs of rendered scenes "
            "of a miniature world without the action between them. World and dynamics models are tuned from it."
        ),
        settings=DioramaWorldConfig,
        pipeline=PIPELINE,
        tasks={"diorama-world": "wm_pipelines.world_model.base_training.DioramaWorldTask"},
        record=_base,
    ),
)
