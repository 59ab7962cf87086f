"""Sums of Kronecker adapters: exact by concatenating terms, of a chosen rank by SVD, or trimmed as TIES does."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Literal

import torch
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.merge_utils import magnitude_prune, task_arithmetic, ties
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from .config import KroneckerConfig
from .layer import AdaptedLinear
from .param_layer import ParamWrapper
from .targets import set_name

__all__ = ["add_weighted_adapter"]

TYPES = ("cat", "linear", "svd", "ties", "ties_svd", "magnitude_prune", "magnitude_prune_svd")
Combine = Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor]
_CHOOSING = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "shared_sets", "bias")


def add_weighted_adapter(
    model: nn.Module,
    adapters: list[str],
    weights: list[float],
    adapter_name: str,
    combination_type: str = "cat",
    svd_rank: int | None = None,
    density: float | None = None,
    majority_sign_method: Literal["total", "frequency"] = "total",
    tuner: BaseTuner | None = None,
) -> None:
    """Adds a frozen, inactive adapter with ΔW = Σ_j weights_j·ΔW_j, at the adapters' current scales.

    ΔW is a product of three factors, and a sum of products is not the product of sums: so every type combines the
    updates themselves, and not the factors, as PEFT's types of these names do for LoRA's A and B.

    Args:
        model: any model with Kronecker adapters, wrapped by PEFT or injected (diffusers); changed in place.
        adapters, weights: names and as many factors, of any sign.
        adapter_name: name of the new adapter.
        combination_type: "cat" puts the terms of all adapters side by side: exact, and needs equal n_in and n_out.
            "linear" is the same sum for adapters of any sizes. "svd" is its best approximation of rank `svd_rank`.
            "magnitude_prune" sums the largest entries of each ΔW_j; "ties" sums those of them that have the sign of
            the majority, divided by how many these are (arXiv 2306.01708). PEFT's names "ties_svd" and
            "magnitude_prune_svd" are the same. All but "cat" are stored with n = 1.
        svd_rank: of the new adapter; where it may be None, the update is kept whole, as large as the weights.
        density: for "ties" and "magnitude_prune", the share of entries of each ΔW_j that is kept, in (0, 1].
        majority_sign_method: for "ties", whether the sum of the entries or their number says the majority.
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
        if isinstance(layer, ParamWrapper):
            raise ValueError(f"`{name}.{layer.parameter_name}` is a parameter; these can't be combined")
        slices = {layer.spec[a].slices for a in adapters if a in layer.spec}
        if len(slices) > 1:
            raise ValueError(f"`{name}`: the adapters adapt different parts of this fused layer: {sorted(slices)}")
    if combination_type == "cat":
        config = _cat_config(layers, [known[name] for name in adapters], adapters)
    else:
        combine = _combination(combination_type, svd_rank, density, majority_sign_method)
        config = _svd_config(layers, known[adapters[0]], adapters, svd_rank)
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
            if combination_type == "cat":
                _fill_cat(layer, adapter_name, parts)
            else:
                _fill_svd(layer, adapter_name, parts, combine)
            layer.set_requires_grad(adapter_name, False)


def _combination(kind: str, rank: int | None, density: float | None, majority: str) -> Combine:
    """What makes one update out of several of one layer, and their weights.

    Raises:
        ValueError: an unknown type, or options that do not go with it.
    """
    pruned = kind.removesuffix("_svd")
    if kind not in ("linear", "svd") and pruned not in ("ties", "magnitude_prune"):
        hint = ": which entries it drops is drawn by torch's global generator" * kind.startswith("dare")
        raise ValueError(f"combination_type must be one of {TYPES}, got {kind!r}{hint}")
    if rank is None and kind.endswith("svd") or rank is not None and (not isinstance(rank, int) or rank < 1):
        raise ValueError(f"`svd_rank` must be a positive integer with combination_type={kind!r}, got {rank!r}")
    if kind in ("linear", "svd"):
        if density is not None:
            raise ValueError(f"`density` is for 'ties' and 'magnitude_prune', combination_type is {kind!r}")
        return task_arithmetic
    if isinstance(density, bool) or not isinstance(density, Real) or not 0 < density <= 1:
        raise ValueError(f"`density` must be in (0, 1] with combination_type={kind!r}, got {density!r}")
    if majority not in ("total", "frequency"):
        raise ValueError(f"`majority_sign_method` must be 'total' or 'frequency', got {majority!r}")
    if pruned == "ties":
        return partial(ties, density=density, majority_sign_method=majority)
    return partial(magnitude_prune, density=density)


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
    same = all(all(getattr(config, field) == getattr(first, field) for field in _CHOOSING) for config in configs)
    common = {
        "terms": sum(config.terms for config in configs),
        "factored": all(config.factored for config in configs),
        "r": max(ranks.values()),
        # the caret keeps it from longer names that end alike
        "rank_pattern": {f"^{re.escape(n)}": r for n, r in ranks.items() if r != max(ranks.values())},
        "alpha": 1.0,
        "alpha_pattern": {},
        "init": "default",
        "init_weights": True,
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
        layers_pattern=None,
        shared_sets={re.escape(name): order[group] for name, group in groups.items()},
        bias="own" if any(config.bias != "none" for config in configs) else "none",
    )


def _svd_config(
    layers: dict[str, AdaptedLinear], first: KroneckerConfig, adapters: list[str], rank: int | None
) -> KroneckerConfig:
    names = _union(layers, adapters)
    ranks = {name: rank or _full_rank(layers[name], adapters) for name in names}
    rank = max(ranks.values())
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
        rank_pattern={f"^{re.escape(name)}": r for name, r in ranks.items() if r != rank},
        alpha_pattern={f"^{re.escape(name)}": r**0.5 for name, r in ranks.items() if r != rank},
        shared_sets="none",
        layers_pattern=None,
        init_weights=True,
        bias="own" if biased else "none",
        init="default",
        target_modules=_pattern(names),
        exclude_modules=None,
        layers_to_transform=None,
        modules_to_save=None,
        inference_mode=True,
    )


def _full_rank(layer: AdaptedLinear, adapters: list[str]) -> int:
    slices = next(layer.spec[name].slices for name in adapters if name in layer.spec)
    rows = layer.out_features if slices is None else slices[0][1] - slices[0][0]
    return min(rows, layer.in_features)


def _pad(factor: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    shape = list(factor.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([factor, factor.new_zeros(shape)], dim)


@torch.no_grad()
def _fill_bias(layer: AdaptedLinear, name: str, parts: list[tuple[str, float, int]], combine: Combine) -> None:
    if layer.spec[name].bias != "none":
        having = [(a, w) for a, w, _ in parts if a in layer.spec and layer.spec[a].bias != "none"]
        target = layer.bias_owner[name].kronecker_bias[name]
        target.copy_(_combined([layer.delta_bias(a) for a, _ in having], [w for _, w in having], combine, target))


def _combined(updates: list[torch.Tensor], weights: list[float], combine: Combine, like: torch.Tensor) -> torch.Tensor:
    return combine(updates, torch.tensor(weights).to(updates[0])) if updates else torch.zeros_like(like)


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
    _fill_bias(layer, name, parts, task_arithmetic)


@torch.no_grad()
def _fill_svd(layer: AdaptedLinear, name: str, parts: list[tuple[str, float, int]], combine: Combine) -> None:
    """The best update of rank r: with n = 1 and A = 1 the Kronecker form is the low-rank form itself."""
    spec, new_u, new_v = layer.spec[name], layer.kronecker_u[name], layer.kronecker_v[name]
    having = [(a, w) for a, w, _ in parts if a in layer.spec]
    total = _combined([layer.full_delta(a) for a, _ in having], [w for _, w in having], combine, new_u)
    for factor in layer.slow_weights(name, new_u.device).values():
        factor.fill_(1.0)
    slices = ((0, layer.out_features),) if spec.slices is None else spec.slices
    left, right = new_u.view(len(slices), -1, spec.r), new_v.view(len(slices), -1, spec.r)
    for j, (lo, hi) in enumerate(slices):
        u, s, vh = torch.linalg.svd(total[lo:hi], full_matrices=False)
        keep = min(spec.r, len(s))
        left[j] = _pad(u[:, :keep] * s[:keep], -1, spec.r)
        right[j] = _pad(vh[:keep].T, -1, spec.r)
    _fill_bias(layer, name, parts, combine)
