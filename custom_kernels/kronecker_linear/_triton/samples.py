"""An adapter of its own for every sample, from the stacked compact factors: P and Q exist in registers only.

The expanded factors would be m times as many bytes to read, and reading them is all the time this takes.
"""

import torch
import triton
import triton.language as tl

from custom_kernels.shared._triton.blocks import dot, modes
from custom_kernels.shared._triton.chips import padded

from ..rank_one import masked
from .table import launch

__all__ = ["add_samples"]


@triton.jit
def _expand(
    slow_ptr, fast_ptr, base, c, d, N: tl.constexpr, SIZE: tl.constexpr, R: tl.constexpr, ACC: tl.constexpr, mask
):
    """slow[i, d // SIZE]·fast[i, d % SIZE, k] for rank columns c = (i, k) and features d: of the shape of `mask`.

    `base` counts terms: where this adapter and part begin in slow (…, m, N) and fast (…, m, SIZE, R).
    """
    term = (base + c // R).to(tl.int64)
    slow = tl.load(slow_ptr + term * N + d // SIZE, mask=mask, other=0.0)
    fast = tl.load(fast_ptr + (term * SIZE + d % SIZE) * R + c % R, mask=mask, other=0.0)
    return slow.to(ACC) * fast.to(ACC)


@triton.jit
def _sample_down_kernel(
    x_ptr, slow_ptr, fast_ptr, index_ptr, out_ptr, L, D, K, x_stride,
    N: tl.constexpr, SIZE: tl.constexpr, R: tl.constexpr, PARTS: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
    BK: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """out (B·L, PARTS·K) = x Qᵀ with the sample's own Q; zero where the index is -1."""
    sample, tile, part = tl.program_id(1), tl.program_id(0), tl.program_id(2)
    adapter = tl.load(index_ptr + sample)
    t, c = tile * BT + tl.arange(0, BT), tl.arange(0, BK)
    rows, ranks = t < L, c < K
    row = sample.to(tl.int64) * L + t
    acc = tl.zeros((BT, BK), dtype=ACC)
    if adapter >= 0:
        base = (adapter * PARTS + part) * (K // R)
        for start in range(0, D, BD):
            d = start + tl.arange(0, BD)
            inside = d < D
            x = tl.load(x_ptr + row[:, None] * x_stride + d[None, :], mask=rows[:, None] & inside[None, :], other=0.0)
            q = _expand(
                slow_ptr, fast_ptr, base, c[None, :], d[:, None], N, SIZE, R, ACC, ranks[None, :] & inside[:, None]
            )
            acc = dot(x, q.to(x.dtype), acc, UPCAST)
    place = out_ptr + row[:, None] * (PARTS * K) + part * K + c[None, :]
    tl.store(place, acc, mask=rows[:, None] & ranks[None, :])


@triton.jit
def _sample_up_kernel(
    hidden_ptr, slow_ptr, fast_ptr, index_ptr, y_ptr, L, K, hidden_stride, y_stride, scale,
    N: tl.constexpr, SIZE: tl.constexpr, R: tl.constexpr, PARTS: tl.constexpr, SLICES: tl.constexpr, BT: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """y (B·L, do) += s·hidden P on each part's columns, with the sample's own P; nothing where the index is -1."""
    sample, tile = tl.program_id(1), tl.program_id(0)
    adapter = tl.load(index_ptr + sample)
    t, c, n = tile * BT + tl.arange(0, BT), tl.arange(0, BK), tl.program_id(2) * BN + tl.arange(0, BN)
    rows, ranks, columns = t < L, c < K, n < N * SIZE
    row = sample.to(tl.int64) * L + t
    if adapter >= 0:
        for j in tl.static_range(PARTS):
            base = (adapter * PARTS + j) * (K // R)
            hidden = tl.load(
                hidden_ptr + row[:, None] * hidden_stride + j * K + c[None, :],
                mask=rows[:, None] & ranks[None, :], other=0.0,
            )  # fmt: skip
            p = _expand(
                slow_ptr, fast_ptr, base, c[:, None], n[None, :], N, SIZE, R, ACC, ranks[:, None] & columns[None, :]
            )
            place = y_ptr + row[:, None] * y_stride + SLICES[2 * j] + n[None, :]
            held = rows[:, None] & columns[None, :]
            y = tl.load(place, mask=held, other=0.0)
            acc = dot((hidden * scale).to(y.dtype), p.to(y.dtype), y.to(ACC), UPCAST)
            tl.store(place, acc.to(y_ptr.dtype.element_ty), mask=held)


def add_samples(x, y, factors, scale, slices, mask) -> torch.Tensor:
    """Adds every sample's own adapter to y (B·L, do) in place; returns hidden (B·L, parts·k), fp32 or wider."""
    a_out, a_in, u, v = (t.contiguous() for t in factors.given)
    terms, rank, parts, batch = u.shape[-3], u.shape[-1], factors.parts, factors.count
    (tokens, length), k = x.shape, terms * rank
    hidden = x.new_empty(tokens, parts * k, dtype=torch.promote_types(x.dtype, torch.float32))
    if not tokens:
        return hidden
    per_sample = tokens // batch
    constants = {"R": rank, "PARTS": parts, "BK": padded(k), **modes(x)}
    entry = launch("sample_down", x.device)
    _sample_down_kernel[(triton.cdiv(per_sample, entry.tokens), batch, parts)](
        x, a_in, v, factors.index, hidden, per_sample, length, k, x.stride(0), N=a_in.shape[-1], SIZE=v.shape[-2],
        BT=entry.tokens, BD=entry.depth, **constants, num_warps=entry.warps, num_stages=entry.stages,
    )  # fmt: skip
    shrunk = masked(hidden, mask)
    entry, rows = launch("sample_up", x.device), a_out.shape[-1] * u.shape[-2]
    grid = (triton.cdiv(per_sample, entry.tokens), batch, triton.cdiv(rows, entry.columns))
    _sample_up_kernel[grid](
        shrunk, a_out, u, factors.index, y, per_sample, k, shrunk.stride(0), y.stride(0), scale, N=a_out.shape[-1],
        SIZE=u.shape[-2], SLICES=tuple(slices) or (0, rows), BT=entry.tokens, BN=entry.columns, **constants,
        num_warps=entry.warps, num_stages=entry.stages,
    )  # fmt: skip
    return hidden
