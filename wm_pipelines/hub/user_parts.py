"""Parts of other people's put into a loaded pipeline: a LoRA, a VAE; and such a pipeline saved as a whole.

Files are read as safetensors alone, and strictly: a tensor that finds no place is an error, not a line in a log.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wm_pipelines.config import CONFIG_NAME, WMConfig
from wm_pipelines.hub.conversion import fill, vae_source
from wm_pipelines.hub.store import recorded_files, seal
from wm_pipelines.hub.weights import align
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.tensors import read_tensors

_PARTS = {
    "unet": ("unet.", "lora_unet_"),
    "transformer": ("transformer.", "lora_unet_", "lora_transformer_"),
    "text_encoder": ("text_encoder.", "lora_te_", "lora_te1_"),
    "text_encoder_2": ("text_encoder_2.", "lora_te2_"),
}
_ROLES = {
    "lora_down.weight": "down",
    "lora.down.weight": "down",
    "lora_A.weight": "down",
    "lora_A.default.weight": "down",
    "lora_linear_layer.down.weight": "down",
    "lora_up.weight": "up",
    "lora.up.weight": "up",
    "lora_B.weight": "up",
    "lora_B.default.weight": "up",
    "lora_linear_layer.up.weight": "up",
    "alpha": "alpha",
    "diff_b": "bias",
    "lora_B.bias": "bias",
}
_SPARE = r"loss\.|model_ema\."


def add_lora(pipeline: Any, file: str | os.PathLike, strength: float = 1.0) -> int:
    """Merge a LoRA into the weights of a pipeline's denoiser and text encoders: W + strength·(alpha/rank)·B A.

    Args:
        pipeline: with `unet` or `transformer`, and text encoders; changed in place.
        file: safetensors, with names as diffusers, PEFT (with a component in front) or Kohya give them.
        strength: 1 is as trained.

    Returns:
        How many modules were changed.

    Raises:
        ValueError: a tensor of the file has no place in the pipeline or another shape, or one of a pair is missing;
            nothing is changed then.
    """
    parts = {name: getattr(pipeline, name, None) for name in _PARTS}
    named = {name: _modules(part) for name, part in parts.items() if isinstance(part, nn.Module)}
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    unknown = []
    for key, tensor in read_tensors(file).items():
        place = _place(key, named)
        if place is None:
            unknown.append(key)
        else:
            found.setdefault(place[:2], {})[place[2]] = tensor
    if unknown:
        raise ValueError(
            f"{Path(file).name} has {len(unknown)} tensors without a place in this {type(pipeline).__name__}, first "
            f"{unknown[0]!r:.200}; it is a LoRA of another model, or of another kind than down, up and alpha"
        )
    changes = []
    for (part, name), factors in found.items():
        module = named[part][name]
        changes.append((module.weight, _delta(f"{part}.{name}", module, factors)))
        if "bias" in factors:
            changes.append((module.bias, _bias(f"{part}.{name}", module, factors["bias"])))
    with torch.no_grad():
        for weight, delta in changes:
            weight.add_((strength * delta).to(weight))
    return len(found)


def read_vae(file: str | os.PathLike, like: Any) -> Any:
    """An `AutoencoderKL` from one file, as diffusers or the makers of Stable Diffusion name its tensors.

    Args:
        file: safetensors; names may have `first_stage_model.` or `vae.` in front.
        like: the VAE in whose place it goes: sizes, dtype and scale of the latents are its own.

    Raises:
        ValueError: keys missing, left over or of another shape, named.
    """
    from diffusers import AutoencoderKL

    if not isinstance(like, AutoencoderKL):
        raise ValueError(
            f"the pipeline's VAE is a {type(like).__name__}; a file can take the place of an AutoencoderKL"
        )
    state = read_tensors(file)
    prefix = next((p for p in ("first_stage_model.", "vae.") if any(key.startswith(p) for key in state)), "")
    own = any(key.startswith((prefix + "encoder.down_blocks.", prefix + "encoder.conv_norm_out.")) for key in state)
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(like.config)
    blocks = len(like.config.block_out_channels)
    try:
        fill(vae, state, prefix, (lambda name: name) if own else lambda name: vae_source(name, blocks), _SPARE)
    except ValueError as error:
        raise ValueError(f"{Path(file).name} does not fit the pipeline's VAE: {error}") from None
    align(vae.to(like.dtype))
    return vae


def save_whole(pipeline: Any, folder: str | os.PathLike) -> None:
    """Save all parts of a pipeline with its record; also of a stock class, which keeps none itself.

    Raises:
        ValueError: there is no record, so that nothing could load the folder again.
    """
    if hasattr(pipeline, "wm_config"):
        if pipeline.wm_config is None:
            raise ValueError(f"this {type(pipeline).__name__} has no record, so what is saved could not be loaded")
        pipeline.save_pretrained(folder)
        return
    source = Path(str(getattr(pipeline, "config", {}).get("_name_or_path", "")))
    if not hasattr(pipeline, "save_pretrained") or not (source / CONFIG_NAME).is_file():
        raise ValueError(f"this {type(pipeline).__name__} was loaded without a record and can't be saved here")
    record = WMConfig.load(source)
    with atomic_folder(folder, last=CONFIG_NAME, listed=recorded_files) as partial:
        pipeline.save_pretrained(partial)
        seal(partial, record.model_copy(update={"evaluation": []}))  # its figures are of the files it was read from


def _modules(part: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer with a matrix or a convolution."""
    return {name: module for name, module in part.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}


def _place(key: str, named: dict[str, dict[str, nn.Module]]) -> tuple[str, str, str] | None:
    """Component, module and role of a tensor."""
    from wm_pipelines.adapters.kronecker.text_encoder_names import in_model

    ending = max((e for e in _ROLES if key.endswith("." + e)), key=len, default=None)
    if ending is None:
        return None
    for part, modules in named.items():
        for prefix in _PARTS[part]:
            if not key.startswith(prefix):
                continue
            name = key.removeprefix(prefix).removesuffix("." + ending)
            if prefix.endswith("."):
                name = in_model(name, modules)
            else:
                flat = {known.replace(".", "_"): known for known in modules}
                name = flat.get(in_model(name, flat, "_"), "")
            if name in modules:
                return part, name, _ROLES[ending]
    return None


def _delta(where: str, module: nn.Module, factors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The update of a weight, fp32; a convolution's is multiplied as matrices."""
    if not {"down", "up"} <= factors.keys():
        raise ValueError(f"the LoRA has {', '.join(factors)} of {where} only; down and up belong together")
    down, up, alpha = factors["down"].float(), factors["up"].float(), factors.get("alpha")
    rank, weight = len(down) if down.dim() else 0, module.weight
    inner = down.shape[1:].numel() == weight.shape[1:].numel() and down.dim() > 1
    outer = up.shape[:2] == (len(weight), rank) and up.shape[2:].numel() == 1
    if not rank or not inner or not outer or (alpha is not None and alpha.numel() != 1):
        raise ValueError(
            f"the LoRA has {tuple(down.shape)} and {tuple(up.shape)} for {where}, whose weight is "
            f"{tuple(weight.shape)}"
        )
    scale = 1.0 if alpha is None else float(alpha) / rank
    return (scale * (up.flatten(1) @ down.flatten(1))).view(weight.shape)


def _bias(where: str, module: nn.Module, bias: torch.Tensor) -> torch.Tensor:
    if module.bias is None or bias.shape != module.bias.shape:
        own = "none" if module.bias is None else f"of {tuple(module.bias.shape)}"
        raise ValueError(f"the LoRA has a bias {tuple(bias.shape)} for {where}, whose own is {own}")
    return bias.float()
