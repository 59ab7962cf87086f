"""Whatever draws the next picture, by name: a world model, or an editor of diffusers with or without a record."""

from typing import Any

import diffusers

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME
from wm_pipelines.hub.stock import load_pipeline
from wm_pipelines.pipeline import MODEL_INDEX, AutoWMPipeline
from wm_pipelines.runtime.readers import read_json
from wm_pipelines.world_model.editors import EDITORS
from wm_pipelines.world_model.pipeline import WorldModelPipeline

OURS = WorldModelPipeline.__name__


def load_drawing(name: str, base: str | None = None) -> Any:
    """The pipeline of a folder, an embedded name or a Hub id.

    Args:
        base: where its base is, if not as its record says.

    Raises:
        ValueError: a name that leads nowhere, or a pipeline that draws no next picture.
    """
    folder = hub.resolve(name)
    if (folder / CONFIG_NAME).is_file():
        found = AutoWMPipeline.from_pretrained(name, base=base)
        _check(name, type(found).__name__)
        return found
    if base is not None:
        raise ValueError(f"model {name!r} has no record, so it is whole and takes no base, got base={base!r}")
    index = read_json(folder / MODEL_INDEX)
    kind = index.get("_class_name") if isinstance(index, dict) else None
    _check(name, kind)
    if kind == OURS:
        return WorldModelPipeline.from_pretrained(folder)
    hub.check_weights(folder)
    return load_pipeline(getattr(diffusers, kind), folder)


def _check(name: str, kind: Any) -> None:
    if kind != OURS and kind not in EDITORS:
        raise ValueError(f"model {name!r} is a {kind}; known are {OURS}, {', '.join(EDITORS)}")
