"""The door of Discffusion (arXiv 2305.10722)."""

from collections.abc import Mapping
from typing import Any

from wm_pipelines.discffusion.settings import DiscffusionConfig
from wm_pipelines.methods import Method


def _record(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.discffusion.scenes import DEFAULTS
    from wm_pipelines.hub import store

    options = {**DEFAULTS, **options}
    told = {name: options[name] for name in DiscffusionConfig.model_fields if name in options}
    return {"base_model": store.base_ref(options["base"]), "method_config": told}


METHODS = (
    Method(
        name="discffusion",
        title="Discffusion",
        hub_task="image-text-to-text",
        about=(
            "A LoRA on the attention of a frozen text-to-image model that makes it a judge: how well a picture and a "
            "caption go together, by its cross-attention and by how well it predicts noise. It was fitted to a few "
            "captions with pictures that fit and pictures or captions that do not."
        ),
        settings=DiscffusionConfig,
        paper="arXiv:2305.10722",
        pipeline="wm_pipelines.discffusion.pipeline.DiscffusionPipeline",
        tasks={"discffusion": "wm_pipelines.discffusion.scenes.SceneTask"},
        record=_record,
    ),
)
