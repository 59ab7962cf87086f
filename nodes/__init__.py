"""ComfyUI nodes of wm_pipelines (V3 schema). Thin: they translate sockets to the library's calls and back."""

import logging
import re
from importlib import import_module
from pathlib import Path
from typing import Any

NODES: dict[str, str] = {
    "WM_LoadPipeline": "pipelines",
    "WM_ExtractCondition": "conditions",
    "WM_Condition": "conditions",
    "WM_StackConditions": "conditions",
    "WM_SceneGraph": "scene_graph",
    "WM_FlexEControlSample": "flexecontrol",
    "WM_Doctor": "doctor",
    "WM_KroneckerApply": "kronecker",
    "WM_KAdaptationFit": "kadaptation",
    "WM_KAdaptationClassify": "kadaptation",
    "WM_CPLFit": "cpl",
    "WM_CPLClassify": "cpl",
    "WM_ComCLIPMatch": "comclip",
    "WM_Trajectory": "trajectory",
    "WM_TrajectoryFromTracks": "trajectory",
    "WM_TrajectoryPreview": "trajectory",
    "WM_MojitoSample": "mojito",
    "WM_MotionReport": "motion_report",
    "WM_MojitoApply": "mojito_apply",
}
"""Node id, which never changes, and the module here that defines the class of that name."""

FAILED: dict[str, str] = {}
"""Nodes that could not be imported, with the reason; WM_Doctor shows it."""

log = logging.getLogger("wm_pipelines.nodes")


def load_nodes() -> list[type]:
    """The node classes that can be imported; one that can't is logged and left out, the others stay."""
    classes = []
    for node_id, module in NODES.items():
        try:
            classes.append(getattr(import_module(f".{module}", __name__), node_id))
        except Exception as error:
            FAILED[node_id] = f"{type(error).__name__}: {error}"
            log.exception("%s is not available", node_id)
    return classes


def version_mismatch() -> str | None:
    """A sentence when an installed wm_pipelines is of another version than the folder these nodes lie in."""
    import wm_pipelines

    beside = Path(__file__).parent.parent / "wm_pipelines" / "__init__.py"
    if not beside.is_file():
        return None
    match = re.search(r'^__version__ = "([^"]+)"', beside.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None or match[1] == wm_pipelines.__version__:
        return None
    return f"wm_pipelines {wm_pipelines.__version__} is installed, but these nodes come with {match[1]}; update one"


async def comfy_entrypoint() -> Any:
    """Called once by ComfyUI; returns the extension."""
    from comfy_api.latest import ComfyExtension

    from .folders import register

    class WMExtension(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            return load_nodes()

    mismatch = version_mismatch()
    if mismatch:
        log.warning(mismatch)
    register()
    return WMExtension()
