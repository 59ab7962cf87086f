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

    def __post_init__(self) -> None:
        if self.tasks and self.record is None:
            raise ValueError(f"method {self.name!r} has training tasks and no record() of what they make")


def folders(file: str) -> dict[str, Path]:
    """Folders of the package that hold `file`, by name, sorted; none is imported."""
    return dict(_folders(file, tuple(import_module(__package__).__path__)))


@lru_cache(maxsize=32)
def _folders(file: str, path: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for module in pkgutil.iter_modules(path):
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
    """Every training task, and its `Task` class by dotted name.

    Raises:
        ValueError: two methods have a task of one name.
    """
    each = ((*method.stages.items(), *method.tasks.items()) for method in methods().values())
    found = [pair for pairs in each for pair in pairs]
    return _once(found, "training tasks are named")


def recipes() -> dict[str, Path]:
    """The recipe file that ships for each training task; no method is imported.

    Raises:
        ValueError: two folders have a recipe of one name.
    """
    found = [path for folder in folders("recipes").values() for path in (folder / "recipes").glob("*.yaml")]
    return _once(sorted((path.stem, path) for path in found), "recipes are named")


def pipelines() -> dict[str, str]:
    """Class names that a record may give as its `pipeline`, and where each class lives, by dotted name.

    Raises:
        ValueError: classes of two modules have one name.
    """
    dotted = {method.pipeline for method in methods().values() if method.pipeline is not None}
    return _once(sorted((name.rpartition(".")[2], name) for name in dotted), "pipeline classes are named")


def _once(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two {what} {twice!r}: {', '.join(str(value) for name, value in pairs if name == twice)}")
    return found


def load(dotted: str) -> Any:
    """The class or function of a dotted name."""
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)
