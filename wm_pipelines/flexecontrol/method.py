"""The door of FlexEControl (arXiv 2405.04834)."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class FlexEControlConfig(Record):
    """Inference settings of a FlexEControl adapter; preset, ranks and types are in its `config.json`."""

    image_size: int = Field(64, ge=8)
    binding: Literal["attention", "none"] = "attention"
    map_convention: Literal["diorama", "uni-controlnet"] = Field(
        "diorama", description="polarity of the condition maps: Uni-ControlNet keeps sketches black on white"
    )
    guidance_scale: float = Field(7.5, ge=1)
    num_inference_steps: int = Field(50, ge=1)


def _record(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.hub import store

    if task.endswith("-folder"):
        from wm_pipelines.flexecontrol.training.folder import FOLDER_DEFAULTS

        options = {**FOLDER_DEFAULTS, **options}
        settings = {"image_size": options["size"]}
    else:
        from wm_pipelines.flexecontrol.training.scenes import SCENE_DEFAULTS

        options = {**SCENE_DEFAULTS, **options}
        settings = {"image_size": 64, "guidance_scale": 4.0, "num_inference_steps": 25}
    return {"base_model": store.base_ref(options["base"]), "method_config": settings}


METHODS = (
    Method(
        name="flexecontrol",
        title="FlexEControl",
        hub_task="text-to-image",
        about=(
            "One adapter that steers a frozen text-to-image model by any number of edge, line, sketch, pose, depth "
            "and segmentation maps, of different types or of the same type, each with its strength, region, window "
            "and phrase."
        ),
        settings=FlexEControlConfig,
        paper="arXiv:2405.04834",
        pipeline="wm_pipelines.flexecontrol.pipeline.FlexEControlPipeline",
        tasks={
            "flexecontrol": "wm_pipelines.flexecontrol.training.scenes.SceneTask",
            "flexecontrol-folder": "wm_pipelines.flexecontrol.training.folder.FolderTask",
            "flexecontrol-global": "wm_pipelines.flexecontrol.training.scenes.GlobalSceneTask",
            "flexecontrol-global-folder": "wm_pipelines.flexecontrol.training.folder.GlobalFolderTask",
        },
        record=_record,
    ),
)
