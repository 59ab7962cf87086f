"""`composite_gaussians` as one registered operation. Saved for the backward pass: the inputs."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from custom_kernels.shared.backend import on_device_of

from .forms import backward_torch, forward_torch

__all__ = ["composite"]


def _run(splats, channels, lists, origins, tile, detached, triton) -> Tensor:
    if triton:
        from ._triton.composite import forward as run
    else:
        run = forward_torch
    with on_device_of(splats):
        return run(splats, channels, lists, origins, tile)


def _run_backward(g, splats, channels, lists, origins, tile, detached, triton) -> tuple[Tensor, Tensor]:
    if triton:
        from ._triton.composite import backward as run
    else:
        run = backward_torch
    with on_device_of(splats):
        return run(g, splats, channels, lists, origins, tile, detached)


class _Composite(torch.autograd.Function):
    """The operation in eager mode, where the registered one below costs more time per call."""

    @staticmethod
    def forward(ctx, *inputs):
        ctx.save_for_backward(*inputs[:4])
        ctx.options = inputs[4:]
        return _run(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return *_run_backward(g, *ctx.saved_tensors, *ctx.options), *[None] * 5


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
) -> tuple[Tensor, Tensor]:
    """The gradients of splats and channels."""
    return _run_backward(g, splats, channels, lists, origins, tile, detached, triton)


@registered_backward.register_fake
def _(g, splats, channels, lists, origins, tile, detached, triton):
    return torch.empty_like(splats), torch.empty_like(channels)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


registered.register_autograd(
    lambda ctx, g: (*registered_backward(g, *ctx.saved_tensors, *ctx.options), *[None] * 5),
    setup_context=_save,
)


def composite(*inputs) -> Tensor:
    """out (n, tile², C + 1).

    Args:
        inputs: splats (N, 6), channels (N, C), lists (n, K), origins (n, 2), the tile's side, how
            many channels send no gradient to the splats, whether the kernels run.
    """
    return registered(*inputs) if torch.compiler.is_compiling() else _Composite.apply(*inputs)
