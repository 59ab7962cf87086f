"""Kernels of the rank-one Kronecker linear map, forward and backward.

Split fusion (c1) cuts at the rank-sized tensor: `_down_kernel` makes it, `_linear_kernel` multiplies it by P at the
end of the base product's loop. With few tokens (c2) the second kernel makes it as well, in the same loop over x.
Backward: `_down_kernel` reads g once for m = g Pᵀ and dP, `_linear_kernel` is dx, `_outer_kernel` is dQ.
"""

import torch
import triton
import triton.language as tl

from custom_kernels.shared._triton.blocks import dot, modes
from custom_kernels.shared._triton.chips import padded

from ..rank_one import (
    A_IN,
    A_OUT,
    BIAS,
    MASK,
    WEIGHT,
    U,
    V,
    X,
    backward_torch,
    mask_gradient,
    masked,
    rank_sized_torch,
)
from .samples import add_samples
from .table import launch, plan, splits

__all__ = ["backward", "forward", "rank_sized"]


@triton.jit
def _down_kernel(
    x_ptr, f_ptr, other_ptr, out_ptr, outer_ptr,
    T, D, K, x_stride, f_stride, other_stride, out_stride, scale, span,
    BT: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr,
    OUTER: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """out[split] (T, K) = s·x fᵀ over the split's columns; with OUTER also outer[tile] (K, D) = s·otherᵀ x.

    x (T, D), f (K, D), other (T, K) the rank-sized tensor that x belongs to; both sums over one reading of x.
    """
    tile, split = tl.program_id(0), tl.program_id(1)
    t, c = tile * BT + tl.arange(0, BT), tl.arange(0, BK)
    rows, ranks = t < T, c < K
    x_rows = x_ptr + t.to(tl.int64)[:, None] * x_stride
    acc = tl.zeros((BT, BK), dtype=ACC)
    if OUTER:
        other = tl.load(
            other_ptr + t.to(tl.int64)[None, :] * other_stride + c[:, None],
            mask=rows[None, :] & ranks[:, None],
            other=0.0,
        )  # (BK, BT)
        other = other.to(x_ptr.dtype.element_ty)
    for start in range(split * span, tl.minimum((split + 1) * span, D), BD):
        d = start + tl.arange(0, BD)
        inside = d < D
        x = tl.load(x_rows + d[None, :], mask=rows[:, None] & inside[None, :], other=0.0)
        f = tl.load(f_ptr + c[None, :] * f_stride + d[:, None], mask=ranks[None, :] & inside[:, None], other=0.0)
        acc = dot(x, f, acc, UPCAST)
        if OUTER:
            # x is in registers already; each tile of tokens leaves a part of its own, to be added in a fixed order
            part = dot(other, x, tl.zeros((BK, BD), dtype=ACC), UPCAST) * scale
            place = outer_ptr + (tile.to(tl.int64) * K + c[:, None]) * D + d[None, :]
            tl.store(place, part, mask=ranks[:, None] & inside[None, :])
    place = out_ptr + (split.to(tl.int64) * T + t)[:, None] * out_stride + c[None, :]
    tl.store(place, acc * scale, mask=rows[:, None] & ranks[None, :])


@triton.jit
def _outer_kernel(
    other_ptr, x_ptr, out_ptr, T, D, K, other_stride, x_stride, span,
    BT: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """out[split] (K, D) = otherᵀ x over the split's tokens."""
    split = tl.program_id(1)
    d, c = tl.program_id(0) * BD + tl.arange(0, BD), tl.arange(0, BK)
    acc = tl.zeros((BK, BD), dtype=ACC)
    for start in range(split * span, tl.minimum((split + 1) * span, T), BT):
        t = start + tl.arange(0, BT)
        wide = t.to(tl.int64)
        x = tl.load(x_ptr + wide[:, None] * x_stride + d[None, :], mask=(t < T)[:, None] & (d < D)[None, :], other=0.0)
        other = tl.load(
            other_ptr + wide[None, :] * other_stride + c[:, None], mask=(t < T)[None, :] & (c < K)[:, None], other=0.0
        )
        acc = dot(other.to(x.dtype), x, acc, UPCAST)
    place = out_ptr + (split.to(tl.int64) * K + c[:, None]) * D + d[None, :]
    tl.store(place, acc, mask=(c < K)[:, None] & (d < D)[None, :])


@triton.jit
def _linear_kernel(
    x_ptr, w_ptr, bias_ptr, q_ptr, p_ptr, hidden_ptr, y_ptr,
    T, N, D, K, ROWS, x_stride, w_stride_n, w_stride_d, hidden_stride, scale,
    BT: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr, SLICES: tl.constexpr,
    PARTS: tl.constexpr, BIAS: tl.constexpr, FUSED: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """y (T, N) = x wᵀ + bias + s·hidden_j p_j on the columns of each slice j.

    x (T, D), w (N, D) by strides, p (parts, K, ROWS), hidden (T, parts·K). FUSED makes hidden itself from q
    (parts·K, D) and writes it; each column tile must then lie within one slice or outside all.
    """
    tiles_t, tiles_n = tl.cdiv(T, BT), tl.cdiv(N, BN)
    pid = tl.program_id(0)
    # column tiles of eight row tiles run together, so that they share w in the cache
    group = pid // (8 * tiles_n)
    height = tl.minimum(tiles_t - group * 8, 8)
    tile_t = group * 8 + (pid % (8 * tiles_n)) % height
    first = ((pid % (8 * tiles_n)) // height) * BN
    t, n, c = tile_t * BT + tl.arange(0, BT), first + tl.arange(0, BN), tl.arange(0, BK)
    rows, columns, ranks = t < T, n < N, c < K
    x_rows = x_ptr + t.to(tl.int64)[:, None] * x_stride
    w_columns = w_ptr + n.to(tl.int64)[None, :] * w_stride_n
    acc = tl.zeros((BT, BN), dtype=ACC)
    part, low, high, written = 0, 0, 0, 0  # slice of this tile, and the rows of hidden it writes
    if FUSED:
        for j in tl.static_range(PARTS):
            mine = (first >= SLICES[2 * j]) & (first < SLICES[2 * j + 1])
            part = tl.where(mine, j, part)
            low, high = tl.where(mine, SLICES[2 * j], low), tl.where(mine, SLICES[2 * j + 1], high)
            # all column tiles of a slice make the same hidden; the first of them writes it
            written = tl.where(first == SLICES[2 * j], T, written)
        ranks = c < tl.where(high > low, K, 0)
        hidden = tl.zeros((BT, BK), dtype=ACC)
        q_columns = q_ptr + (part * K + c)[None, :].to(tl.int64) * D
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        inside = d < D
        x = tl.load(x_rows + d[None, :], mask=rows[:, None] & inside[None, :], other=0.0)
        w = tl.load(w_columns + d[:, None] * w_stride_d, mask=columns[None, :] & inside[:, None], other=0.0)
        acc = dot(x, w, acc, UPCAST)
        if FUSED:
            q = tl.load(q_columns + d[:, None], mask=ranks[None, :] & inside[:, None], other=0.0)
            hidden = dot(x, q, hidden, UPCAST)
    hidden_rows = hidden_ptr + t.to(tl.int64)[:, None] * hidden_stride
    if FUSED:
        place = hidden_rows + part * K + c[None, :]
        tl.store(place, hidden, mask=(t < written)[:, None] & ranks[None, :])
        p = tl.load(
            p_ptr + (part * K + c)[:, None] * ROWS + (n - low)[None, :],
            mask=ranks[:, None] & (n < high)[None, :], other=0.0,
        )  # fmt: skip
        acc = dot((hidden * scale).to(p.dtype), p, acc, UPCAST)
    else:
        for j in tl.static_range(PARTS):
            if (first < SLICES[2 * j + 1]) & (first + BN > SLICES[2 * j]):
                within = (n >= SLICES[2 * j]) & (n < SLICES[2 * j + 1])
                sums = tl.load(hidden_rows + j * K + c[None, :], mask=rows[:, None] & ranks[None, :], other=0.0)
                p = tl.load(
                    p_ptr + (j * K + c)[:, None] * ROWS + (n - SLICES[2 * j])[None, :],
                    mask=ranks[:, None] & within[None, :], other=0.0,
                )  # fmt: skip
                acc = dot((sums * scale).to(p.dtype), p, acc, UPCAST)
    if BIAS:
        acc += tl.load(bias_ptr + n, mask=columns, other=0.0)[None, :].to(ACC)
    place = y_ptr + t.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(place, acc.to(y_ptr.dtype.element_ty), mask=rows[:, None] & columns[None, :])


def _sum_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _down(x, f, scale: float = 1.0, other=None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """s·x fᵀ (T, K), and with `other` (T, K) also s·otherᵀ x (K, D), both in fp32 or wider."""
    (tokens, length), k = x.shape, f.shape[0]
    entry = launch("down" if other is None else "down_outer", x.device)
    tiles = triton.cdiv(tokens, entry.tokens)
    count = splits(tiles, length, entry.depth, x.device)
    span = triton.cdiv(triton.cdiv(length, count), entry.depth) * entry.depth
    count = triton.cdiv(length, span)
    out = x.new_empty(count, tokens, k, dtype=_sum_dtype(x))
    outer = None if other is None else x.new_empty(tiles, k, length, dtype=out.dtype)
    _down_kernel[(tiles, count)](
        x, f, x if other is None else other, out, out if outer is None else outer,
        tokens, length, k, x.stride(0), f.stride(0), 0 if other is None else other.stride(0), k, scale, span,
        BT=entry.tokens, BD=entry.depth, BK=padded(k), OUTER=other is not None, **modes(x),
        num_warps=entry.warps, num_stages=entry.stages,
    )  # fmt: skip
    out = out[0] if count == 1 else out.sum(0)
    return out, outer if outer is None else outer.sum(0)


def _outer(other, x) -> torch.Tensor:
    """otherᵀ x (K, D) in fp32 or wider; other (T, K), x (T, D)."""
    (tokens, length), k = x.shape, other.shape[1]
    entry = launch("outer", x.device)
    tiles = triton.cdiv(length, entry.columns)
    count = splits(tiles, tokens, entry.tokens, x.device)
    span = triton.cdiv(triton.cdiv(tokens, count), entry.tokens) * entry.tokens
    count = triton.cdiv(tokens, span)
    out = x.new_empty(count, k, length, dtype=_sum_dtype(x))
    _outer_kernel[(tiles, count)](
        other, x, out, tokens, length, k, other.stride(0), x.stride(0), span,
        BT=entry.tokens, BD=entry.columns, BK=padded(k), **modes(x), num_warps=entry.warps, num_stages=entry.stages,
    )  # fmt: skip
    return out[0] if count == 1 else out.sum(0)


def _linear(kernel, x, weight, bias, q, p, hidden, scale, slices, transposed=False) -> torch.Tensor:
    """x weightᵀ (weight itself when `transposed`) + bias + s·hidden p; `hidden` is written if the kernel makes it."""
    (tokens, length), size = x.shape, weight.shape[1 if transposed else 0]
    entry = launch(kernel, x.device)
    y = x.new_empty(tokens, size)
    strides = weight.stride() if not transposed else weight.stride()[::-1]
    _linear_kernel[(triton.cdiv(tokens, entry.tokens) * triton.cdiv(size, entry.columns),)](
        x, weight, weight if bias is None else bias, q, p, hidden, y,
        tokens, size, length, p.shape[1], p.shape[2], x.stride(0), *strides, hidden.stride(0), scale,
        BT=entry.tokens, BN=entry.columns, BD=entry.depth, BK=padded(p.shape[1]), SLICES=slices,
        PARTS=len(slices) // 2, BIAS=bias is not None, FUSED=kernel.startswith("fused"), **modes(x),
        num_warps=entry.warps, num_stages=entry.stages,
    )  # fmt: skip
    return y


def _inner_contiguous(t: torch.Tensor) -> torch.Tensor:
    return t if t.stride(-1) == 1 else t.contiguous()


def forward(x, weight, bias, factors, scale, slices, mask) -> tuple[torch.Tensor, torch.Tensor]:
    """As `forward_torch`; hidden is fp32 or wider, its products are made in x's dtype."""
    x, weight = _inner_contiguous(x), _inner_contiguous(weight)
    if factors.index is not None:
        y, hidden = torch.nn.functional.linear(x, weight, bias), None
        return y, add_samples(x, y, factors, scale, slices, mask)
    p, q = torch.stack(tuple(factors.p())).to(x.dtype), factors.q().to(x.dtype)
    bounds, (parts, rank) = tuple(slices) or (0, weight.shape[0]), p.shape[:2]
    if not x.shape[0]:
        return x.new_empty(0, weight.shape[0]), x.new_empty(0, parts * rank, dtype=_sum_dtype(x))
    kernel = plan(x.shape[0], rank, bounds, mask is not None)
    if kernel.startswith("fused"):
        hidden = x.new_empty(x.shape[0], parts * rank, dtype=_sum_dtype(x))
        return _linear(kernel, x, weight, bias, q, p, hidden, scale, bounds), hidden
    hidden = _down(x, q)[0]
    shrunk = masked(hidden, mask)
    return _linear(kernel, x, weight, bias, q, p, shrunk, scale, bounds), hidden


def rank_sized(x, factors) -> torch.Tensor:
    """As `rank_sized_torch`, in fp32 or wider; where `backward` is torch's, so is this."""
    if factors.index is not None or not x.shape[0]:
        return rank_sized_torch(x, factors)
    return _down(_inner_contiguous(x), factors.q().to(x.dtype))[0]


def backward(g, x, hidden, weight, factors, scale, slices, mask, needs) -> list[torch.Tensor | None]:
    """As `backward_torch`, which does the per-sample case: training on mixed batches is not what they are for."""
    if factors.index is not None or not g.shape[0]:
        if hidden is not None:
            hidden = hidden.to(factors.dtype)
        return backward_torch(g, x, hidden, weight, factors, scale, slices, mask, needs)
    grads: list[torch.Tensor | None] = [None] * 8
    g, weight = _inner_contiguous(g), _inner_contiguous(weight)
    p, q = torch.stack(tuple(factors.p())).to(g.dtype), factors.q().to(g.dtype)
    rank, bounds = p.shape[1], tuple(slices) or (0, weight.shape[0])
    shrunk = None if hidden is None else masked(hidden, mask)
    outer = needs[U] or needs[A_OUT]
    m, d_p, d_q = [], [], None
    if outer or needs[X] or needs[V] or needs[A_IN] or needs[MASK]:
        for j in range(len(p)):
            other = shrunk[:, j * rank : (j + 1) * rank] if outer else None
            found = _down(g[:, bounds[2 * j] : bounds[2 * j + 1]], p[j], scale, other)
            m.append(found[0])
            d_p.append(found[1])
        m = m[0] if len(m) == 1 else torch.cat(m, 1)
        if needs[MASK]:
            grads[MASK] = mask_gradient(m, hidden, mask)
        m = masked(m, mask)
    if needs[V] or needs[A_IN]:
        d_q = _outer(m, _inner_contiguous(x))
    if needs[X]:
        kernel = "linear" if len(g) >= 2048 else "linear_narrow"
        grads[X] = _linear(kernel, g, weight, None, q, q[None], m, 1.0, (0, weight.shape[1]), transposed=True)
    d_p = torch.stack(d_p) if outer else None
    grads[A_OUT], grads[A_IN], grads[U], grads[V] = factors.gradients(d_p, d_q, needs[A_OUT : V + 1])
    if needs[WEIGHT]:
        grads[WEIGHT] = g.t() @ x
    if needs[BIAS]:
        grads[BIAS] = g.sum(0)
    return grads
