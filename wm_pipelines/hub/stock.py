"""Parts of checkpoints, loaded in one place: weights as safetensors only, whatever else their folder holds."""

import os
from typing import Any, TypeVar

from wm_pipelines.runtime.quiet import leave_out_superfluous_lines

T = TypeVar("T")

leave_out_superfluous_lines()


def load_model(kind: type[T], folder: str | os.PathLike, subfolder: str | None = None, **kwargs: Any) -> T:
    """A model of a diffusers or transformers class.

    Args:
        kind: the class. folder: a local folder, as `hub.resolve` gives. subfolder: of a component in it.
        kwargs: passed to `from_pretrained`, for example `dtype`.

    Raises:
        ValueError: pickled weights were asked for.
        OSError: there are no safetensors.
    """
    return kind.from_pretrained(folder, **_inside(subfolder), **safetensors_only(kwargs))


def load_part(kind: type[T], folder: str | os.PathLike, subfolder: str | None = None, **kwargs: Any) -> T:
    """What has no weights: a tokenizer, scheduler, processor or configuration. Arguments as `load_model`."""
    return kind.from_pretrained(folder, **_inside(subfolder), **kwargs)


def safetensors_only(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a model's `from_pretrained`, with safetensors required.

    Raises:
        ValueError: pickled weights were asked for.
    """
    if not kwargs.get("use_safetensors", True):
        raise ValueError(
            f"use_safetensors={kwargs['use_safetensors']} is not allowed: pickled weights are never loaded"
        )
    return {**kwargs, "use_safetensors": True}


def _inside(subfolder: str | None) -> dict[str, str]:
    return {} if subfolder is None else {"subfolder": subfolder}
