"""The linear map with rank-one A as one registered operation.

Saved for the backward pass: x, where a gradient needs it. x Qᵀ, as narrow as the rank, is made again.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from custom_kernels.shared.backend import on_device_of
from custom_kernels.shared.registration import differentiable, like_needed, packed

from .rank_one import (
    A_IN,
    A_OUT,
    MASK,
    WEIGHT,
    Factors,
    U,
    V,
    X,
    backward_torch,
    delta_dtype,
    forward_torch,
    rank_sized_torch,
)

__all__ = ["rank_one"]


def _run(x, weight, bias, a_out, a_in, u, v, mask, index, scale, slices, narrow, triton) -> tuple[Tensor, Tensor]:
    flat = x.reshape(-1, x.shape[-1])
    factors = Factors(a_out, a_in, u, v, slices, index, delta_dtype(x, u, narrow))
    if triton:
        from ._triton.linear import forward as run
    else:
        run = forward_torch
    with on_device_of(x):
        y, hidden = run(flat, weight, bias, factors, scale, slices, mask)
    return y.view(*x.shape[:-1], y.shape[1]), hidden


def _run_backward(
    g, x, hidden, weight, a_out, a_in, u, v, mask, index, scale, slices, narrow, triton, needs
) -> list[Tensor | None]:
    flat = None if x is None else x.reshape(-1, x.shape[-1])
    factors = Factors(a_out, a_in, u, v, slices, index, delta_dtype(g, u, narrow))
    if triton:
        from ._triton.linear import backward as run
        from ._triton.linear import rank_sized
    else:
        run, rank_sized = backward_torch, rank_sized_torch
    with on_device_of(g):
        if hidden is None and (needs[U] or needs[A_OUT] or needs[MASK]):
            hidden = rank_sized(flat, factors)
        grads = run(g.reshape(-1, g.shape[-1]), flat, hidden, weight, factors, scale, slices, mask, needs)
    if needs[X]:
        grads[X] = grads[X].view(*g.shape[:-1], weight.shape[1])
    return grads


def _save(ctx, inputs, outputs) -> None:
    x, weight, _, a_out, a_in, u, v, mask, index, *ctx.options = inputs
    keeps_x = any(ctx.needs[at] for at in (WEIGHT, V, A_IN, U, A_OUT, MASK))
    # of hidden nothing is kept: it is made again
    kept = (x if keeps_x else None, None, weight, a_out, a_in, u, v, mask, index)
    # the parameters' values of now: layerwise casting gives them others, of another type, as soon as the call is over
    ctx.save_for_backward(*(t if t is None else t.detach() for t in kept))


@torch.library.custom_op("wm_kernels::kronecker_rank_one", mutates_args=())
def registered(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a_out: Tensor,
    a_in: Tensor,
    u: Tensor,
    v: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    scale: float,
    slices: Sequence[int],
    narrow: bool,
    triton: bool,
) -> tuple[Tensor, Tensor]:
    """(y (..., do), hidden (T, parts·m·r)); arguments as in `rank_one`."""
    return _run(x, weight, bias, a_out, a_in, u, v, mask, index, scale, slices, narrow, triton)


@registered.register_fake
def _(x, weight, bias, a_out, a_in, u, v, mask, index, scale, slices, narrow, triton):
    k = max(len(slices) // 2, 1) * u.shape[-3] * u.shape[-1]
    dtype = torch.promote_types(x.dtype, torch.float32) if triton else delta_dtype(x, u, narrow)
    return x.new_empty(*x.shape[:-1], weight.shape[0]), x.new_empty(x.numel() // x.shape[-1], k, dtype=dtype)


@torch.library.custom_op("wm_kernels::kronecker_rank_one_backward", mutates_args=())
def registered_backward(
    g: Tensor,
    x: Tensor | None,
    hidden: Tensor | None,
    weight: Tensor,
    a_out: Tensor,
    a_in: Tensor,
    u: Tensor,
    v: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    scale: float,
    slices: Sequence[int],
    narrow: bool,
    triton: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """The gradients that `needs` names, in order. x may be None where no gradient asks for it; so may hidden, which is
    made again otherwise."""
    return packed(
        _run_backward(g, x, hidden, weight, a_out, a_in, u, v, mask, index, scale, slices, narrow, triton, needs)
    )


@registered_backward.register_fake
def _(g, x, hidden, weight, a_out, a_in, u, v, mask, index, scale, slices, narrow, triton, needs):
    like = (g.new_empty(*g.shape[:-1], weight.shape[1]), weight, g.new_empty(weight.shape[0]), a_out, a_in, u, v, mask)
    return like_needed(like, needs)


_rank_one = differentiable(
    _run, _run_backward, registered, registered_backward, save=_save, trainable=range(8), count=13
)


def rank_one(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a_out: Tensor,
    a_in: Tensor,
    u: Tensor,
    v: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    scale: float,
    slices: Sequence[int],
    narrow: bool,
    triton: bool,
) -> Tensor:
    """y (..., do) for x (..., di); arguments are taken as `kronecker_linear` checked them.

    Args:
        a_out, a_in, u, v: with a leading (adapters,) where `index` is given, then (parts,) where `slices` are.
        mask: (B, 1 or tokens a sample, parts·m·r), multiplied with hidden, or None.
        index: (B,) adapter of each sample, -1 for none, or None.
        slices: start and stop of each part, flat; empty for the whole layer.
        narrow: multiply in x's dtype even where the factors are wider (autocast).
        triton: run the kernels.
    """
    return _rank_one(x, weight, bias, a_out, a_in, u, v, mask, index, scale, slices, narrow, triton)[0]
