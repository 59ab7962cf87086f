"""Adapter folders for models without a PEFT wrapper (diffusers): what `PeftModel` writes, it writes and reads too."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from wm_pipelines.hub.checking import read_config
from wm_pipelines.record import check_values
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.patterns import check_patterns
from wm_pipelines.runtime.tensors import read_tensors

from .adapter_card import CARD, with_import
from .config import KroneckerConfig
from .layer import AdaptedLinear

__all__ = ["inject", "load_adapter", "read_adapter", "save_adapter"]

_PREFIX = "base_model.model."
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


def save_adapter(
    model: nn.Module,
    folder: str | os.PathLike,
    adapter_name: str = "default",
    dtype: torch.dtype | None = None,
    card: bool = True,
) -> Path:
    """Writes one adapter as `adapter_model.safetensors` and `adapter_config.json`; shared factors once.

    Args:
        dtype: of the file; that of the factors when None.
        card: write into README.md, a new one or the one there, the lines that load the adapter.

    Returns:
        The folder, which `load_adapter` and `PeftModel.from_pretrained` read.

    Raises:
        ValueError: the model has no such adapter, or `folder` is a file.
    """
    known = getattr(model, "peft_config", {})
    if not isinstance(known.get(adapter_name), KroneckerConfig):
        raise ValueError(f"no Kronecker adapter {adapter_name!r} in the model; it has {sorted(known)}")
    folder = Path(folder)
    state = get_peft_model_state_dict(model, adapter_name=adapter_name)
    state = {_PREFIX + key.removeprefix(_PREFIX): t.detach().to("cpu", dtype).contiguous() for key, t in state.items()}
    fields = {k: sorted(v) if isinstance(v, set) else v for k, v in known[adapter_name].to_dict().items()}
    text = json.dumps({**fields, "inference_mode": True}, indent=2, sort_keys=True)
    with atomic_folder(folder, last=_CONFIG) as partial:
        save_file(state, partial / _WEIGHTS, metadata={"format": "pt"})
        (partial / _CONFIG).write_text(text, encoding="utf-8")
        if card:
            (partial / CARD).write_text(with_import(folder), encoding="utf-8")
    return folder


def read_adapter(folder: str | os.PathLike, kind: type[PeftConfig]) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    """Config and tensors of an adapter folder as PEFT writes it.

    Raises:
        ValueError: a file is missing or unreadable, or the adapter is of another kind.
    """
    folder = Path(folder)
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"`folder` {folder} has no {name}")
    try:
        values = read_config(folder / _CONFIG)
        values.pop("runtime_config", None)
        if values.get("peft_type") == kind().peft_type.value:
            check_values(kind, values)
        config = PeftConfig.from_peft_type(**PeftConfig.check_kwargs(**values))
        check_patterns(config)
    except Exception as error:  # PEFT checks nothing, so values of other types give errors of any kind
        raise ValueError(f"{folder / _CONFIG} is not a PEFT config: {str(error)[:1000]}") from error
    if not isinstance(config, kind):
        found = getattr(config.peft_type, "value", config.peft_type)
        raise ValueError(f"{folder / _CONFIG} is for {found}, not for {kind().peft_type.value}")
    return config, read_tensors(folder / _WEIGHTS)


def load_adapter(
    model: nn.Module, folder: str | os.PathLike, adapter_name: str = "default", low_cpu_mem_usage: bool = False
) -> nn.Module:
    """Injects the adapter of `folder` into `model`, in place, beside those it has, and makes it the active one.

    Args:
        low_cpu_mem_usage: create the factors on the meta device, so that they are allocated once.

    Returns:
        The model.

    Raises:
        ValueError: a file is missing or unreadable, the adapter is of another kind or for another base, or the name
            is taken. The model then keeps no trace of it.
    """
    config, state = read_adapter(folder, KroneckerConfig)
    return inject(model, config, state, adapter_name, str(folder), low_cpu_mem_usage)


def inject(
    model: nn.Module,
    config: KroneckerConfig,
    state: dict[str, torch.Tensor],
    adapter_name: str,
    source: str,
    low_cpu_mem_usage: bool = False,
) -> nn.Module:
    """Injects an adapter of these factors into `model`; a failure leaves no trace. As `load_adapter`.

    Args:
        state: keys as in the file, with or without PEFT's prefix.
        source: where it comes from, for messages.
    """
    if adapter_name in getattr(model, "peft_config", {}):
        raise ValueError(f"adapter {adapter_name!r} exists already; delete it or choose another name")
    active = {layer: layer.active_adapters for layer in model.modules() if isinstance(layer, AdaptedLinear)}
    try:
        with warnings.catch_warnings():  # PEFT warns about every second adapter that is injected
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            inject_adapter_in_model(config, model, adapter_name, low_cpu_mem_usage=low_cpu_mem_usage)
        result = set_peft_model_state_dict(model, state, adapter_name, low_cpu_mem_usage=low_cpu_mem_usage)
        missing = [k for k in result.missing_keys if ".kronecker_" in k and k.endswith(f".{adapter_name}")]
        if missing or result.unexpected_keys:
            raise ValueError(
                f"{source} does not fit the model: missing {missing[:3]}, "
                f"unexpected {list(result.unexpected_keys)[:3]}"
            )
    except Exception:
        _remove(model, adapter_name, active)
        raise
    if hasattr(model, "_hf_peft_config_loaded"):
        model._hf_peft_config_loaded = True  # diffusers and transformers ask this before they switch adapters
    return model


def _remove(model: nn.Module, adapter_name: str, active: dict[AdaptedLinear, list[str]]) -> None:
    """Takes a half-loaded adapter out again: its factors, the wrappers made for it, and its config."""
    getattr(model, "peft_config", {}).pop(adapter_name, None)
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, AdaptedLinear)]
    inside = {layer.base_layer for _, layer in layers}  # wrappers of parameters lie in one another
    for name, layer in layers:
        if layer in active:
            layer.set_adapter(active[layer])
            layer.delete_adapter(adapter_name)
        elif layer not in inside:
            parent, _, child = name.rpartition(".")
            base = layer.base_layer
            while isinstance(base, AdaptedLinear) and base not in active:
                base = base.base_layer
            setattr(model.get_submodule(parent), child, base)
    if not getattr(model, "peft_config", True):
        del model.peft_config
