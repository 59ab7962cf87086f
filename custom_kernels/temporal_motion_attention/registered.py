"""`temporal_motion_attention` as one registered operation. Saved for the backward pass: the inputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from custom_kernels.shared.backend import on_device_of
from custom_kernels.shared.precision import no_autocast
from custom_kernels.shared.registration import differentiable, like_needed, packed

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
    return packed(_run_backward(g, q, k, v, boxes, tau, gamma, rho, height, width, triton, needs))


@registered_backward.register_fake
def _(g, q, k, v, boxes, tau, gamma, rho, height, width, triton, needs):
    return like_needed((q, k, v, tau, rho), needs)


_attend = differentiable(
    _run, _run_backward, registered, registered_backward, save=_save, trainable=TRAINABLE, count=INPUTS
)


def attend(*inputs: Any) -> Tensor:
    """out (B, L, F, H, d) as `temporal_motion_attention` checked and completed the arguments.

    Args:
        inputs: q, k, v; boxes (B, O, F, 4), tau (B,), gamma (B, O) and rho (B, H, 2F−1) or None in the sums' dtype;
            h, w; whether the kernels run.
    """
    return _attend(*inputs)
