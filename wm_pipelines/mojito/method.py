"""The doors of Mojito (arXiv 2412.08948): its video base, and the intensity model for a base of one's own."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class GuidanceConfig(Record):
    """Defaults of directional motion control for one base, chosen on validation prompts."""

    eta: float = Field(30.0, ge=0, description="step size")
    iterations: int = Field(5, ge=0, description="updates of the latent a guided step, at most")
    fraction: float = Field(0.2, ge=0, le=1, description="share of the steps, from the first, that are guided")
    threshold: float = Field(0.2, ge=0, le=1, description="energy a frame below which a step is left")
    taps: list[str] | None = Field(None, description="blocks whose attention is read; None: by the base's family")
    trailing_tokens: int = Field(
        0, ge=0, description="text positions from the end of text on that are guided with the phrase of a lone object"
    )


class MojitoConfig(Record):
    """Clips that a motion adapter was trained on, and how it is best steered."""

    image_size: int = Field(64, ge=8, description="side in pixels")
    num_frames: int = Field(16, ge=1)
    guidance_scale: float = Field(7.5, ge=1, description="recommended classifier-free guidance")
    num_inference_steps: int = Field(50, ge=1)
    guidance: GuidanceConfig | None = None
    shared_noise: float = Field(
        0.0, ge=0, lt=1, description="share of the noise's variance that all frames of a clip have in common"
    )


def _diorama_video(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.hub import store

    settings = {"image_size": 64, "num_frames": 16, "guidance_scale": 4.0, "num_inference_steps": 20}
    # by `mojito_dmc.py --tune`; ten iterations are a little better and cost twice as much
    taps = ["up_blocks.1", "up_blocks.2"]
    settings["guidance"] = {"eta": 30.0, "iterations": 5, "fraction": 0.2, "threshold": 0.2, "taps": taps}
    settings["shared_noise"] = options.get("shared_noise", 0.0)
    return {"base_model": store.base_ref("diorama-sd"), "method_config": settings}


def _mojito(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.hub import store
    from wm_pipelines.mojito.training.folder import FolderTask

    options = {**FolderTask.defaults, **options}
    settings = {"image_size": options["size"], "num_frames": options["frames"]}
    settings["shared_noise"] = options["shared_noise"]
    return {"base_model": store.base_ref(options["base"]), "method_config": settings}


METHODS = (
    Method(
        name="diorama-video",
        title="diorama-video",
        hub_task="text-to-video",
        about=(
            "A motion adapter over diorama-sd and a modulator of motion intensity: clips of 16 frames of a miniature "
            "world in which a few coloured solids move. Its objects can be sent along boxes and paths without "
            "training, and how much moves has a dial."
        ),
        settings=MojitoConfig,
        paper="arXiv:2412.08948",
        pipeline="wm_pipelines.mojito.pipeline.MojitoPipeline",
        tasks={"diorama-video": "wm_pipelines.mojito.training.scenes.SceneTask"},
        record=_diorama_video,
    ),
    Method(
        name="mojito",
        title="Mojito",
        hub_task="text-to-video",
        about=(
            "A modulator of motion intensity for a frozen text-to-video base: a dial from 0 to 10, measured by "
            "optical flow, trained on a folder of clips."
        ),
        settings=MojitoConfig,
        paper="arXiv:2412.08948",
        pipeline="wm_pipelines.mojito.pipeline.MojitoPipeline",
        tasks={"mojito": "wm_pipelines.mojito.training.folder.FolderTask"},
        record=_mojito,
    ),
)
