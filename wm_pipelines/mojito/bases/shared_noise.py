"""Noise that the frames of a clip have in common (the mixed noise of "Preserve Your Own Correlation", 2305.10474)."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor


def share_noise(stock: DiffusionPipeline, share: float) -> None:
    """Makes `stock` start from noise of which the frames of a clip have `share` of the variance in common.

    It changes this object alone. Latents that a call brings are left as they are.

    Raises:
        ValueError: its latents are not (B, C, F, h, w) noise of every frame by itself, as AnimateDiff's are.
    """
    if type(stock).__name__ != "AnimateDiffPipeline":
        raise ValueError(f"shared_noise={share} is for AnimateDiff bases, and {type(stock).__name__} is none")
    stock.prepare_latents = _mixed(stock.prepare_latents, share, stock.scheduler)


def _mixed(prepare: Callable[..., torch.Tensor], share: float, scheduler: Any) -> Callable[..., torch.Tensor]:
    signature = inspect.signature(prepare)

    def prepared(*args: Any, **kwargs: Any) -> torch.Tensor:
        own = prepare(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        if given.get("latents") is not None:
            return own
        one = (*own.shape[:2], 1, *own.shape[3:])
        common = randn_tensor(one, generator=given.get("generator"), device=own.device, dtype=own.dtype)
        # only now: with its time steps a scheduler of sigmas changes this one
        return share**0.5 * scheduler.init_noise_sigma * common + (1 - share) ** 0.5 * own

    return prepared
