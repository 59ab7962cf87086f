"""`composite_gaussians` as one registered operation. Saved for the backward pass: the inputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from custom_kernels.shared.backend import on_device_of
from custom_kernels.shared.registration import differentiable, like_needed, packed

from .forms import backward_torch, forward_torch

__all__ = ["composite"]


def _run(splats, channels, lists, origins, tile, detached, triton) -> Tensor:
    if triton:
        from ._triton.composite import forward as run
    else:
        run = forward_torch
    with on_device_of(splats):
        return run(splats, channels, lists, origins, tile)


def _run_backward(g, splats, channels, lists, origins, tile, detached, triton, needs) -> list[Tensor | None]:
    if triton:
        from ._triton.composite import backward as run
    else:
        run = backward_torch
    with on_device_of(splats):
        grads = run(g, splats, channels, lists, origins, tile, detached)
    return [grad if need else None for grad, need in zip(grads, needs, strict=True)]


@torch.library.custom_op("wm_kernels::composite_gaussians", mutates_args=())
def registered(
    splats: Tensor, channels: Tensor, lists: Tensor, origins: Tensor, tile: int, detached: int, triton: bool
) -> Tensor:
    """out (n, tile², C + 1); arguments as in `composite`."""
    return _run(splats, channels, lists, origins, tile, detached, triton)


@registered.register_fake
def _(splats, channels, lists, origins, tile, detached, triton):
    return splats.new_empty(lists.shape[0], tile * tile, channels.shape[1] + 1)


@torch.library.custom_op("wm_kernels::composite_gaussians_backward", mutates_args=())
def registered_backward(
    g: Tensor,
    splats: Tensor,
    channels: Tensor,
    lists: Tensor,
    origins: Tensor,
    tile: int,
    detached: int,
    triton: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """The gradients of splats and channels that `needs` names, in order."""
    return packed(_run_backward(g, splats, channels, lists, origins, tile, detached, triton, needs))


@registered_backward.register_fake
def _(g, splats, channels, lists, origins, tile, detached, triton, needs):
    return like_needed((splats, channels), needs)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


_composite = differentiable(
    _run, _run_backward, registered, registered_backward, save=_save, trainable=(0, 1), count=7
)


def composite(*inputs: Any) -> Tensor:
    """out (n, tile², C + 1).

    Args:
        inputs: splats (N, 6), channels (N, C), lists (n, K), origins (n, 2), the tile's side, how
            many channels send no gradient to the splats, whether the kernels run.
    """
    return _composite(*inputs)
