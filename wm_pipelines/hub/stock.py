"""Parts of checkpoints, loaded in one place: weights as safetensors only, whatever else their folder holds."""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from wm_pipelines.hub.checking import check_folder, translated
from wm_pipelines.runtime.quiet import leave_out_superfluous_lines

T = TypeVar("T")
CODE_OPTIONS = ("custom_pipeline", "custom_revision", "trust_remote_code", "use_onnx", "use_flashpack")

leave_out_superfluous_lines()


def load_model(kind: type[T], folder: str | os.PathLike, subfolder: str | None = None, **kwargs: Any) -> T:
    """A model of a diffusers or transformers class.

    Args:
        kind: the class. folder: a local folder, as `hub.resolve` gives. subfolder: of a component in it.
        kwargs: passed to `from_pretrained`, for example `dtype`; under `output_loading_info` it's for the caller to
            look at what was missing.

    Raises:
        ValueError: pickled weights were asked for, a file is damaged or says what no model can be, or weights of the
            model are not in it; both libraries would make some up, or leave them without values.
        OSError: there are no safetensors.
    """
    given = safetensors_only(kwargs)
    model, info = _load(kind, folder, subfolder, {**given, "output_loading_info": True})
    if given.get("output_loading_info"):  # the caller looks
        return model, info
    check_complete(info, os.path.join(folder, subfolder or ""))
    return model


def check_complete(info: Mapping[str, Any], folder: str | os.PathLike) -> None:
    """ValueError if, by a loader's `output_loading_info`, weights of the model were not in `folder`."""
    if lacking := sorted(info["missing_keys"]):
        raise ValueError(f"the weights in {folder} lack {', '.join(lacking[:8])}{', ...' * (len(lacking) > 8)}")


def load_pipeline(kind: type[T], folder: str | os.PathLike, **kwargs: Any) -> T:
    """A whole pipeline of diffusers, its weights from safetensors only; it says nothing of what its parts lack.
    Arguments and errors otherwise as `load_model`."""
    return _load(kind, folder, None, safetensors_only(kwargs))


def load_part(kind: type[T], folder: str | os.PathLike, subfolder: str | None = None, **kwargs: Any) -> T:
    """What has no weights: a tokenizer, scheduler, processor or configuration. Arguments as `load_model`.

    Raises:
        ValueError: code was asked for, or a file is damaged.
    """
    refuse_code(kwargs)
    return _load(kind, folder, subfolder, kwargs)


def _load(kind: type[T], folder: str | os.PathLike, subfolder: str | None, kwargs: dict[str, Any]) -> Any:
    inner = os.path.join(folder, subfolder or "")
    with translated(inner):
        if os.path.isdir(inner):
            check_folder(inner)
        return kind.from_pretrained(folder, **_inside(subfolder), **kwargs, **_no_code(kind))


def safetensors_only(kwargs: dict[str, Any], *, may_be_none: bool = False) -> dict[str, Any]:
    """Arguments of a model's `from_pretrained`, with safetensors required.

    Args:
        may_be_none: take `use_safetensors=None` as not given, which is how diffusers hands it on.

    Raises:
        ValueError: pickled weights or code were asked for.
    """
    refuse_code(kwargs)
    given = kwargs.get("use_safetensors", True)
    if not given and not (may_be_none and given is None):
        raise ValueError(f"use_safetensors={given} is not allowed: pickled weights are never loaded")
    return {**kwargs, "use_safetensors": True}


def refuse_code(kwargs: Mapping[str, Any]) -> None:
    """ValueError if arguments of a `from_pretrained` ask for code of a folder or repository, or for other formats."""
    for name in CODE_OPTIONS:
        if kwargs.get(name):
            raise ValueError(f"{name}={kwargs[name]!r} is not allowed: nothing downloaded is ever executed")


def _no_code(kind: type) -> dict[str, bool]:
    """An Auto class of transformers would ask on the terminal whether to run a folder's code: it is told."""
    asks = kind.__name__.startswith("Auto") and kind.__module__.startswith("transformers.")
    return {"trust_remote_code": False} if asks else {}


def _inside(subfolder: str | None) -> dict[str, str]:
    return {} if subfolder is None else {"subfolder": subfolder}
