"""Checkpoints of others put into stock models: every tensor has a place, and none is copied or cast."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import nn

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""Parts of a residual block of a stock UNet, and what latent diffusion calls them."""


def vae_source(name: str, blocks: int = 4) -> str:
    """The name that taming-transformers and latent diffusion have for one parameter of `AutoencoderKL` or `VQModel`.

    Args:
        blocks: levels of the model; the source counts the decoder's from the finest.
    """
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{blocks - 1 - int(found[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    for ours, theirs in {
        "mid_block.attentions.0": "mid.attn_1",
        ".attentions.": ".attn.",
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
        ".resnets.": ".block.",
        "samplers.0": "sample",
        "conv_shortcut": "nin_shortcut",
        "conv_norm_out": "norm_out",
    }.items():
        name = name.replace(ours, theirs)
    return name


def fill(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    prefix: str,
    source: Callable[[str], str | tuple[str, int | None]],
    spare: str = "(?!)",
) -> None:
    """Puts the source's tensors themselves into a model, which may be on the meta device, and freezes it.

    Args:
        state: the checkpoint. prefix: of the part's names in it. source: name in the model -> name behind the prefix,
            with the third to take where three tensors lie in one.
        spare: pattern of the names behind the prefix that the model has no place for.

    Raises:
        ValueError: keys missing, left over or of another shape, named.
    """
    wanted: dict[str, tuple[str, int | None]] = {}
    for name in model.state_dict():
        found = source(name)
        key, third = found if isinstance(found, tuple) else (found, None)
        wanted[name] = prefix + key, third
    used = {key for key, _ in wanted.values()}
    missing = sorted(used - set(state))
    extra = sorted(
        key for key in set(state) - used if key.startswith(prefix) and not re.match(spare, key.removeprefix(prefix))
    )
    if missing or extra:
        raise ValueError(
            f"checkpoint lacks {len(missing)} keys {missing[:3]} and has {len(extra)} that have no place {extra[:3]}"
        )
    filled = {}
    for name, target in model.state_dict().items():
        key, third = wanted[name]
        tensor = state[key] if third is None else state[key].chunk(3)[third]
        if tensor.shape != target.shape and [n for n in tensor.shape if n > 1] == [n for n in target.shape if n > 1]:
            tensor = tensor.reshape(target.shape)  # a convolution of width one, which is a linear layer here
        if tensor.shape != target.shape:
            raise ValueError(f"{key} has shape {tuple(tensor.shape)}; this model needs {tuple(target.shape)}")
        filled[name] = tensor
    model.load_state_dict(filled, assign=True)
    model.requires_grad_(False).eval()
