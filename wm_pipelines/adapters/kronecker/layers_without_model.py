"""An adapter folder without its model: for hosts that hold the weights themselves and only want the updates."""

from __future__ import annotations

import os

import torch
from peft import inject_adapter_in_model, set_peft_model_state_dict
from torch import nn

from .adapter_folder import read_adapter
from .config import KroneckerConfig
from .layer import AdaptedLinear

__all__ = ["read_layers"]

_NAME = "default"


def read_layers(folder: str | os.PathLike) -> dict[str, AdaptedLinear]:
    """The adapted layers of a folder by module name, as `save_adapter` and PEFT write it; factors on the CPU.

    Their base layers have the right sizes and no storage, so they can't be called:
    `layer.full_delta("default", device)` is the update (out, in) and `layer.full_bias("default")` the bias.

    Raises:
        ValueError: a file is missing or unreadable, the adapter is of another kind, its tensors do not fit together,
            or it also replaces whole modules (`modules_to_save`).
    """
    config, state = read_adapter(folder, KroneckerConfig)
    if config.modules_to_save:
        raise ValueError(
            f"{folder} also replaces whole modules {config.modules_to_save}; only updates can be read alone"
        )
    if config.target_parameters:
        raise ValueError(f"{folder} also adapts parameters {config.target_parameters}; only layers can be read alone")
    state = {key.removeprefix("base_model.model."): tensor for key, tensor in state.items()}
    skeleton = nn.Module()
    for key, u in state.items():
        name, _, kind = key.rpartition(".")
        v = state.get(f"{name}.kronecker_v")
        if kind == "kronecker_u" and v is not None and u.dim() >= 3 and v.dim() >= 3:
            parts = config.fused.get(name.rpartition(".")[2], ("all",))
            sizes = config.n_in * v.shape[-2], config.n_out * u.shape[-2] * len(parts)
            _place(skeleton, name, nn.Linear(*sizes, device="meta"))
    if not any(True for _ in skeleton.children()):
        raise ValueError(f"{folder} holds no Kronecker factors; it has keys such as {sorted(state)[:3]}")
    # the meta device of the base would draw the factors to it; loading that way assigns the file's own tensors
    inject_adapter_in_model(config, skeleton, _NAME, low_cpu_mem_usage=True)
    layers = {name: m for name, m in skeleton.named_modules() if isinstance(m, AdaptedLinear)}
    result = set_peft_model_state_dict(skeleton, _at_owners(layers, state), _NAME, low_cpu_mem_usage=True)
    missing = [key for key in result.missing_keys if ".kronecker_" in key]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"{folder} is not one whole adapter: missing {missing[:3]}, unexpected {list(result.unexpected_keys)[:3]}"
        )
    return layers


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]
    root.add_module(leaf, module)


def _at_owners(layers: dict[str, AdaptedLinear], state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state with shared factors under the owner in `layers`: the model's own module order is not known here."""
    names = {layer: name for name, layer in layers.items()}
    moved = {}
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        if name in layers and kind == "kronecker_bias":
            name = names[layers[name].bias_owner[_NAME]]
        elif name in layers and kind.startswith("kronecker_a"):
            name = names[layers[name].slow_owner[_NAME]]
        moved[f"{name}.{kind}"] = tensor
    return moved
