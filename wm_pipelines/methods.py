"""The methods that the house holds: each folder's `method.py` is its door, and everything generic reads that.

The record schema, `AutoWMPipeline`, cards, sealing, `wm train` and `wm run` know methods by what is found here. A
door is light: it imports neither torch nor diffusers, and names what is heavy by dotted name.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wm_pipelines.record import Record

AUTO_USAGE = """\
from wm_pipelines import AutoWMPipeline

pipe = AutoWMPipeline.from_pretrained("<this repository or its folder>")"""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What the house knows of a method, or of a base, without loading it.

    Args:
        name: `method` in a checkpoint's record.
        title: of its card.
        about: what it is, in two sentences.
        hub_task: its task on the Hub, such as "text-to-image".
        settings: type of `method_config` in the record.
        usage: lines of Python that load a checkpoint, for the card.
        library: what loads a checkpoint as it is, "diffusers" or "transformers"; else this package.
        paper: arXiv identifier or address of the work.
        pipeline: class that loads a checkpoint, by dotted name; None for a bare module.
        tasks: training task -> `Task` class by dotted name. Each has a recipe of its name in the folder's `recipes/`.
        stages: likewise, tasks that other runs stand on (a VAE); no checkpoint is made of one alone.
        record: `record(task, options)` gives what a record says beside name, pipeline, paper and training of a
            checkpoint trained by `task` with the recipe's `options`: `method_config`, `base_model`, `vocabulary`.
    """

    name: str
    title: str
    about: str
    hub_task: str
    settings: "type[Record]"
    usage: str = AUTO_USAGE
    library: str = "wm-pipelines"
    paper: str | None = None
    pipeline: str | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    record: Callable[[str, Mapping[str, Any]], dict[str, Any]] | None = None


def folders(file: str) -> dict[str, Path]:
    """Folders of the package that hold `file`, by name, sorted; none is imported."""
    found = {}
    for module in pkgutil.iter_modules(import_module(__package__).__path__):
        folder = Path(module.module_finder.path) / module.name
        if module.ispkg and (folder / file).exists():
            found[module.name] = folder
    return dict(sorted(found.items()))


def methods() -> dict[str, Method]:
    """All methods by name.

    Raises:
        ValueError: two doors give one name.
    """
    return dict(_methods(tuple(folders("method.py"))))


@lru_cache(maxsize=8)
def _methods(names: tuple[str, ...]) -> dict[str, Method]:
    found: dict[str, Method] = {}
    for name in names:
        for method in import_module(f"{__package__}.{name}.method").METHODS:
            if method.name in found:
                raise ValueError(f"two methods are named {method.name!r}; one is in {name}/method.py")
            found[method.name] = method
    return found


def tasks() -> dict[str, str]:
    """Every training task, and its `Task` class by dotted name."""
    found = [{**method.stages, **method.tasks} for method in methods().values()]
    return {task: dotted for each in found for task, dotted in each.items()}


def recipes() -> dict[str, Path]:
    """The recipe file that ships for each training task; no method is imported."""
    found = (path for folder in folders("recipes").values() for path in (folder / "recipes").glob("*.yaml"))
    return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}


def pipelines() -> dict[str, str]:
    """Class names that a record may give as its `pipeline`, and where each class lives, by dotted name."""
    dotted = (method.pipeline for method in methods().values() if method.pipeline is not None)
    return {name.rpartition(".")[2]: name for name in dotted}


def load(dotted: str) -> Any:
    """The class or function of a dotted name."""
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)
