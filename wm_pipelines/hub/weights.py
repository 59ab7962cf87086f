"""Weights: read from a torch file without running what it holds, saved in half precision, laid out in memory."""

import copy
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wm_pipelines.runtime.files import atomic


def read_torch_file(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of a pickled checkpoint, by name, mapped into memory where the file can be; nothing in it is run.

    A checkpoint with a `state_dict` gives that one; values that are no tensors are left out.

    Raises:
        ValueError: as `load_torch_file`.
    """
    loaded = load_torch_file(path)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def load_torch_file(path: str | os.PathLike) -> Any:
    """What a pickled checkpoint holds, on the CPU; nothing in it is run.

    Raises:
        ValueError: no such file, not a torch file, or something in it that is neither tensor nor plain value.
    """
    if not os.path.isfile(path):
        raise ValueError(f"checkpoint {str(path)!r} does not exist or is not a file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch's readers of damaged archives and pickles let nearly anything out
        said = str(error)[:300]
        raise ValueError(f"checkpoint {str(path)!r} is not a plain torch file of tensors: {said}") from None


def align(module: nn.Module) -> None:
    """Copies CPU parameters and buffers that do not start at a 64-byte boundary to ones that do.

    A safetensors file is mapped into memory at whatever offset a tensor has in it, and CPU kernels sum in another
    order there: without this, a loaded model differs from the saved one in the last bits.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()


def save_half(model: nn.Module, folder: str | Path) -> None:
    """Saves a diffusers or transformers model as fp16 safetensors that plain loading reads as float32."""
    copy.deepcopy(model).to(torch.float16).save_pretrained(folder)
    if type(model).__name__ == "CLIPTextModel":
        _name_as_published(Path(folder) / "model.safetensors")
    config = Path(folder) / "config.json"
    values = json.loads(config.read_text())
    if "transformers_version" in values:
        values.pop("torch_dtype", None)
        values["dtype"] = "float32"
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _name_as_published(weights: Path) -> None:
    """Puts `text_model.` before every name, as in all published text encoders.

    transformers 5 saves a new one without it and reads both; transformers 4 takes a file without it for a model of
    other names, and goes on with random weights.
    """
    from safetensors.torch import load_file, save_file

    tensors = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in load_file(weights).items()}
    with atomic(weights) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
