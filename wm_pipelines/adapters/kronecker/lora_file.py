"""Adapter folders as one plain LoRA file: strength by block, and the text encoder's part beside the denoiser's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from wm_pipelines.runtime.files import atomic, atomic_folder

from .layers_without_model import read_layers
from .lora_export import LoraFactors, lora_config, of_rank
from .text_encoder_names import LEVEL

__all__ = ["export_lora", "read_block_strengths"]

FORMATS = ("kohya", "diffusers", "peft")
_TEXT = ("encoder.layers.", f"{LEVEL}.encoder.layers.")
_PREFIXES = {"kohya": ("lora_unet_", "lora_te_"), "diffusers": ("unet.", "text_encoder.")}


def export_lora(
    adapter: str | os.PathLike,
    target: str | os.PathLike,
    *,
    text_encoder: str | os.PathLike | None = None,
    strength: float = 1.0,
    text_encoder_strength: float = 1.0,
    blocks: Mapping[str, float] | None = None,
    format: Literal["kohya", "diffusers", "peft"] = "kohya",
    rank: int | None = None,
    allow_lossy: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, int]:
    """Write Kronecker adapters, without their models, as LoRA: module by module the same ΔW, times its strength.

    Args:
        adapter: folder of the denoiser's adapter, as `save_adapter` and PEFT write it. Of "peft" any model's.
        target: the file for "kohya" (ComfyUI and the web UIs) and "diffusers" (`load_lora_weights`), the folder for
            "peft" (`PeftModel.from_pretrained`).
        text_encoder: folder of the first text encoder's adapter; not for "peft", whose folders are of one model.
        strength, text_encoder_strength: of the two parts; they and `blocks` are multiplied into the factors.
        blocks: name of a block -> further factor of the modules in it, such as {"down_blocks.1": 0.5}; of several
            names that fit, the longest counts. A module at 0 is left out.
        rank, allow_lossy: as in `save_lora`.
        dtype: of the file.

    Returns:
        `modules`, how many there are, and `rank`, the largest.

    Raises:
        ValueError: no such adapter, an unknown format, a block that no module lies in, a part that belongs to another
            kind of model, or nothing left to write.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}")
    if rank is not None and (type(rank) is not int or rank < 1):
        raise ValueError(f"`rank` must be a positive integer or None, got {rank!r}")
    if format == "peft" and text_encoder is not None:
        raise ValueError("`text_encoder` must be None with format='peft': a folder of PEFT's is of one model")
    first = _factors(adapter)
    second = {} if text_encoder is None else _factors(text_encoder)
    if format != "peft":
        _check_parts(first, second)
    blocks = dict(blocks or {})
    idle = [name for name in blocks if not any(_inside(module, name) for module in (*first, *second))]
    if idle:
        raise ValueError(f"`blocks` has {idle[0]!r}, in which no adapted module lies; there are {_shown(first)}")
    scaled = [_scaled(first, strength, blocks), _scaled(second, text_encoder_strength, blocks)]
    joined = {(part, name): lora for part, found in enumerate(scaled) for name, lora in found.items()}
    if not joined:
        raise ValueError("every module's strength is 0, so there is nothing to write")
    if rank is not None:
        joined = of_rank(joined, rank, allow_lossy)
    tensors: dict[str, torch.Tensor] = {}
    for (part, name), lora in joined.items():
        tensors |= _tensors(name, lora, format=format, part=part, dtype=dtype)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    if format == "peft":
        text = json.dumps(lora_config({name: lora for (_, name), lora in joined.items()}), indent=2, sort_keys=True)
        with atomic_folder(target, last="adapter_config.json") as partial:
            save_file(tensors, partial / "adapter_model.safetensors", metadata={"format": "pt"})
            (partial / "adapter_config.json").write_text(text, encoding="utf-8")
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as partial:
            save_file(tensors, partial, metadata={"format": "pt"})
    return {"modules": len(joined), "rank": max(len(lora.down) for lora in joined.values())}


def read_block_strengths(text: str) -> dict[str, float]:
    """Lines `block = strength` of a text field; empty lines and what follows a `#` are left out.

    Raises:
        ValueError: a line of another form, a block named twice, or a strength that is no finite number.
    """
    found: dict[str, float] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        try:
            strength = float(value)
        except ValueError:
            strength = float("nan")
        if not equals or not name or name in found or not abs(strength) < float("inf"):
            raise ValueError(
                f"`blocks` has {line!r:.200} on line {number}; a line is a name, '=' and a number, each name once"
            )
        found[name] = strength
    return found


def _factors(folder: str | os.PathLike) -> dict[str, LoraFactors]:
    layers = read_layers(folder)
    return {name: LoraFactors(down, up, bias) for name, layer in layers.items()
            for up, down, bias in [layer.get_lora_factors("default")]}  # fmt: skip


def _check_parts(first: Iterable[str], second: Iterable[str]) -> None:
    """Neither a text encoder in the denoiser's place, nor the other way round."""
    wrong = [name for name in first if name.startswith((*_TEXT, "vision_model."))]
    if wrong:
        raise ValueError(
            f"`adapter` is of a CLIP tower: it has {wrong[0]!r}; give a text encoder's as `text_encoder`, or export "
            "it alone with format='peft'"
        )
    wrong = [name for name in second if not name.startswith(_TEXT)]
    if wrong:
        raise ValueError(f"`text_encoder` is not an adapter of a CLIP text encoder: it has {wrong[0]!r}")


def _scaled(found: dict[str, LoraFactors], strength: float, blocks: Mapping[str, float]) -> dict[str, LoraFactors]:
    scaled = {}
    for name, lora in found.items():
        block = max((b for b in blocks if _inside(name, b)), key=len, default=None)
        factor = strength * (1.0 if block is None else blocks[block])
        if factor:
            scaled[name] = LoraFactors(lora.down, lora.up * factor, None if lora.bias is None else lora.bias * factor)
    return scaled


def _inside(module: str, block: str) -> bool:
    return module == block or module.startswith(f"{block}.")


def _shown(names: Iterable[str]) -> str:
    """Blocks that can be named: the first two levels of the modules' names."""
    return ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))[:300]


def _tensors(name: str, lora: LoraFactors, format: str, part: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if format != "peft" and part == 1 and not name.startswith(LEVEL):
        name = f"{LEVEL}.{name}"
    if format == "kohya":
        key = _PREFIXES[format][part] + name.replace(".", "_")
        down, up, bias = ("lora_down.weight", "lora_up.weight", "diff_b")
    else:
        key = f"base_model.model.{name}" if format == "peft" else _PREFIXES[format][part] + name
        down, up, bias = ("lora_A.weight", "lora_B.weight", "lora_B.bias")
    found = {f"{key}.{down}": lora.down.to(dtype), f"{key}.{up}": lora.up.to(dtype)}
    if format == "kohya":
        found[f"{key}.alpha"] = torch.tensor(float(len(lora.down)))
    if lora.bias is not None:
        found[f"{key}.{bias}"] = lora.bias.to(dtype)
    return found
