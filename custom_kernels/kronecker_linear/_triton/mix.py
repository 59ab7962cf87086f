"""The middle step of the dense form, a batch of small products, one for each term."""

import torch
import triton
import triton.language as tl

from custom_kernels.shared._triton.blocks import dot, modes
from custom_kernels.shared._triton.chips import padded

from .table import launch

__all__ = ["mix"]


@triton.jit
def _mix_kernel(
    hidden_ptr, a_ptr, out_ptr, E, M, N_IN, N_OUT, a_stride_o, a_stride_p,
    R: tl.constexpr, BE: tl.constexpr, BM: tl.constexpr, BP: tl.constexpr, BO: tl.constexpr,
    ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """out[t,o,i,k] = Σ_p a[i,o,p] hidden[t,p,i,k] for rows e = (t,k), E of them, and BM terms at a time."""
    e, i = tl.program_id(0) * BE + tl.arange(0, BE), tl.program_id(1) * BM + tl.arange(0, BM)
    p, o = tl.arange(0, BP), tl.arange(0, BO)
    token, rank, terms = (e // R).to(tl.int64), e % R, i < M
    column = i[:, None, None] * R + rank[None, :, None]  # (BM, BE, 1) place within the rank
    row = token[None, :, None]
    place = hidden_ptr + (row * N_IN + p[None, None, :]) * (M * R) + column
    held = terms[:, None, None] & (e < E)[None, :, None]
    hidden = tl.load(place, mask=held & (p < N_IN)[None, None, :], other=0.0)  # (BM, BE, BP)
    place = a_ptr + i[:, None, None].to(tl.int64) * (N_IN * N_OUT)
    place += o[None, None, :] * a_stride_o + p[None, :, None] * a_stride_p
    kept = terms[:, None, None] & (o < N_OUT)[None, None, :] & (p < N_IN)[None, :, None]
    a = tl.load(place, mask=kept, other=0.0).to(hidden.dtype)  # (BM, BP, BO)
    acc = dot(hidden, a, tl.zeros((BM, BE, BO), dtype=ACC), UPCAST)
    place = out_ptr + (row * N_OUT + o[None, None, :]) * (M * R) + column
    tl.store(place, acc.to(out_ptr.dtype.element_ty), mask=held & (o < N_OUT)[None, None, :])


def mix(hidden: torch.Tensor, a: torch.Tensor, transposed: bool = False) -> torch.Tensor:
    """(T, n_in, m, r) with a (m, n_out, n_in) -> (T, n_out, m, r); with `transposed` the other way, by Aᵀ."""
    hidden, a = hidden.contiguous(), a.contiguous()
    (tokens, size, terms, rank), other = hidden.shape, a.shape[2 if transposed else 1]
    out = hidden.new_empty(tokens, other, terms, rank)
    if not out.numel():
        return out
    entry = launch("mix", hidden.device)
    strides = (1, a.stride(1)) if transposed else (a.stride(1), 1)
    _mix_kernel[(triton.cdiv(tokens * rank, entry.tokens), triton.cdiv(terms, entry.depth))](
        hidden, a, out, tokens * rank, terms, size, other, *strides,
        R=rank, BE=entry.tokens, BM=entry.depth, BP=padded(size), BO=padded(other),
        **modes(hidden), num_warps=entry.warps, num_stages=entry.stages,
    )  # fmt: skip
    return out
