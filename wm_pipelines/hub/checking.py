"""A checkpoint's folder before any library reads it, and what a library says about one, in our words.

Loaders of diffusers, transformers and PEFT trust what a configuration says. Here its files are read strictly first,
and bounded; whatever they still stumble over comes out as one `ValueError` that names the folder.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wm_pipelines.runtime.limits import limit
from wm_pipelines.runtime.readers import concise, located, parse_json, read_text
from wm_pipelines.runtime.tensors import check_safetensors

MAX_LAYERS = limit("LAYERS", 1000)
"""Layers, blocks or experts that a configuration may ask for in one number or list; they are made before weights are
read. The deepest published models have some 200."""

MAX_LENGTH = 10**31
"""Integers of a configuration lie below: transformers writes 10**30 for a tokenizer that knows no longest text."""

_LAYERS = re.compile(r"layers?|blocks?|depths?|experts|resnets?|stages?|channels", re.ASCII)
_WIDTHS = re.compile(r"channels|dim|size|width", re.ASCII)
_CONFIGS = re.compile(r"(.*_)?(config|index)\.json|.*\.safetensors\.index\.json", re.ASCII)


def check_folder(folder: str | os.PathLike) -> None:
    """Check the configurations of a checkpoint's folder, and the headers of its weights.

    Raises:
        ValueError: no JSON object, one of over `MAX_LAYERS` layers, or weights that are truncated; names the file.
    """
    root = Path(folder)
    for path in sorted(root.rglob("*.json")):
        if _CONFIGS.fullmatch(path.name) and path.is_file():
            read_config(path)
    for path in sorted(root.rglob("*.safetensors")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts):
            check_safetensors(path)


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The JSON object of a configuration file; a byte-order mark is no part of it.

    Raises:
        ValueError: as `runtime.readers.read_json`; another value; or more than `MAX_LAYERS` layers.
    """
    with located(path):
        values = parse_json(read_text(path), MAX_LENGTH)
        if not isinstance(values, dict):
            raise ValueError(f"a configuration is an object, got {type(values).__name__}")
        _check_layers(values)
        return values


@contextmanager
def translated(source: Any) -> Iterator[None]:
    """Turns what a library raises over a file of `source` into a ValueError; errors of ours and the machine pass."""
    try:
        with concise():
            yield
    except UnicodeError as error:  # a ValueError that says nothing of a file
        raise ValueError(f"{os.fspath(source)!r} can't be loaded: a text in it is damaged ({error.reason})") from None
    except (ValueError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = " ".join(str(error).split())[:500]
        raise ValueError(f"{os.fspath(source)!r} can't be loaded: {type(error).__name__}: {said}") from error


def _check_layers(values: dict[str, Any]) -> None:
    left = [values]
    while left:
        for name, value in left.pop().items():
            if isinstance(value, dict):
                left.append(value)
                continue
            left += [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
            if not _LAYERS.search(str(name)):
                continue
            counts = value if isinstance(value, list) else [value]
            numbers = [] if _WIDTHS.search(name) else [n for n in counts if type(n) in (int, float)]
            most = max([len(counts), *numbers])
            if most > MAX_LAYERS:
                raise ValueError(f"{name!r} asks for {most}; at most {MAX_LAYERS} are made (WM_MAX_LAYERS)")
