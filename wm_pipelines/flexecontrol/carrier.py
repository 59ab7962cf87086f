"""What the adapter takes from its base, which bases can give it, and how the rest of it starts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from wm_pipelines.runtime.random import keyed

COPY_PREFIXES = ("conv_in.", "time_embedding.", "down_blocks.", "mid_block.")
NEW_MARKS = ("conv_gamma.", "conv_beta.", "kronecker_", "lora_")


def is_copy(name: str) -> bool:
    """Whether a parameter of the adapter is a copy of the UNet's of the same name."""
    return name.startswith(COPY_PREFIXES) and not any(mark in name for mark in NEW_MARKS)


def check_base(unet: nn.Module) -> None:
    """Refuse a base that cannot carry this adapter, by name."""
    if not isinstance(unet, UNet2DConditionModel):
        raise ValueError(
            f"base is {type(unet).__name__}; FlexEControl copies the encoder of a UNet2DConditionModel (Stable "
            "Diffusion 1.x or 2.x), and a DiT or another denoiser has none"
        )
    config = unet.config
    if config.addition_embed_type is not None:
        raise ValueError(
            f"base has addition_embed_type={config.addition_embed_type!r} (SDXL and its kin need pooled text and "
            "sizes); allowed: Stable Diffusion 1.x or 2.x"
        )
    if config.in_channels != config.out_channels:
        kind = {9: "an inpainting", 8: "an image-editing"}.get(config.in_channels, "a concatenating")
        raise ValueError(f"base has {config.in_channels} input channels ({kind} UNet); allowed: {config.out_channels}")
    for key, allowed in {
        "class_embed_type": None,
        "num_class_embeds": None,
        "encoder_hid_dim_type": None,
        "resnet_time_scale_shift": "default",
        "attention_type": "default",
    }.items():
        if config[key] != allowed:
            raise ValueError(f"base has {key}={config[key]!r}; allowed: {allowed!r}")
    known = ("CrossAttnDownBlock2D", "DownBlock2D")
    for block in config.down_block_types:
        if block not in known:
            raise ValueError(f"base has a {block}; allowed down blocks: {', '.join(known)}")
    if config.mid_block_type not in ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"):
        raise ValueError(f"base has mid_block_type={config.mid_block_type!r}; allowed: UNetMidBlock2DCrossAttn")


def check_same_base(made_for: Mapping[str, Any], unet: nn.Module) -> None:
    """Refuse a base whose encoder, skips or text width differ from the config an adapter was made for."""
    check_base(unet)
    for key in (
        "in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "down_block_types",
        "transformer_layers_per_block", "norm_num_groups", "attention_head_dim", "use_linear_projection",
    ):  # fmt: skip
        mine, theirs = _plain(made_for.get(key)), _plain(unet.config.get(key))
        if mine != theirs:
            raise ValueError(f"this adapter is for another base: its {key} is {mine}, this base's {theirs}")


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def check_channels(levels: int, stride: int, features: Sequence[int], pre: Sequence[int]) -> None:
    """Refuse extractor widths that do not fit the UNet's levels or the stride."""
    if stride < 1 or stride & (stride - 1):
        raise ValueError(f"condition_stride must be a power of two, got {stride}")
    if len(features) != levels:
        raise ValueError(f"feature_channels needs one width per UNet level ({levels}), got {list(features)}")
    needed = max(stride.bit_length() - 1, 1)
    if len(pre) != needed:
        raise ValueError(f"pre_channels needs {needed} widths for condition_stride {stride}, got {list(pre)}")


def take_copy(model: nn.Module, unet: UNet2DConditionModel) -> None:
    """Fill the copied part of `model` with copies of `unet`'s tensors.

    What is already loaded (a slim file) decides dtype and device; a new adapter, all on meta, takes the base's.
    """
    state = unet.state_dict()
    wanted = [name for name in model.state_dict() if is_copy(name)]
    gone = [name for name in wanted if name not in state]
    if gone:
        raise ValueError(f"base has no {gone[0]!r} (and {len(gone) - 1} more): unload its adapters (LoRA) first")
    loaded = (p for name, p in model.named_parameters() if not p.is_meta and not is_copy(name))
    like = next(loaded, unet.conv_in.weight)
    copies = {name: state[name].detach().to(like, copy=True) for name in wanted}
    model.load_state_dict(copies, strict=False, assign=True)


def initialise(model: nn.Module, device: torch.device, dtype: torch.dtype, seed: int) -> None:
    """Fill what is not copied. Numbers are keyed by (seed, name): independent of order and of any global state."""
    fresh = {
        name: _start(model, name, p, device, seed).to(device=device, dtype=dtype)
        for name, p in model.named_parameters()
        if not is_copy(name)
    }
    model.load_state_dict(fresh, strict=False, assign=True)


def _start(model: nn.Module, name: str, p: nn.Parameter, device: torch.device, seed: int) -> torch.Tensor:
    if device.type == "meta":
        return torch.empty(p.shape, device="meta")
    if "zero_conv" in name or name.endswith("kronecker_u"):
        return torch.zeros(p.shape)
    if "norm" in name and "conv_" not in name:
        return torch.full(p.shape, float(name.endswith("weight")))
    generator = keyed(seed, "flexecontrol", name)
    if name.endswith("kronecker_a"):
        return torch.from_numpy(generator.standard_normal(p.shape, dtype="float32")) * p.shape[-1] ** -0.5
    if name.endswith("kronecker_v"):
        bound = (3 / p.shape[-2]) ** 0.5  # V^T x has unit variance for unit x
    else:  # torch's own default for convolutions and linears
        bound = model.get_parameter(name.rsplit(".", 1)[0] + ".weight")[0].numel() ** -0.5
    return torch.from_numpy(2 * generator.random(p.shape, dtype="float32") - 1) * bound
