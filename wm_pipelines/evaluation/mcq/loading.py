"""Items and models by name, so that other processes and machines can make them too (our design)."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.mcq.models import FunctionModel
from wm_pipelines.methods import load

_HERE = __package__
PYTHON = "python:"


@dataclass(frozen=True)
class Call:
    """A function by its dotted name, and its arguments as values of JSON."""

    function: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        return load(self.function)(**self.arguments)


def model_call(
    model: str,
    endpoint: str | None = None,
    layout: str = "images",
    device: str | None = None,
    dtype: str | None = None,
) -> Call:
    """What makes a model.

    Args:
        model: an embedded name, a folder or a Hub id; with `endpoint` the name that it has there; or
            "python:MODULE.FUNCTION", a function as `FunctionModel` takes it, importable from the working folder too.
        endpoint: address of an OpenAI-compatible endpoint, such as "http://localhost:8000/v1".
        layout, device, dtype: as for `load_vision_language`.

    Raises:
        ValueError: arguments that don't go together.
    """
    if endpoint is not None:
        if device or dtype:
            raise ValueError("`device` and `dtype` are of a model that runs here; leave them out with `endpoint`")
        return Call(f"{_HERE}.endpoint.EndpointModel", {"url": endpoint, "model": model, "layout": layout})
    if model.startswith(PYTHON):
        if device or dtype or layout != "images":
            raise ValueError("`layout`, `device` and `dtype` are of a checkpoint; leave them out with a function")
        return Call(f"{_HERE}.loading.named_function", {"dotted": model.removeprefix(PYTHON)})
    arguments = {"source": model, "layout": layout, "device": device, "dtype": dtype}
    return Call(f"{_HERE}.vision_language.load_vision_language", arguments)


def named_function(dotted: str) -> FunctionModel:
    """A function of the user's own, by its dotted name.

    Raises:
        ValueError: there is none.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return FunctionModel(load(dotted), dotted)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`model` is '{PYTHON}{dotted}', which can't be imported as a function: {error}") from None
