"""Kronecker adapters as plain LoRA: exact, and loadable where nobody has heard of Kronecker products."""

from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn

from wm_pipelines.runtime.files import atomic

from .base_layers import CONVOLUTIONS
from .layer import AdaptedLinear
from .param_layer import ParamWrapper
from .text_encoder_names import in_files, is_text_encoder

__all__ = ["LoraFactors", "save_lora", "to_lora"]

_FILES = {
    "peft": "adapter_model.safetensors",
    "diffusers": "pytorch_lora_weights.safetensors",
    "kohya": "kohya_lora.safetensors",
    "diff": "kohya_diff.safetensors",
}


@dataclass(frozen=True)
class LoraFactors:
    """ΔW = B A with the scale inside B: `down` A (k, in), `up` B (out, k), `bias` (out,) or None; fp32 or wider.

    Of a convolution `down` is (k, in_channels, kernel…) and `up` (out, k, 1…), as LoRA files have it.
    """

    down: torch.Tensor
    up: torch.Tensor
    bias: torch.Tensor | None


def to_lora(model: nn.Module, adapter_name: str = "default") -> dict[str, LoraFactors]:
    """The exact LoRA form of one adapter, per module name of the unwrapped model, at its current scale.

    The rank is m·r for rank-one A, and min(m·n·r, in, out) for dense A. `modules_to_save` are not part of it.

    Raises:
        ValueError: the model has no such adapter, or it is one of a convolution with groups.
    """
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, AdaptedLinear) and adapter_name in module.kronecker_u
    }
    if not layers:
        raise ValueError(
            f"no Kronecker adapter {adapter_name!r} in the model; it has {sorted(getattr(model, 'peft_config', {}))}"
        )
    factors = {}
    for name, layer in layers.items():
        if isinstance(layer, ParamWrapper):
            raise ValueError(f"`{name}.{layer.parameter_name}` is a parameter, which is no LoRA layer; merge it")
        up, down, bias = layer.get_lora_factors(adapter_name)
        base = layer.get_base_layer()
        if isinstance(base, CONVOLUTIONS):
            if base.groups > 1:
                raise ValueError(f"`{name}` is a convolution with groups, which has no LoRA form; merge_and_unload()")
            down = down.view(len(down), *base.weight.shape[1:])
            up = up.view(*up.shape, *(1,) * len(base.kernel_size))
        factors[name] = LoraFactors(down.contiguous(), up.contiguous(), bias)
    return factors


def save_lora(
    model: nn.Module,
    folder: str | os.PathLike,
    adapter_name: str = "default",
    format: Literal["peft", "diffusers", "kohya", "diff"] = "peft",
    prefix: str | None = None,
    dtype: torch.dtype = torch.float32,
    rank: int | None = None,
    allow_lossy: bool = False,
) -> Path:
    """Writes `to_lora` as a LoRA file; every tool that reads the format then has the same ΔW up to `dtype`.

    Args:
        format: "peft" (`adapter_model.safetensors` and `adapter_config.json`, for `PeftModel.from_pretrained`),
            "diffusers" (`pytorch_lora_weights.safetensors`, for `load_lora_weights`), "kohya"
            (`kohya_lora.safetensors`, for ComfyUI and the web UIs, with module names as in diffusers), or "diff"
            (`kohya_diff.safetensors`, the whole ΔW under the same names, for ComfyUI: as large as the weights).
        prefix: component in front of the keys: "unet" by default for diffusers, "lora_unet" for Kohya, and of a
            CLIPTextModel "text_encoder" and "lora_te". Other names of a text encoder are "lora_te1", "lora_te2" and
            "text_encoder_2"; its layers get the level `text_model` that these files have and transformers 5 has not.
        dtype: of the file; the alpha equals the rank, so the reader's scale is 1.
        rank: of the file, for readers that take certain ranks only; by default the smallest that is exact without a
            decomposition, m·r for rank-one A and min(n²r, in, out) for dense A. A larger one is filled with zeros.
        allow_lossy: with a smaller `rank`, write the best approximation of that rank.

    `modules_to_save` are not part of the file; a warning names them.

    Returns:
        The path of the weights file. It is written whole under a temporary name, then renamed.

    Raises:
        ValueError: unknown format, no such adapter, a folder that is a file, a rank that loses something without
            `allow_lossy` (the message says how much), a convolution that PEFT's LoRA would run otherwise, or no prefix
            for a CLIPTextModelWithProjection, which may be the first text encoder or the second.
    """
    if format not in _FILES:
        raise ValueError(f"`format` must be one of {sorted(_FILES)}, got {format!r}")
    if rank is not None and (format == "diff" or not isinstance(rank, int) or rank < 1):
        raise ValueError(f"`rank` must be a positive integer, and None with format='diff', got {rank!r}")
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"`folder` must be a folder, {folder} is a file")
    factors = to_lora(model, adapter_name)
    if format in ("peft", "diffusers"):
        _check_convolutions(model, factors)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    left = getattr(getattr(model, "peft_config", {}).get(adapter_name), "modules_to_save", None)
    if left:
        warnings.warn(
            f"a LoRA file holds updates only, so the modules {sorted(left)} that adapter {adapter_name!r} replaces as "
            "a whole (modules_to_save) are not in it",
            stacklevel=2,
        )
    if prefix is None and format != "peft":
        prefix = _component(base, format)
    if rank is not None:
        factors = of_rank(factors, rank, allow_lossy)
    tensors: dict[str, torch.Tensor] = {}
    for name, lora in factors.items():
        if format in ("kohya", "diff"):
            key = f"{prefix}_{in_files(base, name).replace('.', '_')}"
            if format == "diff":
                delta = lora.up.flatten(1) @ lora.down.flatten(1)
                tensors[f"{key}.diff"] = delta.view(len(delta), *lora.down.shape[1:]).to(dtype)
            else:
                tensors[f"{key}.lora_down.weight"] = lora.down.to(dtype)
                tensors[f"{key}.lora_up.weight"] = lora.up.to(dtype)
                tensors[f"{key}.alpha"] = torch.tensor(float(len(lora.down)))
            if lora.bias is not None:
                tensors[f"{key}.diff_b"] = lora.bias.to(dtype)
            continue
        key = f"base_model.model.{name}" if format == "peft" else f"{prefix}.{in_files(base, name)}"
        tensors[f"{key}.lora_A.weight"] = lora.down.to(dtype)
        tensors[f"{key}.lora_B.weight"] = lora.up.to(dtype)
        if lora.bias is not None:
            tensors[f"{key}.lora_B.bias"] = lora.bias.to(dtype)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if format == "peft":
        text = json.dumps(lora_config(factors), indent=2, sort_keys=True)
        with atomic(folder / "adapter_config.json") as partial:
            partial.write_text(text, encoding="utf-8")
    target = folder / _FILES[format]
    with atomic(target) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    return target


def _check_convolutions(model: nn.Module, factors: dict[str, LoraFactors]) -> None:
    """PEFT's LoRA runs a convolution with its stride and padding, and forgets the rest; files to merge are right."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for name in factors:
        layer = base.get_submodule(name).get_base_layer()
        if isinstance(layer, CONVOLUTIONS) and (layer.padding_mode != "zeros" or set(layer.dilation) != {1}):
            raise ValueError(
                f"`{name}` is a convolution with dilation={layer.dilation} and padding_mode={layer.padding_mode!r}, "
                "which PEFT's LoRA leaves out, so its output would differ; use format='kohya' or 'diff', for tools "
                "that merge"
            )


def _component(model: nn.Module, format: str) -> str:
    if not is_text_encoder(model):
        return "unet" if format == "diffusers" else "lora_unet"
    first, second = ("text_encoder", "text_encoder_2") if format == "diffusers" else ("lora_te", "lora_te2")
    if hasattr(model, "text_projection"):
        other = first if format == "diffusers" else "lora_te1"
        raise ValueError(f"`prefix` must be given for a {type(model).__name__}: {other!r} or {second!r}")
    return first


def of_rank(factors: dict[str, LoraFactors], rank: int, allow_lossy: bool) -> dict[str, LoraFactors]:
    """All factors at one rank: filled with zeros, or cut to the best approximation."""
    found, lost, total = {}, 0.0, 0.0
    for name, lora in factors.items():
        up, down = lora.up.flatten(1), lora.down.flatten(1)
        if len(down) > rank:
            # the singular values of B A from two thin QRs, without building it
            left, inner = torch.linalg.qr(up)
            right, outer = torch.linalg.qr(down.T)
            u, s, vh = torch.linalg.svd(inner @ outer.T)
            up, down = left @ (u[:, :rank] * s[:rank]), vh[:rank] @ right.T
            lost, total = lost + float(s[rank:].square().sum()), total + float(s.square().sum())
        missing = rank - len(down)
        up, down = nn.functional.pad(up, (0, missing)), nn.functional.pad(down, (0, 0, 0, missing))
        down, up = down.view(rank, *lora.down.shape[1:]), up.view(len(up), rank, *lora.up.shape[2:])
        found[name] = LoraFactors(down, up, lora.bias)
    error = (lost / total) ** 0.5 if total else 0.0
    if error > 1e-6 and not allow_lossy:
        exact = max(len(lora.down) for lora in factors.values())
        raise ValueError(
            f"this adapter has no exact LoRA form of rank {rank}, it needs {exact}; leave `rank` out, use "
            f"format='diff' or allow_lossy=True (error {error:.1%})"
        )
    return found


def lora_config(factors: dict[str, LoraFactors]) -> dict:
    """PEFT's `adapter_config.json` of a LoRA with these factors, and of no other module."""
    ranks = {name: len(lora.down) for name, lora in factors.items()}
    rank = max(ranks.values())
    # a pattern is matched at the end of a module's name, so the caret keeps it from other modules
    other = {f"^{re.escape(name)}": r for name, r in ranks.items() if r != rank}
    config = LoraConfig(  # the regex, unlike a list of suffixes, matches these modules and no others
        r=rank,
        lora_alpha=rank,
        rank_pattern=other,
        alpha_pattern=other,
        target_modules="|".join(map(re.escape, factors)),
        lora_bias=any(lora.bias is not None for lora in factors.values()),
        inference_mode=True,
    )
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
