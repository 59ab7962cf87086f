"""ComfyUI nodes of wm_pipelines (V3 schema). Thin: they translate sockets to the library's calls and back.

A module or folder here is picked up by being here: it names its node classes in `NODES`. See `_shared/loading.py`.
"""

import json
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

from ._shared.loading import collect

log = logging.getLogger("wm_pipelines.nodes")


@cache
def load_nodes() -> tuple[type, ...]:
    """The node classes that can be imported; `loading.FAILED` then says which can't, and why.

    In the order of the generated `node_list.json`, in which menus show them; nodes that are new come last.
    """
    listed = Path(__file__).parent.parent / "node_list.json"
    ids = list(json.loads(listed.read_text(encoding="utf-8"))) if listed.is_file() else []
    place = {node_id: index for index, node_id in enumerate(ids)}
    return tuple(sorted(collect(__name__, __path__), key=lambda node: place.get(node.__name__, len(ids))))


def version_mismatch() -> str | None:
    """A sentence when an installed wm_pipelines is of another version than the folder these nodes lie in."""
    import wm_pipelines

    beside = Path(__file__).parent.parent / "wm_pipelines" / "runtime" / "version.py"
    if not beside.is_file():
        return None
    match = re.search(r'^__version__ = "([^"]+)"', beside.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None or match[1] == wm_pipelines.__version__:
        return None
    return f"wm_pipelines {wm_pipelines.__version__} is installed, but these nodes come with {match[1]}; update one"


async def comfy_entrypoint() -> Any:
    """Called once by ComfyUI; returns the extension."""
    from comfy_api.latest import ComfyExtension

    from ._shared import folders, routes
    from ._shared.notes import with_notes

    class WMExtension(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            return [with_notes(node) for node in load_nodes()]

    mismatch = version_mismatch()
    if mismatch:
        log.warning(mismatch)
    folders.register()
    routes.register()
    return WMExtension()
