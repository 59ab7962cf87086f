"""Another adapter's numbers in the place of one that is there: no layer is new, and nothing is compiled again."""

from __future__ import annotations

import math
import os

import torch
from peft.utils.other import get_pattern_key
from torch import nn

from .adapter_folder import read_adapter
from .config import KroneckerConfig
from .layer import AdaptedLinear

__all__ = ["hotswap_adapter"]

_PREFIX = "base_model.model."
_EQUAL = ("terms", "n_in", "n_out", "factored", "bias", "fused", "fused_targets", "modules_to_save")
_EQUAL += ("trainable_token_indices",)


@torch.no_grad()
def hotswap_adapter(model: nn.Module, folder: str | os.PathLike, adapter_name: str = "default") -> None:
    """Writes the factors of `folder` into those of adapter `adapter_name`, in place.

    Shapes, scales and the config stay as they are, so that a compiled model runs on without compiling: another alpha
    goes into U, and a smaller rank is filled with zeros.

    Args:
        model: with the adapter, wrapped by PEFT, injected into, or compiled.
        folder: an adapter of the same layers, as `save_adapter` and PEFT write it.

    Raises:
        ValueError: no such adapter, a merged one, or a folder whose adapter is of another form, of other layers or of
            a larger rank. The model is then as it was.
    """
    model = getattr(model, "_orig_mod", model)
    config, state = read_adapter(folder, KroneckerConfig)
    known = getattr(model, "peft_config", {})
    if not isinstance(known.get(adapter_name), KroneckerConfig):
        raise ValueError(f"no Kronecker adapter {adapter_name!r} in the model; it has {sorted(known)}")
    for field in _EQUAL:
        mine, theirs = getattr(known[adapter_name], field), getattr(config, field)
        if mine != theirs:
            raise ValueError(f"`folder` {folder} has {field}={theirs!r}, adapter {adapter_name!r} {field}={mine!r}")
    if config.modules_to_save or config.trainable_token_indices:
        raise ValueError(f"`folder` {folder} replaces more than layers' updates; load it as another adapter")
    state = {key.removeprefix(_PREFIX): tensor for key, tensor in state.items()}
    pairs = _pairs(model, adapter_name, config, state, str(folder))
    for parameter, tensor in pairs:
        parameter.copy_(tensor)


def _pairs(
    model: nn.Module, adapter_name: str, config: KroneckerConfig, state: dict[str, torch.Tensor], source: str
) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """(parameter, what it becomes), after everything was checked."""
    pairs, wanted = [], set()
    for full_name, layer in model.named_modules():
        if not isinstance(layer, AdaptedLinear) or adapter_name not in layer.spec:
            continue
        name = full_name.removeprefix(_PREFIX)
        if adapter_name in layer.merged_adapters:
            raise ValueError(f"`{name}`: adapter {adapter_name!r} is merged; call unmerge_adapter() first")
        for kind in layer.adapter_layer_names:
            if adapter_name not in getattr(layer, kind):
                continue
            key, parameter = f"{name}.{kind}", getattr(layer, kind)[adapter_name]
            wanted.add(key)
            if key in state:
                pairs.append((parameter, _fitted(key, state[key].to(parameter), parameter)))
                if kind == "kronecker_u":
                    pairs[-1][1].mul_(_scale(config, name) / layer.spec[adapter_name].scale)
    if wanted != set(state):
        raise ValueError(
            f"`folder` {source} is of other layers: missing {sorted(wanted - set(state))[:3]}, unexpected "
            f"{sorted(set(state) - wanted)[:3]}"
        )
    return pairs


def _fitted(key: str, tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    """A copy, filled with zeros where its rank is smaller."""
    missing = parameter.shape[-1] - tensor.shape[-1] if tensor.dim() == parameter.dim() else 0
    ranked = key.endswith(("kronecker_u", "kronecker_v")) and missing > 0
    filled = nn.functional.pad(tensor, (0, missing)) if ranked else tensor.clone()
    if filled.shape != parameter.shape:
        raise ValueError(
            f"`{key}` has shape {tuple(tensor.shape)}, and the adapter in the model {tuple(parameter.shape)}"
        )
    return filled


def _scale(config: KroneckerConfig, name: str) -> float:
    ranks, alphas = config.rank_pattern, config.alpha_pattern
    rank = ranks.get(get_pattern_key(ranks, name), config.r)
    return alphas.get(get_pattern_key(alphas, name), config.alpha) / math.sqrt(config.terms * rank)
