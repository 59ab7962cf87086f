"""Weighted sums of Kronecker adapters: exact by concatenating terms, or of a chosen rank by SVD."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import replace
from numbers import Real

import torch
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from .config import KroneckerConfig
from .layer import AdaptedLinear
from .targets import set_name

__all__ = ["add_weighted_adapter"]


def add_weighted_adapter(
    model: nn.Module,
    adapters: list[str],
    weights: list[float],
    adapter_name: str,
    combination_type: str = "cat",
    svd_rank: int | None = None,
    tuner: BaseTuner | None = None,
) -> None:
    """Adds a frozen, inactive adapter with ΔW = Σ_j weights_j·ΔW_j, at the adapters' current scales.

    Args:
        model: any model with Kronecker adapters, wrapped by PEFT or injected (diffusers); changed in place.
        adapters, weights: names and as many factors, of any sign.
        adapter_name: name of the new adapter.
        combination_type: "cat" puts the terms of all adapters side by side: exact, and needs equal n_in and n_out.
            "svd" is the best approximation of rank `svd_rank`, stored with n = 1. "linear" does not exist here: ΔW is
            a product of three factors, and a sum of products is not the product of sums.
        tuner: the PEFT tuner around `model`, where there is one.

    Whole modules that the adapters were saved with (`modules_to_save`) have no weighted sum: they are carried over
    where all adapters of a weight that is not 0 have equal ones, and refused otherwise.

    Raises:
        ValueError: unknown or merged adapters, unequal lengths, a name that is taken, an unknown type, or saved
            modules that differ.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, AdaptedLinear)}
    known: dict[str, KroneckerConfig] = getattr(model, "peft_config", {})
    unknown = [name for name in adapters if name not in known]
    if unknown or not adapters:
        raise ValueError(f"`adapters` {unknown or adapters} not found; known: {sorted(known)}")
    if len(weights) != len(adapters):
        raise ValueError(f"`weights` has {len(weights)} entries for {len(adapters)} adapters")
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
            raise ValueError(f"`weights` has {weight!r}; each must be a finite number")
    if not isinstance(adapter_name, str) or not adapter_name or "." in adapter_name:
        raise ValueError(f"`adapter_name` is {adapter_name!r}; it must be a text without a full stop")
    if adapter_name in known:
        raise ValueError(f"adapter {adapter_name!r} exists already; delete it or choose another name")
    saved = _saved_modules(model, [a for a, w in zip(adapters, weights, strict=True) if w != 0] or adapters)
    for name, layer in layers.items():
        slices = {layer.spec[a].slices for a in adapters if a in layer.spec}
        if len(slices) > 1:
            raise ValueError(f"`{name}`: the adapters adapt different parts of this fused layer: {sorted(slices)}")
    if combination_type == "cat":
        config = _cat_config(layers, [known[name] for name in adapters], adapters)
    elif combination_type == "svd":
        if not isinstance(svd_rank, int) or svd_rank < 1:
            raise ValueError(f"`svd_rank` must be a positive integer with combination_type='svd', got {svd_rank!r}")
        config = _svd_config(layers, known[adapters[0]], adapters, svd_rank)
    else:
        hint = ": ΔW is trilinear in A, U and V, so summing factors does not sum updates" * (
            combination_type == "linear"
        )
        raise ValueError(f"combination_type must be 'cat' or 'svd', got {combination_type!r}{hint}")
    if saved:
        named = {tuple(known[name].modules_to_save or ()) for name in adapters}
        config = replace(config, modules_to_save=list(named.pop()) if len(named) == 1 else sorted(saved))

    wrappers = [wrapper for wrapper, _ in saved.values()]
    states = [(wrapper, wrapper.active_adapters, _trainable(wrapper)) for wrapper in wrappers]
    if tuner is None:
        active = {name: layer.active_adapters for name, layer in layers.items()}
        with warnings.catch_warnings():  # PEFT warns about every second adapter that is injected
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            inject_adapter_in_model(config, model, adapter_name)
        for name, layer in layers.items():
            layer.set_adapter(active[name])
    else:
        tuner.peft_config[adapter_name] = config
        tuner.inject_adapter(model, adapter_name)
    for wrapper, module in saved.values():
        wrapper.modules_to_save[adapter_name].load_state_dict(module.state_dict())
    for wrapper, names, trainable in states:
        wrapper.set_adapter(names)
        for name, parameter in wrapper.named_parameters():
            parameter.requires_grad = name in trainable
    for layer in layers.values():
        if adapter_name in layer.kronecker_u:
            parts = [(name, w, known[name].terms) for name, w in zip(adapters, weights, strict=True)]
            fill = _fill_cat if combination_type == "cat" else _fill_svd
            fill(layer, adapter_name, parts)
            layer.set_requires_grad(adapter_name, False)


def _saved_modules(model: nn.Module, adapters: list[str]) -> dict[str, tuple[ModulesToSaveWrapper, nn.Module]]:
    """{name: (wrapper, the module to carry over)} of what all `adapters` replace as a whole, and equally."""
    saved = {}
    for name, wrapper in model.named_modules():
        if not isinstance(wrapper, AuxiliaryTrainingWrapper):
            continue
        if not isinstance(wrapper, ModulesToSaveWrapper):  # ours has no option for trainable tokens
            raise ValueError(f"`{name}` is a {type(wrapper).__name__}, which can't be combined")
        having = [a for a in adapters if a in wrapper.modules_to_save]
        if not having:
            continue
        lacking = [a for a in adapters if a not in having]
        first = wrapper.modules_to_save[having[0]]
        if lacking:
            raise ValueError(
                f"`{name}` is saved whole with {having} (modules_to_save) and not with {lacking}; such modules have "
                "no weighted sum"
            )
        other = next((a for a in having[1:] if not _equal(first, wrapper.modules_to_save[a])), None)
        if other is not None:
            raise ValueError(
                f"`{name}` is saved whole with {having[0]!r} and with {other!r} (modules_to_save) and differs; such "
                "modules have no weighted sum"
            )
        saved[name] = (wrapper, first)
    return saved


def _equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key].to(mine[key])) for key in mine)


def _trainable(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def _union(layers: dict[str, AdaptedLinear], adapters: list[str]) -> list[str]:
    return [name for name, layer in layers.items() if any(a in layer.kronecker_u for a in adapters)]


def _pattern(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in names)


def _cat_config(
    layers: dict[str, AdaptedLinear], configs: list[KroneckerConfig], adapters: list[str]
) -> KroneckerConfig:
    sizes = {(config.n_out, config.n_in) for config in configs}
    if len(sizes) > 1:
        raise ValueError(f"'cat' needs adapters of equal (n_out, n_in), got {sorted(sizes)}; use 'svd'")
    first, names = configs[0], _union(layers, adapters)
    ranks = {name: max(layers[name].spec[a].r for a in adapters if a in layers[name].spec) for name in names}
    same = all(
        (c.target_modules, c.exclude_modules, c.layers_to_transform, c.shared_sets, c.bias)
        == (first.target_modules, first.exclude_modules, first.layers_to_transform, first.shared_sets, first.bias)
        for c in configs
    )
    common = {
        "terms": sum(config.terms for config in configs),
        "factored": all(config.factored for config in configs),
        "r": max(ranks.values()),
        # the caret keeps it from longer names that end alike
        "rank_pattern": {f"^{re.escape(n)}": r for n, r in ranks.items() if r != max(ranks.values())},
        "alpha": 1.0,
        "alpha_pattern": {},
        "init": "default",
        "modules_to_save": None,
        "inference_mode": True,
    }
    if same:
        return replace(first, **common)
    # layers share a concatenated A only if they share every one of its parts
    groups = {
        name: tuple(
            set_name(config, name) if adapter in layers[name].spec else None
            for config, adapter in zip(configs, adapters, strict=True)
        )
        for name in names
    }
    order = {group: f"set{k}" for k, group in enumerate(dict.fromkeys(groups.values()))}
    return replace(
        first,
        **common,
        target_modules=_pattern(names),
        exclude_modules=None,
        layers_to_transform=None,
        shared_sets={re.escape(name): order[group] for name, group in groups.items()},
        bias="own" if any(config.bias != "none" for config in configs) else "none",
    )


def _svd_config(
    layers: dict[str, AdaptedLinear], first: KroneckerConfig, adapters: list[str], rank: int
) -> KroneckerConfig:
    names = _union(layers, adapters)
    biased = any(layers[name].spec[a].bias != "none" for name in names for a in adapters if a in layers[name].spec)
    return replace(
        first,
        n=1,
        terms=1,
        n_in=1,
        n_out=1,
        r=rank,
        factored=True,
        alpha=rank**0.5,  # scale 1
        rank_pattern={},
        alpha_pattern={},
        shared_sets="none",
        bias="own" if biased else "none",
        init="default",
        target_modules=_pattern(names),
        exclude_modules=None,
        layers_to_transform=None,
        modules_to_save=None,
        inference_mode=True,
    )


def _pad(factor: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    shape = list(factor.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([factor, factor.new_zeros(shape)], dim)


@torch.no_grad()
def _fill_bias(layer: AdaptedLinear, name: str, parts: list[tuple[str, float, int]]) -> None:
    if layer.spec[name].bias != "none":
        biases = [w * layer.delta_bias(a) for a, w, _ in parts if a in layer.spec and layer.spec[a].bias != "none"]
        target = layer.bias_owner[name].kronecker_bias[name]
        target.copy_(sum(biases, torch.zeros_like(target)))


@torch.no_grad()
def _fill_cat(layer: AdaptedLinear, name: str, parts: list[tuple[str, float, int]]) -> None:
    """Writes the terms of all adapters one after another; those of an adapter this layer lacks stay zero."""
    spec, new_u, new_v = layer.spec[name], layer.kronecker_u[name], layer.kronecker_v[name]
    new_slow = layer.slow_weights(name, new_u.device)
    for factor in (new_u, new_v, *new_slow.values()):
        factor.zero_()
    start = 0
    for adapter, weight, terms in parts:
        rows = slice(start, start + terms)
        start += terms
        if adapter not in layer.spec:
            continue
        factor = weight * layer.scaling[adapter] / spec.scale
        new_u[..., rows, :, :] = _pad(layer.kronecker_u[adapter] * factor, -1, spec.r)
        new_v[..., rows, :, :] = _pad(layer.kronecker_v[adapter], -1, spec.r)
        slow = layer.slow_weights(adapter, new_u.device)
        if spec.factored:
            new_slow["a_out"][..., rows, :] = slow["a_out"]
            new_slow["a_in"][..., rows, :] = slow["a_in"]
        else:
            dense = slow["a"] if "a" in slow else torch.einsum("...ip,...iq->...ipq", slow["a_out"], slow["a_in"])
            new_slow["a"][..., rows, :, :] = dense
    _fill_bias(layer, name, parts)


@torch.no_grad()
def _fill_svd(layer: AdaptedLinear, name: str, parts: list[tuple[str, float, int]]) -> None:
    """The best update of rank r: with n = 1 and A = 1 the Kronecker form is the low-rank form itself."""
    spec, new_u, new_v = layer.spec[name], layer.kronecker_u[name], layer.kronecker_v[name]
    total = sum(w * layer.full_delta(a) for a, w, _ in parts if a in layer.spec)
    for factor in layer.slow_weights(name, new_u.device).values():
        factor.fill_(1.0)
    slices = ((0, layer.out_features),) if spec.slices is None else spec.slices
    left, right = new_u.view(len(slices), -1, spec.r), new_v.view(len(slices), -1, spec.r)
    for j, (lo, hi) in enumerate(slices):
        u, s, vh = torch.linalg.svd(total[lo:hi], full_matrices=False)
        keep = min(spec.r, len(s))
        left[j] = _pad(u[:, :keep] * s[:keep], -1, spec.r)
        right[j] = _pad(vh[:keep].T, -1, spec.r)
    _fill_bias(layer, name, parts)
