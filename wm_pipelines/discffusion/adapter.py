"""The LoRA on a denoiser's attention: put in, written and read as PEFT does."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from wm_pipelines import hub
from wm_pipelines.adapters.injected import inject, replacing
from wm_pipelines.runtime.files import atomic, write_atomic
from wm_pipelines.runtime.readers import read_json

NAME = "discffusion"
CONFIG_FILE, WEIGHTS_FILE, HEADS_FILE = "adapter_config.json", "adapter_model.safetensors", "head_weights.json"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
PREFIX = "base_model.model."  # of PEFT's own files


def default_config(r: int = 4) -> LoraConfig:
    """The authors' LoRA: rank r, scale 1, A ~ N(0, 1/r), B = 0, on all projections of self- and cross-attention."""
    return LoraConfig(r=r, lora_alpha=r, init_lora_weights="gaussian", target_modules=list(TARGETS))


def read_config(config: Any) -> LoraConfig:
    """ValueError unless it is a `peft.LoraConfig`."""
    if not isinstance(config, LoraConfig):
        raise ValueError(f"`config` is {config!r:.80}; it must be a peft.LoraConfig")
    return config


def has_adapter(model: nn.Module) -> bool:
    return NAME in getattr(model, "peft_config", {})


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's tensors by name."""
    return {name: p for name, p in model.named_parameters() if f".{NAME}." in name and ".lora_" in name}


def check_alone(model: nn.Module) -> None:
    """ValueError if the model has adapters beside ours."""
    others = sorted(set(getattr(model, "peft_config", {})) - {NAME})
    if others:
        raise ValueError(f"the denoiser has another adapter, {others[0]!r}; merge or unload it first")


def start(model: nn.Module, config: LoraConfig, seed: int) -> dict[str, nn.Parameter]:
    """A new adapter in place of the one there, its start drawn from `seed`; returns what trains.

    Raises:
        ValueError: no such target, or another adapter is there; the old one then stays.
    """
    check_alone(model)
    inject(model, config, NAME, seed)
    return parameters(model)


def save(model: nn.Module, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Writes the adapter to a folder, in `dtype` if given; `PeftModel.from_pretrained` reads it too."""
    write(folder, model.peft_config[NAME], _own(model), dtype)


def write(
    folder: Path, config: LoraConfig, state: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None
) -> None:
    """Writes PEFT's two files."""
    state = {PREFIX + key.removeprefix(PREFIX): t.detach().to("cpu", dtype).contiguous() for key, t in state.items()}
    fields = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / WEIGHTS_FILE) as partial:
        save_file(state, partial, metadata={"format": "pt"})
    write_atomic(folder / CONFIG_FILE, json.dumps({**fields, "inference_mode": True}, indent=2, sort_keys=True))


def own_files(folder: Path) -> tuple[str, ...]:
    """What an adapter that was saved to a folder left there, by its record and by its names."""
    return (*hub.recorded_files(folder), CONFIG_FILE, WEIGHTS_FILE, HEADS_FILE)


def load(model: nn.Module, folder: str | os.PathLike) -> None:
    """Reads the adapter of a folder into the model, in place of the one there.

    Raises:
        ValueError: a file is missing or damaged, no LoRA, or one that does not fit the model; the old one then stays.
    """
    folder = Path(folder)
    fields = read_json(folder / CONFIG_FILE)
    if not isinstance(fields, Mapping) or fields.get("peft_type") != "LORA":
        raise ValueError(f"{folder / CONFIG_FILE} describes no LoRA")
    try:
        state = load_file(folder / WEIGHTS_FILE)
        config = LoraConfig(**{k: v for k, v in fields.items() if k not in ("peft_type", "auto_mapping")})
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} holds no adapter that can be read: {error}") from None
    fill(model, config, state, str(folder))


def fill(model: nn.Module, config: LoraConfig, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Puts a LoRA of these tensors into the model, frozen.

    Raises:
        ValueError: tensors are missing, left over or of another shape; the old adapter then stays.
    """
    check_alone(model)
    with replacing(model):
        inject_adapter_in_model(config, model, NAME)
        wanted = {PREFIX + k.removeprefix(PREFIX): v.shape for k, v in _own(model).items()}
        given = {PREFIX + key.removeprefix(PREFIX): value for key, value in state.items()}
        wrong = sorted(set(wanted) ^ set(given)) or sorted(k for k in wanted if wanted[k] != given[k].shape)
        if wrong:
            raise ValueError(
                f"{source} is an adapter of another denoiser: of {len(given)} tensors and {len(wanted)} wanted, "
                f"{wrong[0]!r} is missing, left over or of another shape"
            )
        set_peft_model_state_dict(model, given, adapter_name=NAME)
    model.requires_grad_(False)


def _own(model: nn.Module) -> dict[str, torch.Tensor]:
    return get_peft_model_state_dict(model, adapter_name=NAME)


def save_heads(folder: Path, weights: Mapping[str, list[float]]) -> None:
    """Writes the weight of each head, by site."""
    write_atomic(folder / HEADS_FILE, json.dumps(weights, indent=1) + "\n")


def load_heads(folder: Path, sites: Mapping[str, nn.Module]) -> torch.Tensor | None:
    """The weights `(heads of all sites,)` of a folder; None where it has none.

    Raises:
        ValueError: other sites or numbers of heads, or something that is no weight.
    """
    path = folder / HEADS_FILE
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, Mapping) or list(found) != list(sites):
        raise ValueError(f"{path} weighs other sites than this denoiser has")
    for name, layer in sites.items():
        row = found[name]
        good = isinstance(row, list) and all(isinstance(w, float | int) and math.isfinite(w) for w in row)
        if not good or len(row) != layer.heads:
            raise ValueError(f"{path}: site {name} has {layer.heads} heads, got {row!r:.80}")
    return torch.tensor([w for name in sites for w in found[name]], dtype=torch.float32)
