"""Safetensors files: their headers checked before the library reads them, and what it says translated.

Nothing here imports torch until a tensor is read.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_pipelines.runtime.limits import limit
from wm_pipelines.runtime.readers import parse_json

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = limit("HEADER_BYTES", 16 * 2**20)
"""Bytes of a header; one with 100,000 tensors has 12 million."""

_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
}  # fmt: skip


def check_safetensors(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a file, by name, if it is as long as its header says; no tensor is read.

    Raises:
        ValueError: the file is truncated or has no valid header; names it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little") if size >= 8 else 0
        if MAX_HEADER_BYTES < length <= size - 8:
            raise ValueError(
                f"{path} has a header of {length} bytes; up to {MAX_HEADER_BYTES} are read (WM_MAX_HEADER_BYTES)"
            )
        if not 0 < length <= size - 8:
            raise ValueError(f"{path} is truncated or not a safetensors file ({size} bytes, header cut off)")
        try:
            header = parse_json(file.read(length).decode("utf-8"))
            metadata = header.pop("__metadata__", {})
            if not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("its metadata are no strings")
            shapes = {name: _shape(entry) for name, entry in header.items()}
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{path} has a corrupt safetensors header: {str(error)[:80]}") from None
    if size != 8 + length + end:
        state = "truncated" if size < 8 + length + end else "longer than its header says"
        raise ValueError(f"{path} is {state}: {size} bytes, the header promises {8 + length + end}")
    return shapes


def read_tensors(path: str | os.PathLike) -> dict[str, "torch.Tensor"]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ValueError: there is no such file, it is damaged, or of another format. Pickles can run code when they are
            read, so they are never opened here.
    """
    from safetensors.torch import load_file

    try:
        with open_tensors(path):
            return load_file(path)
    except ValueError as error:
        if not os.path.isfile(path):
            raise
        raise ValueError(
            f"{path} can't be read: {error}. Only safetensors files are; convert a torch pickle yourself, once: "
            "save_file({k: v.clone().contiguous() for k, v in torch.load(old, weights_only=True).items()}, new), with "
            "save_file from safetensors.torch"
        ) from None


@contextmanager
def open_tensors(path: str | os.PathLike) -> Iterator[Any]:
    """An open safetensors file (`safetensors.safe_open`), of which single tensors are read.

    Raises:
        ValueError: as `read_tensors`, or a tensor that is asked for and not there.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_safetensors(path)
        with safe_open(os.fspath(path), "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} can't be read: {str(error)[:300]}") from None


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    """The shape that a header names, if it takes as many bytes as the tensor has."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    sizes = [begin, end, *shape]
    if not all(type(size) is int and size >= 0 for size in sizes) or begin > end:
        raise ValueError("a size is no count")
    wanted = math.prod(shape) * _BYTES.get(entry["dtype"], 0)
    if entry["dtype"] in _BYTES and wanted != end - begin:
        raise ValueError(f"{entry['dtype']} {tuple(shape)} takes {wanted} bytes, not {end - begin}")
    return tuple(shape)
