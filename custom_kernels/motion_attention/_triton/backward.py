"""Backward kernels of `motion_attention`: a tile of queries makes dQ, a tile of keys dK and dV."""

import torch
import triton
import triton.language as tl

from custom_kernels.shared._triton import chips
from custom_kernels.shared._triton.blocks import dot, in_units, modes
from custom_kernels.shared._triton.chips import padded
from custom_kernels.shared._triton.motion_table import tile

from ..forms import BOXES, K, Q, V, row_buffer
from ..slots import Slots
from .slots import add_slots, dense_rows, logits, probabilities, query_rows, sizes_of, slot_tile

__all__ = ["backward"]


@triton.jit
def _weights(
    g_sums_ptr, g_maps_ptr, bfh, u, rows, masks, token, L, J, COUNT, HEIGHT, WIDTH,
    BJ: tl.constexpr, G_SUMS: tl.constexpr, G_MAPS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """γ (BL, BJ): what sums and maps send to the slots' probabilities."""
    j = tl.arange(0, BJ)
    held = (token >= 0) & (j < J)
    gamma = tl.zeros(masks.shape, dtype=ACC)
    if G_SUMS:
        place = g_sums_ptr + bfh * J + j
        step = tl.cast(COUNT, tl.int64) * J
        x, y = ((u % WIDTH).to(ACC) + 0.5) / WIDTH, ((u // WIDTH).to(ACC) + 0.5) / HEIGHT
        gamma += masks * tl.load(place, mask=held, other=0.0)[None, :]
        gamma += tl.load(place + step, mask=held, other=0.0)[None, :]
        gamma += x[:, None] * tl.load(place + 2 * step, mask=held, other=0.0)[None, :]
        gamma += y[:, None] * tl.load(place + 3 * step, mask=held, other=0.0)[None, :]
    if G_MAPS:
        place = g_maps_ptr + (bfh * L + u)[:, None] * J + j[None, :]
        gamma += tl.load(place, mask=rows[:, None] & held[None, :], other=0.0)
    return gamma


@triton.jit
def _query_kernel(
    q_ptr, k_ptr, v_ptr, box_ptr, token_ptr, object_ptr, key_bias_ptr, in_ptr, out_bias_ptr,
    out_ptr, lse_ptr, lost_ptr, g_ptr, g_lse_ptr, g_sums_ptr, g_maps_ptr, dq_ptr, delta_ptr, maps_ptr, d_logits_ptr,
    F, H, L, N, J, OBJECTS, HEIGHT, WIDTH, TILES, COUNT, scale,
    q_b, q_f, q_h, q_l, k_b, k_h, k_n, v_b, v_h, v_n, out_b, out_f, out_h, out_l, g_b, g_f, g_h, g_l,
    BL: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BJ: tl.constexpr, UNIT: tl.constexpr,
    KEY_BIAS: tl.constexpr, BIAS: tl.constexpr, G_OUT: tl.constexpr, G_LSE: tl.constexpr, G_SUMS: tl.constexpr,
    G_MAPS: tl.constexpr, NEED_Q: tl.constexpr, DELTA: tl.constexpr, BY_SLOT: tl.constexpr, ACC: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """dQ; Σ_n P G − g_lse of every row for `_key_kernel`; and by slot P and dS, for boxes and biases."""
    at = tl.program_id(0)
    bfh, here = (at // TILES).to(tl.int64), at % TILES
    b, f, h = bfh // (F * H), (bfh // H) % F, bfh % H
    u, d, j = here * BL + tl.arange(0, BL), tl.arange(0, BD), tl.arange(0, BJ)
    rows, inner = u < L, d < D
    q = query_rows(q_ptr, b, f, h, here, q_b, q_f, q_h, q_l, L, BL, D, BD, UNIT)
    k_ptr += (b * k_b + h * k_h) * UNIT
    v_ptr += (b * v_b + h * v_h) * UNIT
    key_bias_ptr += b * N
    token, masks, bias = slot_tile(
        box_ptr, token_ptr, object_ptr, in_ptr, out_bias_ptr, b, f, u, F, N, J, OBJECTS, HEIGHT, WIDTH, BJ, BIAS, ACC
    )
    gamma = _weights(
        g_sums_ptr, g_maps_ptr, bfh, u, rows, masks, token, L, J, COUNT, HEIGHT, WIDTH, BJ, G_SUMS, G_MAPS, ACC
    )
    there = token >= 0
    lse = tl.load(lse_ptr + bfh * L + u, mask=rows, other=0.0)
    lost = tl.load(lost_ptr + bfh * L + u, mask=rows, other=0.0)
    s_slot, k_slot = logits(
        q, k_ptr, token.to(tl.int64)[None, :] * k_n * UNIT + d[:, None], key_bias_ptr, token, there, token, bias, J,
        scale, KEY_BIAS, BIAS, BJ, D, BD, UPCAST, ACC,
    )  # fmt: skip
    p_slot = tl.where(rows[:, None] & there[None, :], probabilities(s_slot, lse, lost), 0.0)
    # Σ_n P G over all keys without a walk: with sums and maps only slots' columns have a part, and the rest is g·out
    delta = tl.sum(p_slot * gamma, 1)
    if G_OUT:
        g = query_rows(g_ptr, b, f, h, here, g_b, g_f, g_h, g_l, L, BL, D, BD, UNIT)
        out = query_rows(out_ptr, b, f, h, here, out_b, out_f, out_h, out_l, L, BL, D, BD, UNIT)
        delta += tl.sum(g.to(ACC) * out.to(ACC), 1)
    if G_LSE:
        delta -= tl.load(g_lse_ptr + bfh * L + u, mask=rows, other=0.0)
    if DELTA:
        tl.store(delta_ptr + bfh * L + u, delta, mask=rows)
    if NEED_Q or BY_SLOT:  # dS of each slot's token
        g_slot = add_slots(tl.zeros((BL, BJ), dtype=ACC), token, token, gamma, J, BJ)
        if G_OUT:
            place = v_ptr + token.to(tl.int64)[None, :] * v_n * UNIT + d[:, None]
            v_slot = tl.load(place, mask=there[None, :] & inner[:, None], other=0.0)
            g_slot = dot(g, v_slot, g_slot, UPCAST)
        d_slot = p_slot * (g_slot - delta[:, None])
    if NEED_Q:
        # dS of the slots' columns is rounded once, whole: its two parts all but cancel where P is near 1
        first = tl.sum(((token[:, None] == token[None, :]) & (j[:, None] < j[None, :])).to(tl.int32), 0) == 0
        d_s_slot = tl.where(first[None, :], d_slot, 0.0).to(q.dtype)
        acc = dot(d_s_slot, tl.trans(k_slot), tl.zeros((BL, BD), dtype=ACC), UPCAST)
        k_tile = (tl.arange(0, BN) * k_n * UNIT)[None, :] + d[:, None]
        v_tile = (tl.arange(0, BN) * v_n * UNIT)[None, :] + d[:, None]
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            held = n < N
            wide = tl.cast(start, tl.int64) * UNIT
            s, k = logits(
                q, k_ptr + wide * k_n, k_tile, key_bias_ptr, n, held, token, bias, J, scale,
                KEY_BIAS, BIAS, BJ, D, BD, UPCAST, ACC,
            )  # fmt: skip
            d_s = -delta[:, None]
            if G_OUT:
                v = tl.load(v_ptr + wide * v_n + v_tile, mask=held[None, :] & inner[:, None], other=0.0)
                d_s = dot(g, v, tl.zeros((BL, BN), dtype=ACC), UPCAST) - delta[:, None]
            free = tl.sum((token[:, None] == n[None, :]).to(tl.int32), 0) == 0
            d_s = tl.where(free[None, :], probabilities(s, lse, lost) * d_s, 0.0)
            acc = dot(d_s.to(q.dtype), tl.trans(k), acc, UPCAST)
        place = dq_ptr + (b * out_b + f * out_f + h * out_h + here.to(tl.int64) * BL * out_l) * UNIT
        place += (tl.arange(0, BL) * out_l * UNIT)[:, None] + d[None, :]
        tl.store(place, (acc * scale).to(dq_ptr.dtype.element_ty), mask=rows[:, None] & inner[None, :])
    if BY_SLOT:
        place = (bfh * L + u)[:, None] * J + j[None, :]
        stored = rows[:, None] & (j < J)[None, :]
        tl.store(maps_ptr + place, p_slot, mask=stored)
        tl.store(d_logits_ptr + place, d_slot, mask=stored)


@triton.jit
def _key_kernel(
    q_ptr, k_ptr, v_ptr, box_ptr, token_ptr, object_ptr, key_bias_ptr, in_ptr, out_bias_ptr,
    lse_ptr, lost_ptr, delta_ptr, g_ptr, g_sums_ptr, g_maps_ptr, dk_ptr, dv_ptr,
    B, F, H, L, N, J, OBJECTS, HEIGHT, WIDTH, TILES, COUNT, SPAN, scale,
    q_b, q_f, q_h, q_l, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_f, g_h, g_l,
    BL: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BJ: tl.constexpr, UNIT: tl.constexpr,
    KEY_BIAS: tl.constexpr, BIAS: tl.constexpr, G_OUT: tl.constexpr, G_SUMS: tl.constexpr, G_MAPS: tl.constexpr,
    NEED_K: tl.constexpr, NEED_V: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The split's parts of dK and dV, (splits, B, H, N, D), over SPAN tiles of the F·TILES tiles of queries."""
    n, d = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BD)
    split, bh = tl.program_id(1), tl.program_id(2).to(tl.int64)
    b, h = bh // H, bh % H
    held, inner = n < N, d < D
    key_bias_ptr += b * N
    first = tl.program_id(0).to(tl.int64) * BN
    k_ptr += (b * k_b + h * k_h + first * k_n) * UNIT
    v_ptr += (b * v_b + h * v_h + first * v_n) * UNIT
    k_tile = (tl.arange(0, BN) * k_n * UNIT)[None, :] + d[:, None]
    v_tile = (tl.arange(0, BN) * v_n * UNIT)[None, :] + d[:, None]
    dk, dv = tl.zeros((BN, BD), dtype=ACC), tl.zeros((BN, BD), dtype=ACC)
    for at in range(split * SPAN, tl.minimum((split + 1) * SPAN, F * TILES)):
        f = (at // TILES).to(tl.int64)
        here = at % TILES
        u = here * BL + tl.arange(0, BL)
        rows, bfh = u < L, (b * F + f) * H + h
        q = query_rows(q_ptr, b, f, h, here, q_b, q_f, q_h, q_l, L, BL, D, BD, UNIT)
        token, masks, bias = slot_tile(
            box_ptr, token_ptr, object_ptr, in_ptr, out_bias_ptr, b, f, u, F, N, J, OBJECTS, HEIGHT, WIDTH,
            BJ, BIAS, ACC,
        )  # fmt: skip
        lse = tl.load(lse_ptr + bfh * L + u, mask=rows, other=0.0)
        lost = tl.load(lost_ptr + bfh * L + u, mask=rows, other=0.0)
        s, _ = logits(
            q, k_ptr, k_tile, key_bias_ptr, n, held, token, bias, J, scale, KEY_BIAS, BIAS, BJ, D, BD, UPCAST, ACC
        )
        p = tl.where(rows[:, None], probabilities(s, lse, lost), 0.0)
        if G_OUT:
            g = query_rows(g_ptr, b, f, h, here, g_b, g_f, g_h, g_l, L, BL, D, BD, UNIT)
            if NEED_V:
                dv = dot(tl.trans(p.to(g.dtype)), g, dv, UPCAST)
        if NEED_K:
            d_s = tl.zeros((BL, BN), dtype=ACC)
            if G_OUT:
                v = tl.load(v_ptr + v_tile, mask=held[None, :] & inner[:, None], other=0.0)
                d_s = dot(g, v, d_s, UPCAST)
            if G_SUMS or G_MAPS:
                gamma = _weights(
                    g_sums_ptr, g_maps_ptr, bfh, u, rows, masks, token, L, J, COUNT, HEIGHT, WIDTH,
                    BJ, G_SUMS, G_MAPS, ACC,
                )  # fmt: skip
                d_s = add_slots(d_s, n, token, gamma, J, BJ)
            d_s = p * (d_s - tl.load(delta_ptr + bfh * L + u, mask=rows, other=0.0)[:, None])
            dk = dot(tl.trans(d_s.to(q.dtype)), q, dk, UPCAST)
    place = ((split.to(tl.int64) * B * H + bh) * N + n[:, None]) * D + d[None, :]
    whole = held[:, None] & inner[None, :]
    if NEED_K:
        tl.store(dk_ptr + place, dk * scale, mask=whole)
    if NEED_V:
        tl.store(dv_ptr + place, dv, mask=whole)


def backward(
    g_out, g_lse, g_sums, g_maps, q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out, out, lse, lost,
    grid, needs,
) -> list[torch.Tensor | None]:  # fmt: skip
    """Gradients by position, of what `needs` names.

    Arguments as `attend` takes them; out, lse and lost as `forward` gave them.
    """
    q, k, v = (dense_rows(t) for t in (q, k, v))
    (batch, frames, heads, cells, width), count, keys = q.shape, slot_object.shape[0], k.shape[2]
    g = q if g_out is None else dense_rows(g_out)
    by_slot, by_key = any(needs[BOXES:]), needs[K] or needs[V]
    given = (boxes, slot_token, slot_object, key_bias, bias_in, bias_out)
    given = [q if t is None else t.contiguous() for t in given]
    g_lse, g_sums, g_maps = (None if t is None else t.contiguous() for t in (g_lse, g_sums, g_maps))
    d_q = row_buffer(q) if needs[Q] else None
    if d_q is not None and out.stride() != d_q.stride():  # a hook on saved tensors may lay it out anew
        out = row_buffer(q).copy_(out)
    delta = torch.empty_like(lse) if needs[K] else lse
    maps, d_logits = (lse.new_empty(*lse.shape, count) if by_slot else lse for _ in range(2))
    flags = {
        "D": width, "BD": padded(width), "BJ": 16, "KEY_BIAS": key_bias is not None, "BIAS": bias_in is not None,
        "G_OUT": g_out is not None, "G_SUMS": g_sums is not None, "G_MAPS": g_maps is not None, **modes(q),
    }  # fmt: skip
    sizes = sizes_of(q, k, count, boxes.shape[1], grid)
    strides, unit = in_units(q, k, v, out, g)
    present = [lse if t is None else t for t in (g_lse, g_sums, g_maps)]
    groups = batch * frames * heads
    if groups * cells and (needs[Q] or needs[K] or by_slot):
        entry = tile("query", padded(width), q.device)
        rows = min(entry.rows, padded(cells))
        tiles = triton.cdiv(cells, rows)
        _query_kernel[(groups * tiles,)](
            q, k, v, *given, out, lse, lost, g, *present, q if d_q is None else d_q, delta, maps, d_logits,
            *sizes, tiles, groups, width**-0.5, *strides,
            BL=rows, BN=min(entry.columns, padded(keys)), UNIT=unit, **flags, G_LSE=g_lse is not None, NEED_Q=needs[Q],
            DELTA=needs[K], BY_SLOT=by_slot, num_warps=entry.warps, num_stages=entry.stages,
        )  # fmt: skip
    grads: list[torch.Tensor | None] = [d_q, None, None, None, None, None]
    if by_key:
        entry = tile("key", padded(width), q.device)
        rows, columns = min(entry.rows, padded(cells)), min(entry.columns, padded(keys))
        tiles, blocks = triton.cdiv(cells, rows), triton.cdiv(keys, columns)
        units = chips.UNITS[chips.architecture(q.device)]
        # a text has few keys, so few blocks of them: the queries are split until every unit of the chip has two
        # programs, and the parts are added in a fixed order, which atomics would not keep
        splits = max(1, min(frames * tiles, 2 * units // max(1, blocks * batch * heads)))
        span = triton.cdiv(frames * tiles, splits)
        splits = max(1, triton.cdiv(frames * tiles, span)) if span else 1
        d_k, d_v = (lse.new_empty(splits, *k.shape) if needs[i] else lse for i in (K, V))
        if batch * heads:
            _key_kernel[(blocks, splits, batch * heads)](
                q, k, v, *given, lse, lost, delta, g, *present[1:], d_k, d_v,
                batch, *sizes, tiles, groups, span, width**-0.5, *strides[:10], *strides[14:],
                BL=rows, BN=columns, UNIT=unit, **flags, NEED_K=needs[K], NEED_V=needs[V],
                num_warps=entry.warps, num_stages=entry.stages,
            )  # fmt: skip
        grads[K] = d_k.sum(0).to(k.dtype) if needs[K] else None
        grads[V] = d_v.sum(0).to(v.dtype) if needs[V] else None
    if by_slot:
        found = Slots(boxes, slot_token, slot_object, grid, bias_in, bias_out).gradients(maps, d_logits, g_sums)
        grads[BOXES:] = [t if need else None for t, need in zip(found, needs[BOXES:], strict=True)]
    return grads
