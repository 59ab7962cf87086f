"""The doors of the world model (arXiv 2506.06006) and of the miniature world's base for both directions."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from wm_pipelines.dynamics.method import tuned
from wm_pipelines.methods import Method
from wm_pipelines.record import Record

PIPELINE = "wm_pipelines.world_model.pipeline.WorldModelPipeline"
EDITOR_BASE = "diorama-sd"
EDITOR_USAGE = """\
from diffusers import StableDiffusionInstructPix2PixPipeline

pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained("<this repository or its folder>")
after = pipe("move the red cube to the left", image=before).images[0]"""


class WorldModelConfig(Record):
    """What the world model was tuned with, and how it is best asked."""

    tuning: Literal["lora", "full"] = Field("lora", description="what was trained")
    alpha: float = Field(0.8, ge=0, le=1, description="share of the loss's weight that every place gets; 1: plain")
    temperature: float = Field(1.0, ge=0, description="recommended")
    num_candidates: int = Field(4, ge=1, description="recommended, with a dynamics model that picks")


class WorldEditorConfig(Record):
    """What the editor was tuned with, and how it is best asked."""

    alpha: float = Field(0.8, ge=0, le=1, description="share of the loss's weight that every place gets; 1: plain")
    guidance_scale: float = Field(7.5, ge=1, description="recommended, of the words")
    image_guidance_scale: float = Field(1.5, ge=1, description="recommended, of the source")


class DioramaWorldConfig(Record):
    """What pictures the base takes; its architecture is in its `config.json` files."""

    image_size: int = Field(64, ge=8, description="side in pixels")


def _record(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    tuning, base = tuned(options)
    return {"method_config": {"tuning": tuning, "alpha": options.get("alpha", 0.8)}, **base}


def _base(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.diorama.words import VOCABULARY

    return {"method_config": {"image_size": 64}, "vocabulary": list(VOCABULARY)}


def _editor(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.diorama.words import VOCABULARY

    closed = {"vocabulary": list(VOCABULARY)} if options.get("base", EDITOR_BASE) == EDITOR_BASE else {}
    return {"method_config": {"alpha": options.get("alpha", 0.8)}, **closed}


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
    Method(
        name="world-editor",
        title="World model that edits by diffusion",
        hub_task="image-to-image",
        about=(
            "An editor of InstructPix2Pix's shape, tuned on pairs of pictures with the action between them; what "
            "changed weighs more. It draws the next picture, and a dynamics model can pick among its candidates."
        ),
        settings=WorldEditorConfig,
        usage=EDITOR_USAGE,
        library="diffusers",
        paper="arXiv:2506.06006",
        pipeline="diffusers.StableDiffusionInstructPix2PixPipeline",
        tasks={"world-editor": "wm_pipelines.world_model.editor_training.EditorTask"},
        record=_editor,
    ),
)
