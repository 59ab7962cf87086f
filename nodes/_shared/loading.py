"""Which nodes there are: each module of `nodes/` names its own in `NODES`, and no list anywhere names the modules."""

import logging
import pkgutil
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

FAILED: dict[str, str] = {}
"""Nodes that could not be imported, with the reason; WM_Doctor shows it."""

log = logging.getLogger("wm_pipelines.nodes")


def collect(package: str, path: Iterable[str]) -> tuple[type, ...]:
    """The `NODES` of the modules and folders of a package, in the order of their names.

    One that can't be imported is logged and left out, the others stay. A folder collects those of its own modules, so
    that this holds for each of them. Names that begin with `_` are not looked into.

    Args:
        package, path: the package's `__name__` and `__path__`.
    """
    nodes: list[type] = []
    for found in pkgutil.iter_modules(path):
        if found.name.startswith("_"):
            continue
        try:
            nodes += import_module(f"{package}.{found.name}").NODES
        except Exception as error:
            lost = _declared(found) or [f"{package}.{found.name}".rpartition("nodes.")[2]]
            FAILED.update(dict.fromkeys(lost, f"{type(error).__name__}: {error}"))
            log.exception("%s: not available", ", ".join(lost))
    return tuple(nodes)


def _declared(found: pkgutil.ModuleInfo) -> list[str]:
    """Ids of the nodes that a module would define, by its text."""
    spec = found.module_finder.find_spec(found.name)
    text = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
    return re.findall(r"""\bnode_id=["'](\w+)["']""", text)
