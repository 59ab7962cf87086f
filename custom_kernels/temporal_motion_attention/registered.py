"""`temporal_motion_attention` as one registered operation. Saved for the backward pass: the inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from custom_kernels.shared.backend import on_device_of
from custom_kernels.shared.precision import no_autocast

from .forms import backward_torch, forward_torch

__all__ = ["attend"]

# inputs: q, k, v, boxes, tau, gamma, rho, height, width, triton
INPUTS = 10
TRAINABLE = (0, 1, 2, 4, 6)  # q, k, v, tau, rho


def _run(q, k, v, boxes, tau, gamma, rho, height, width, triton) -> Tensor:
    if triton:
        from ._triton.attention import forward as run
    else:
        run = forward_torch
    with no_autocast(q.device), on_device_of(q):
        return run(q, k, v, boxes, tau, gamma, rho, (height, width))


def _run_backward(g, q, k, v, boxes, tau, gamma, rho, height, width, triton, needs) -> list[Tensor | None]:
    if triton:
        from ._triton.attention import backward as run
    else:
        run = backward_torch
    with no_autocast(q.device), on_device_of(q):
        return run(g, q, k, v, boxes, tau, gamma, rho, (height, width), needs)


def _save(ctx, inputs, output) -> None:
    *tensors, height, width, triton = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = (height, width, triton)
    ctx.needs = [ctx.needs_input_grad[i] for i in TRAINABLE]


def _gradients(ctx, run, g) -> tuple[Tensor | None, ...]:
    grads: list[Tensor | None] = [None] * INPUTS
    for i, grad in zip(TRAINABLE, run(g, *ctx.saved_tensors, *ctx.options, ctx.needs), strict=True):
        grads[i] = grad
    return tuple(grads)


class _Attend(torch.autograd.Function):
    """The operation in eager mode, where the registered one below costs more time per call."""

    @staticmethod
    def forward(ctx, *inputs):
        out = _run(*inputs)
        _save(ctx, inputs, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return _gradients(ctx, _run_backward, g)


@torch.library.custom_op("wm_kernels::temporal_motion_attention", mutates_args=())
def registered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    tau: Tensor,
    gamma: Tensor,
    rho: Tensor | None,
    height: int,
    width: int,
    triton: bool,
) -> Tensor:
    """out (B, L, F, H, d); arguments as in `attend`."""
    return _run(q, k, v, boxes, tau, gamma, rho, height, width, triton)


@registered.register_fake
def _(q, k, v, boxes, tau, gamma, rho, height, width, triton):
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@torch.library.custom_op("wm_kernels::temporal_motion_attention_backward", mutates_args=())
def registered_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    tau: Tensor,
    gamma: Tensor,
    rho: Tensor | None,
    height: int,
    width: int,
    triton: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """The gradients that `needs` names, in order."""
    grads = _run_backward(g, q, k, v, boxes, tau, gamma, rho, height, width, triton, needs)
    return [grad.contiguous() for grad in grads if grad is not None]


@registered_backward.register_fake
def _(g, q, k, v, boxes, tau, gamma, rho, height, width, triton, needs):
    like = (q, k, v, tau, rho)
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t, n in zip(like, needs, strict=True) if n]


def _registered_gradients(ctx, g):
    def run(*arguments):
        found = iter(registered_backward(*arguments))
        return [next(found) if need else None for need in ctx.needs]

    return _gradients(ctx, run, g)


registered.register_autograd(
    _registered_gradients, setup_context=lambda ctx, inputs, output: _save(ctx, inputs, output)
)


def attend(*inputs) -> Tensor:
    """out (B, L, F, H, d) as `temporal_motion_attention` checked and completed the arguments.

    Args:
        inputs: q, k, v; boxes (B, O, F, 4), tau (B,), gamma (B, O) and rho (B, H, 2F−1) or None in the sums' dtype;
            h, w; whether the kernels run.
    """
    return registered(*inputs) if torch.compiler.is_compiling() else _Attend.apply(*inputs)
