"""What the adapter takes from its base, and how the rest of it starts."""

from collections.abc import Callable, Sequence

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from wm_pipelines.runtime.random import keyed

COPY_PREFIXES = ("conv_in.", "time_embedding.", "down_blocks.", "mid_block.")
NEW_MARKS = ("conv_gamma.", "conv_beta.", "kronecker_", "lora_")


def is_copy(name: str) -> bool:
    """Whether a parameter of the adapter is a copy of the UNet's of the same name."""
    return name.startswith(COPY_PREFIXES) and not any(mark in name for mark in NEW_MARKS)


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


def initialise(
    model: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    copied: Callable[[str], bool] = is_copy,
) -> None:
    """Fill what is not `copied`. Numbers are keyed by (seed, name): independent of order and of any global state."""
    fresh = {
        name: _start(model, name, p, device, seed).to(device=device, dtype=dtype)
        for name, p in model.named_parameters()
        if not copied(name)
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
