"""Which bases the method can stand on, said by name before anything runs."""

from collections.abc import Mapping
from typing import Any

from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging
from packaging import version
from torch import nn

logger = logging.get_logger(__name__)


def refuse_index(index: Mapping[str, Any]) -> None:
    """ValueError if a `model_index.json` names a base of another family; called before any weight is read."""
    name = index.get("_class_name")
    if "transformer" in index:
        raise ValueError(f"base {name} is a diffusion transformer (DiT); FlexEControl needs a Stable Diffusion UNet")
    if "text_encoder_2" in index:
        raise ValueError(f"base {name} has two text encoders (SDXL); FlexEControl needs Stable Diffusion 1.x or 2.x")


def refuse_unet(unet: nn.Module) -> None:
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


def refuse_other_unet(made_for: Mapping[str, Any], unet: nn.Module) -> None:
    """Refuse a base whose encoder, skips or text width differ from the config an adapter was made for."""
    refuse_unet(unet)
    for key in (
        "in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "down_block_types",
        "transformer_layers_per_block", "norm_num_groups", "attention_head_dim", "use_linear_projection",
    ):  # fmt: skip
        mine, theirs = _plain(made_for.get(key)), _plain(unet.config.get(key))
        if mine != theirs:
            raise ValueError(f"this adapter is for another base: its {key} is {mine}, this base's {theirs}")


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def correct_outdated(scheduler: Any, unet: Any) -> None:
    """Correct what the configs of old checkpoints leave wrong, in place, as `StableDiffusionPipeline` does.

    `steps_offset` becomes 1 and `clip_sample` False; a UNet saved before diffusers 0.9 with a `sample_size` under 64
    gets 64. Each correction is logged.
    """
    wrong = {}
    if scheduler is not None and getattr(scheduler.config, "steps_offset", 1) != 1:
        wrong["steps_offset"] = 1
    if scheduler is not None and getattr(scheduler.config, "clip_sample", False) is True:
        wrong["clip_sample"] = False
    _correct("scheduler", scheduler, wrong)
    made_by = getattr(getattr(unet, "config", None), "_diffusers_version", None)
    if made_by is not None and version.parse(version.parse(made_by).base_version) < version.parse("0.9.0.dev0"):
        if isinstance(unet.config.sample_size, int) and unet.config.sample_size < 64:
            _correct("unet", unet, {"sample_size": 64})


def _correct(name: str, part: Any, wrong: Mapping[str, Any]) -> None:
    if wrong:
        was = ", ".join(f"{key}={part.config[key]!r}" for key in wrong)
        logger.warning("the config of %s is outdated: %s is read as %s", name, was, dict(wrong))
        part._internal_dict = FrozenDict({**part.config, **wrong})


def check_parts(vae: Any, text_encoder: Any, unet: Any, control: Any) -> None:
    """ValueError naming the reason if the components can't work together; a component that is None is not checked."""
    unet = getattr(unet, "_orig_mod", unet)  # torch.compile wraps it
    control = getattr(control, "_orig_mod", control)
    if unet is not None:
        refuse_unet(unet)
        if unet.config.time_cond_proj_dim is not None:
            raise ValueError("base has a guidance embedding (time_cond_proj_dim): LCM bases are not supported")
        if control is not None:
            control.check_compatible(unet)
        taken = unet.config.cross_attention_dim
        given = getattr(getattr(text_encoder, "config", None), "hidden_size", taken)
        if given != taken:
            raise ValueError(f"text_encoder gives {given} channels, the unet takes cross_attention_dim={taken}")
    if vae is not None and control is not None:
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        stride = control.config.condition_stride
        if factor != stride:
            raise ValueError(f"the factor of the vae is {factor}, not control's condition_stride={stride}")
