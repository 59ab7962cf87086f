"""The door of the dynamics model (arXiv 2506.06006)."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class DynamicsModelConfig(Record):
    """What the dynamics model was tuned with; rank and targets are in its `adapter_config.json`."""

    tuning: Literal["lora", "full"] = Field("lora", description="what was trained")


def tuned(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a run's options say was trained, and the part of its record that names the base; none where all weights
    were trained, for then the checkpoint stands alone."""
    from wm_pipelines.hub import store

    if options.get("rank", 16) == 0:
        return "full", {}
    return "lora", {"base_model": store.base_ref(options.get("base", "diorama-world"))}


def _record(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    tuning, base = tuned(options)
    return {"method_config": {"tuning": tuning}, **base}


METHODS = (
    Method(
        name="dynamics",
        title="Dynamics model",
        hub_task="image-to-text",
        about=(
            "Two pictures to the action that leads from one to the other, in words, and the likelihood of a given "
            "action. It labels video for a world model and picks the best of what that one draws."
        ),
        settings=DynamicsModelConfig,
        paper="arXiv:2506.06006",
        pipeline="wm_pipelines.dynamics.pipeline.DynamicsModelPipeline",
        tasks={"dynamics": "wm_pipelines.dynamics.training.DynamicsTask"},
        record=_record,
    ),
)
