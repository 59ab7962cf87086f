"""LoKr adapters of PEFT and of LyCORIS (Kohya keys) as Kronecker adapters with the same ΔW.

LoKr is ΔW = s·w1 ⊗ w2 (LyCORIS, arXiv 2309.14859), each factor whole or a product of two. With w1 = Σ_k e_k w1[k, :]
that is a sum of n_out Kronecker terms whose A_k = e_k w1[k, :] has rank one, and whose U Vᵀ = w2 is the same in each.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoKrConfig
from peft.utils.other import get_pattern_key
from torch import nn

from wm_pipelines.kernels import kronecker_lora_factors
from wm_pipelines.runtime.readers import parse_json
from wm_pipelines.runtime.tensors import open_tensors, read_tensors

from .adapter_folder import inject, read_adapter
from .base_layers import channels, sizes
from .config import KroneckerConfig
from .targets import supported_base
from .text_encoder_names import in_model

__all__ = ["load_lokr"]

_KEY = re.compile(r"(.+)\.(lokr_(?:w[12](?:_[ab])?|t[12])|alpha|dora_scale)")
# what trainers put in front of a module's name; the rest is the name, with dots or with underscores
_PREFIXES = ("lora_unet_", "lora_transformer_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_te_", "lycoris_")
_PREFIXES += ("diffusion_model.", "transformer.", "unet.", "text_encoder_2.", "text_encoder_3.", "text_encoder.")


@dataclass(frozen=True)
class _Factors:
    """One module's ΔW = scale·w1 ⊗ u vᵀ: w1 (n_out, n_in), u (out/n_out, r), v (in/n_in, r), in fp64.

    `kernel` is what a convolution's w2 (out/n_out, in_channels/n_in, kernel…) says of it, () where the file says
    nothing; v then is (in_channels/n_in·kernel, r).
    """

    w1: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    scale: float
    kernel: tuple[int, ...] = ()


def load_lokr(
    model: nn.Module, path: str | os.PathLike, adapter_name: str = "default", prefix: str | None = None
) -> nn.Module:
    """Injects a LoKr adapter into `model`, in place, as an active Kronecker adapter with the same ΔW.

    Where all modules have factors of one size, the adapter has n_out rank-one terms, and a w2 that is whole is kept
    with r = min(w2.shape). Modules of several sizes have no common n; the adapter then has n = 1: plain low rank, as
    exact, but n_out times larger. `save_adapter` writes either.

    Args:
        model: an unwrapped model (`pipe.unet`), with or without other adapters.
        path: a folder of PEFT (`adapter_config.json` of type LOKR), or a safetensors file of LyCORIS with keys
            `<prefix><module>.lokr_w1`, dots or underscores in the module's name, as in diffusers.
        prefix: which modules of the file to take, where it holds those of several models: "lora_unet_", "lora_te_",
            "lora_te1_", "lora_te2_", "text_encoder." …

    A text encoder's layers are found with the level `text_model` in the file, in the model, in both or in neither.

    Scale, PEFT: alpha/r of the config. LyCORIS: alpha/rank, rank being the inner size of a factor that is a product;
    1 where there is no such factor, or no alpha. Where both factors are whole and the file speaks of another scale
    than the one that is taken, in alpha or in its header, or other tools would take another one, a warning says so.

    Returns:
        The model.

    Raises:
        ValueError: not a safetensors file, Tucker factors, DoRA, keys of another method, modules that the model lacks
            or that have another size, or a name that is taken. The model is then as it was.
    """
    path = Path(path)
    if path.is_dir():
        config, tensors = read_adapter(path, LoKrConfig)
        if config.rank_dropout or config.module_dropout:
            warnings.warn(
                "dropout on the rows of ΔW needs ΔW itself, which Kronecker adapters never build; the imported one "
                "has none, so only further training differs",
                stacklevel=2,
            )
        names, groups = _group({key.removeprefix("base_model.model."): t for key, t in tensors.items()}, path), {}
        known, said = {name for name, _ in model.named_modules()}, {}
        for name, parts in names.items():
            r = _above_zero("r", config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r))
            alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, name), config.alpha)
            alpha = _above_zero("alpha", alpha)
            groups[in_model(name, known)] = _factors(name, parts, alpha / r)
            if _whole(parts) and alpha != r:
                said[name] = f"r={r} and alpha={alpha:g}"
        _say_scale(path, said, "alpha/r was taken, as PEFT does; LyCORIS and ComfyUI would take 1")
    else:
        names = _named_as_in(model, _group(read_tensors(path), path), path, prefix)
        groups = {name: _factors(name, parts, _lycoris_scale(name, parts)) for name, parts in names.items()}
        _say_scale(path, _other_scales(path, names), "1 was taken, as LyCORIS and ComfyUI do")
    for name, factors in groups.items():
        _check_fits(model, name, factors)
    return inject(model, *_as_kronecker(groups), adapter_name, str(path))


def _above_zero(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` of a LoKr adapter must be a number above 0, got {value!r}")
    return value


def _group(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """{module as the file names it: {"w1": …, "alpha": …}}."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    foreign = [key for key in tensors if not _KEY.fullmatch(key)]
    if foreign or not tensors:
        raise ValueError(f"{path} is not a LoKr adapter: {len(foreign)} other keys, such as {foreign[:3]}")
    for key, tensor in tensors.items():
        module, part = _KEY.fullmatch(key).groups()
        if part in ("lokr_t1", "lokr_t2"):
            raise ValueError(f"`{module}` of {path} has Tucker factors ({part}), which belong to a convolution")
        if part == "dora_scale":
            raise ValueError(f"`{module}` of {path} has a DoRA scale, so its update is not a sum of products")
        groups.setdefault(module, {})[part.removeprefix("lokr_")] = tensor
    return groups


def _named_as_in(
    model: nn.Module, groups: dict[str, dict[str, torch.Tensor]], path: Path, prefix: str | None
) -> dict[str, dict[str, torch.Tensor]]:
    """The groups under the model's own module names."""
    begins = {module: next((p for p in _PREFIXES if module.startswith(p)), "") for module in groups}
    found = sorted(set(begins.values()))
    if prefix is None and len(found) > 1:
        raise ValueError(f"{path} holds adapters of several models; `prefix` must be one of {found}")
    if prefix is not None:
        prefix = next((p for p in found if p and p[:-1] == prefix), prefix)  # "lora_te", as save_lora takes it
    if prefix is not None and prefix not in found:
        raise ValueError(f"`prefix` {prefix!r} is not in {path}; it has {found}")
    flat: dict[str, list[str]] = {}
    for name, _ in model.named_modules():
        flat.setdefault(name.replace(".", "_"), []).append(name)
    named, unknown = {}, []
    for module, parts in groups.items():
        if prefix is not None and begins[module] != prefix:
            continue
        names = flat.get(in_model(module.removeprefix(begins[module]).replace(".", "_"), flat, "_"), [])
        if len(names) == 1:
            named[names[0]] = parts
        else:
            unknown.append(module)
    if unknown:
        raise ValueError(f"{len(unknown)} modules of {path} are not in the model by that name, such as {unknown[:3]}")
    return named


def _factors(name: str, parts: dict[str, torch.Tensor], scale: float) -> _Factors:
    for factor in ("w1", "w2"):
        pair = f"{factor}_a" in parts and f"{factor}_b" in parts
        if (factor in parts) == pair or (factor in parts and f"{factor}_a" in parts):
            raise ValueError(f"`{name}`: needs either lokr_{factor}, or both lokr_{factor}_a and lokr_{factor}_b")
    if any(tensor.dim() != 2 for part, tensor in parts.items() if part not in ("alpha", "w2")):
        raise ValueError(f"`{name}`: a factor that is not a matrix belongs to a convolution, where it can be w2 alone")
    if not math.isfinite(scale) or scale == 0:
        raise ValueError(f"`{name}`: alpha/rank must be finite and not 0, got {scale}")
    wide = {part: tensor.double() for part, tensor in parts.items()}
    w1 = wide["w1"] if "w1" in wide else wide["w1_a"] @ wide["w1_b"]
    if "w2" not in wide:
        return _Factors(w1, wide["w2_a"], wide["w2_b"].T, scale)
    w2, kernel = wide["w2"].flatten(1), tuple(wide["w2"].shape[2:])
    rows, columns = w2.shape
    if rows <= columns:
        return _Factors(w1, torch.eye(rows, dtype=w2.dtype), w2.T, scale, kernel)
    return _Factors(w1, w2, torch.eye(columns, dtype=w2.dtype), scale, kernel)


def _lycoris_scale(name: str, parts: dict[str, torch.Tensor]) -> float:
    ranks = [len(parts[part]) for part in ("w2_b", "w1_b") if part in parts]
    if "alpha" not in parts or not ranks:
        return 1.0
    if parts["alpha"].numel() != 1:
        raise ValueError(f"`{name}`: alpha must be one number, got shape {tuple(parts['alpha'].shape)}")
    return parts["alpha"].item() / ranks[0]


def _whole(parts: dict[str, torch.Tensor]) -> bool:
    return "w1" in parts and "w2" in parts


def _other_scales(path: Path, groups: dict[str, dict[str, torch.Tensor]]) -> dict[str, str]:
    """What a file of LyCORIS says about modules without a rank of their own, where it is not a scale of 1."""
    rank, alpha = _header(path)
    said = {}
    for name, parts in groups.items():
        if not _whole(parts):
            continue
        own = parts["alpha"].item() if "alpha" in parts and parts["alpha"].numel() == 1 else None
        words = [f"alpha={own:g}"] if own not in (None, 1.0, rank) else []
        if rank is not None and alpha is not None and alpha != rank:
            words.append(f"rank {rank:g} and alpha {alpha:g} in its header")
        if words:
            said[name] = ", ".join(words)
    return said


def _header(path: Path) -> tuple[float | None, float | None]:
    """(rank, alpha) that the header of a safetensors file names, as Kohya's trainers, PEFT or diffusers write it."""
    with open_tensors(path) as file:
        stored = dict(file.metadata() or {})
    for value in list(stored.values()):
        try:
            nested = parse_json(value)
        except ValueError:
            continue
        if isinstance(nested, dict):  # `lora_adapter_metadata`: {"unet.r": 8, "unet.lora_alpha": 4, …}
            stored |= {str(key).rpartition(".")[2]: number for key, number in nested.items()}
    found = []
    for names in (("ss_network_dim", "r", "rank"), ("ss_network_alpha", "lora_alpha", "alpha")):
        value = next((stored[name] for name in names if name in stored), None)
        try:
            number = float(value)
        except (TypeError, ValueError):  # "None", "Dynamic"
            number = math.nan
        found.append(number if math.isfinite(number) else None)
    return found[0], found[1]


def _say_scale(path: Path, said: dict[str, str], taken: str) -> None:
    if said:
        name, words = next(iter(said.items()))
        warnings.warn(
            f"{path} holds both LoKr factors whole for {len(said)} modules, such as `{name}`, so it can't be seen "
            f"what rank they were trained at; it says {words}. The scale {taken}",
            stacklevel=3,
        )


def _check_fits(model: nn.Module, name: str, factors: _Factors) -> None:
    try:
        base = supported_base(model, name)
    except AttributeError:
        raise ValueError(f"the model has no module `{name}`") from None
    has = (factors.w1.shape[0] * len(factors.u), factors.w1.shape[1] * len(factors.v))
    kernel = tuple(getattr(base, "kernel_size", ()))
    if has != sizes(base)[::-1] or channels(base) % factors.w1.shape[1] or factors.kernel not in ((), kernel):
        has = (has[0], has[1] // math.prod(factors.kernel), *factors.kernel)
        raise ValueError(f"`{name}`: the adapter is for a weight {has}, the model has {tuple(base.weight.shape)}")


def _as_kronecker(groups: dict[str, _Factors]) -> tuple[KroneckerConfig, dict[str, torch.Tensor]]:
    """Config and factors, in fp32; the scale lies in U, for the config's own is that of the terms and ranks."""
    sizes = {tuple(factors.w1.shape) for factors in groups.values()}
    layers = {}
    for name, f in groups.items():
        n_out = len(f.w1)
        a_out, u, v = torch.eye(n_out, dtype=f.w1.dtype), f.u.expand(n_out, -1, -1), f.v.expand(n_out, -1, -1)
        if len(sizes) == 1:
            layers[name] = {"u": f.scale * u, "v": v, "a_out": a_out, "a_in": f.w1}
            continue
        one = f.w1.new_ones(1, 1)
        # dense A of one term, so that the rank is capped by the layer's own size
        up, down = kronecker_lora_factors(f.u[None], f.v[None], a=f.w1[None], scale=f.scale)
        layers[name] = {"u": up[None], "v": down.T[None], "a_out": one, "a_in": one}
    ranks = {name: layer["u"].shape[-1] for name, layer in layers.items()}
    n_out, n_in = next(iter(sizes)) if len(sizes) == 1 else (1, 1)
    rank = max(ranks.values())
    config = KroneckerConfig(
        n=n_out,
        n_in=n_in,
        n_out=n_out,
        terms=n_out,
        r=rank,
        rank_pattern={f"^{re.escape(name)}": r for name, r in ranks.items() if r != rank},
        shared_sets="none",
        target_modules="|".join(map(re.escape, groups)),
        inference_mode=True,
    )
    state = {}
    for name, layer in layers.items():
        layer["u"] = layer["u"] * math.sqrt(config.terms * ranks[name])
        state |= {f"{name}.kronecker_{part}": tensor.float().contiguous() for part, tensor in layer.items()}
    return config, state
