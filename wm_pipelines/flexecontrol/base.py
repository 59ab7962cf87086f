"""Which bases the method can stand on, said by name before anything runs."""

from collections.abc import Mapping
from typing import Any

from wm_pipelines.flexecontrol import modeling


def refuse_index(index: Mapping[str, Any]) -> None:
    """ValueError if a `model_index.json` names a base of another family; called before any weight is read."""
    name = index.get("_class_name")
    if "transformer" in index:
        raise ValueError(f"base {name} is a diffusion transformer (DiT); FlexEControl needs a Stable Diffusion UNet")
    if "text_encoder_2" in index:
        raise ValueError(f"base {name} has two text encoders (SDXL); FlexEControl needs Stable Diffusion 1.x or 2.x")


def check_base(vae: Any, text_encoder: Any, unet: Any, control: Any) -> None:
    """ValueError naming the reason if the components can't work together; a component that is None is not checked."""
    unet = getattr(unet, "_orig_mod", unet)  # torch.compile wraps it
    control = getattr(control, "_orig_mod", control)
    if unet is not None:
        modeling.check_base(unet)
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
