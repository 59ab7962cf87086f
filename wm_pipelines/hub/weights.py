"""Weights: read from a torch file without running what it holds, and where they lie in memory."""

import os
import pickle
import zipfile

import torch
from torch import nn


def read_torch_file(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of a pickled checkpoint, by name, mapped into memory where the file can be; nothing in it is run.

    A checkpoint with a `state_dict` gives that one; values that are no tensors are left out.

    Raises:
        ValueError: no such file, not a torch file, or something in it that is neither tensor nor plain value.
    """
    if not os.path.isfile(path):
        raise ValueError(f"checkpoint {str(path)!r} does not exist or is not a file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"checkpoint {str(path)!r} is not a plain torch file of tensors: {error}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def align(module: nn.Module) -> None:
    """Copies CPU parameters and buffers that do not start at a 64-byte boundary to ones that do.

    A safetensors file is mapped into memory at whatever offset a tensor has in it, and CPU kernels sum in another
    order there: without this, a loaded model differs from the saved one in the last bits.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()
