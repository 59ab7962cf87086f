"""The middle step of the dense form as a registered operation, for the Triton backend."""

import torch
from torch import Tensor

from custom_kernels.shared.backend import on_device_of

__all__ = ["kronecker_mix", "kronecker_mix_reference"]


def kronecker_mix_reference(hidden: Tensor, a: Tensor) -> Tensor:
    """out[t,o,i,k] = Σ_p a[i,o,p] hidden[t,p,i,k]."""
    return torch.einsum("iop,tpik->toik", a, hidden)


@torch.library.custom_op("wm_kernels::kronecker_mix", mutates_args=())
def kronecker_mix(hidden: Tensor, a: Tensor, transposed: bool = False) -> Tensor:
    """As the reference by a Triton kernel; with `transposed` every A_i is transposed.

    Args:
        hidden: (T, n_in, m, r). a: (m, n_out, n_in).
    """
    from ._triton.mix import mix

    with on_device_of(hidden):
        return mix(hidden, a, transposed)


@kronecker_mix.register_fake
def _(hidden, a, transposed=False):
    return hidden.new_empty(hidden.shape[0], a.shape[2 if transposed else 1], *hidden.shape[2:])


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx, g):
    hidden, a = ctx.saved_tensors
    d_hidden = kronecker_mix(g.contiguous(), a, True) if ctx.needs_input_grad[0] else None
    d_a = torch.einsum("toik,tpik->iop", g, hidden).to(a.dtype) if ctx.needs_input_grad[1] else None
    return d_hidden, d_a, None


kronecker_mix.register_autograd(_backward, setup_context=_setup)
