"""Which layers a KroneckerConfig adapts: checked as a whole before any of them is replaced."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from wm_pipelines.runtime.readers import concise

from .base_layers import CONVOLUTIONS, channels, is_adaptable, is_linear, sizes
from .config import KroneckerConfig
from .factors import check_divides, divisors
from .layer import AdaptedLinear
from .param_layer import matrix_sizes

__all__ = ["check_parameters", "check_saved", "check_targets", "row_slices", "set_name", "supported_base"]

CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.ParameterList)


def _base_of(module: nn.Module) -> nn.Module:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def supported_base(model: nn.Module, name: str) -> nn.Module:
    """The linear layer or convolution at `name`, looked up through adapters that wrap it.

    Raises:
        ValueError: it is neither, or it is one that its module never calls.
    """
    base = _base_of(model.get_submodule(name))
    parent = _base_of(model.get_submodule(name.rpartition(".")[0]))
    if isinstance(base, nn.MultiheadAttention) or isinstance(parent, nn.MultiheadAttention):
        raise ValueError(
            f"`{name}`: nn.MultiheadAttention reads in_proj_weight and out_proj.weight directly, so an adapter there "
            "would never run; use an attention module with separate linear layers"
        )
    fused, leaf = ("to_qkv" if hasattr(parent, "to_qkv") else "to_kv"), name.rpartition(".")[2]
    if getattr(parent, "fused_projections", False) and leaf in ("to_q", "to_k", "to_v") and leaf[3:] in fused[3:]:
        raise ValueError(
            f"`{name}`: this attention is fused and runs {fused} instead, so an adapter here would never run; target "
            f"{fused}, or call unfuse_qkv_projections() first"
        )
    if not is_adaptable(base):
        raise ValueError(
            f"`{name}` is a {type(base).__name__}; Kronecker adapters take linear layers only, and convolutions"
        )
    if not any(isinstance(getattr(base, weight, None), torch.Tensor) for weight in ("weight", "qweight")):
        raise ValueError(
            f"`{name}` is a {type(base).__module__}.{type(base).__name__}: its weight is packed and no gradient "
            "passes through it; quantise by torchao's Int8WeightOnlyConfig, for example, which leaves an nn.Linear"
        )
    return base


def row_slices(config: KroneckerConfig, name: str, base: nn.Module) -> tuple[tuple[int, int], ...] | None:
    """Row ranges [start, stop) of the adapted parts of a fused layer; None for a layer that is not fused.

    Raises:
        ValueError: the rows do not split evenly, or no part is in `fused_targets`.
    """
    parts = config.fused.get(name.rpartition(".")[2])
    if parts is None:
        return None
    out_features = sizes(base)[1]
    if isinstance(base, CONVOLUTIONS):
        raise ValueError(f"`{name}` is a {type(base).__name__}; `fused` parts are of linear layers only")
    if out_features % len(parts):
        raise ValueError(f"`{name}`: {out_features} rows do not split into the {len(parts)} parts {parts}")
    chosen = [j for j, part in enumerate(parts) if part in config.fused_targets]
    if not chosen:
        raise ValueError(f"`{name}`: none of its parts {parts} is in fused_targets={config.fused_targets}")
    rows = out_features // len(parts)
    return tuple((j * rows, (j + 1) * rows) for j in chosen)


def set_name(config: KroneckerConfig, name: str) -> str:
    """Name of the set of slow weights that layer `name` uses.

    Raises:
        ValueError: `shared_sets` is a dict, and its patterns name no set for the whole name, or several.
    """
    if isinstance(config.shared_sets, dict):
        # "the first that matches" would not do: PEFT sorts the keys when it writes the file
        groups = {group for pattern, group in config.shared_sets.items() if re.fullmatch(pattern, name)}
        if len(groups) != 1:
            raise ValueError(
                f"`shared_sets` gives `{name}` {len(groups)} sets {sorted(groups)}, it must be one; patterns: "
                f"{list(config.shared_sets)}"
            )
        return groups.pop()
    if config.shared_sets == "none":
        return name
    if config.shared_sets == "all" or isinstance(config.target_modules, str):
        return "all"
    # the longest entry that matches, so that overlapping entries give one answer whatever the order of the set
    given = (*config.target_modules, *(config.target_parameters or ()))
    entries = [e for e in given if name == e or name.endswith(f".{e}")]
    return max(entries, key=lambda entry: (len(entry), entry), default=name)


@concise()
def check_saved(config: KroneckerConfig, model: nn.Module) -> None:
    """ValueError for a name in `modules_to_save` with which that of a mere container ends, or of a part of an adapter:
    PEFT takes every module whose name ends so, and can't train these whole."""
    held = [name for name, module in model.named_modules() if isinstance(module, CONTAINERS)]
    for key in config.modules_to_save or ():
        found = [name for name in (*held, *AdaptedLinear.adapter_layer_names) if name.endswith(key)]
        if found:
            raise ValueError(f"`modules_to_save` has {key!r}, with which `{found[0]}` ends, no layer; say more of it")


@concise()
def check_targets(
    config: KroneckerConfig, model: nn.Module, matches: Callable[[KroneckerConfig, str], object]
) -> None:
    """ValueError for anything that would stop the injection half way.

    Args:
        matches: PEFT's rule for one module name; true, false, or a false object for a module that is excluded.
    """
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))
    names = [name for name, _ in model.named_modules() if name and not name.startswith(inside)]
    results = {name: matches(config, name) for name in names}
    targets = [name for name, result in results.items() if result]
    if not targets:
        if all(result is False or result is None for result in results.values()):
            _raise_no_match(config, model, names)
        return  # some were excluded: PEFT says so better than we could
    found: dict[str, tuple[int, int]] = {}
    for name in targets:
        base = supported_base(model, name)
        slices = row_slices(config, name, base)
        found[name] = (channels(base), sizes(base)[1] if slices is None else slices[0][1] - slices[0][0])
        set_name(config, name)
    for name, pair in found.items():
        try:
            check_divides(config.n_in, config.n_out, *pair, name)
        except ValueError as error:
            common = divisors(*(size for pair in found.values() for size in pair))
            raise ValueError(f"{error}; common divisors of all {len(found)} targets: {common}") from None


def check_parameters(config: KroneckerConfig, model: nn.Module, others: list[KroneckerConfig]) -> None:
    """ValueError for anything about `target_parameters` that would stop the injection half way."""
    different = [c.target_parameters for c in others if c.target_parameters]
    if any(set(theirs) != set(config.target_parameters) for theirs in different):
        raise ValueError(
            "When using multiple adapters with `target_parameters`, all adapters must target the same set of "
            f"parameters, but got {sorted(config.target_parameters)} beside {sorted(different[0])}"
        )
    found = 0
    for name, module in model.named_modules():
        plain = name.replace(".base_layer", "")
        for parameter, _ in module.named_parameters(recurse=False):
            key = f"{plain}.{parameter}"
            if any(key == target or key.endswith(f".{target}") for target in config.target_parameters):
                if not name:
                    raise ValueError(f"`target_parameters`: {parameter} is of the model itself; that can't be wrapped")
                _, columns, rows = matrix_sizes(module, parameter)
                check_divides(config.n_in, config.n_out, columns, rows, key)
                set_name(config, key)
                found += 1
    if not found and not config.target_modules:
        raise ValueError(f"target_parameters {sorted(config.target_parameters)} matched 0 parameters of the model")


def _raise_no_match(config: KroneckerConfig, model: nn.Module, names: list[str]) -> None:
    wanted = [config.target_modules] if isinstance(config.target_modules, str) else sorted(config.target_modules)
    linear = [name for name in names if is_linear(_base_of(model.get_submodule(name)))]
    if not wanted:  # PEFT found none for "all-linear": those that are there say why they can't be
        for name in linear:
            supported_base(model, name)
    known = sorted({name.rpartition(".")[2] for name in linear} | set(linear))
    near = dict.fromkeys(n for w in wanted for n in difflib.get_close_matches(w, known, n=3, cutoff=0.4))
    shown = list(near) or known[:8]
    raise ValueError(f"target_modules {wanted} matched 0 Linear layers; nearest names: {', '.join(shown) or 'none'}")
