"""Forward kernel of `motion_attention`.

A program has a tile of the queries of one frame and head. The probability of a slot's token is not picked out of the
tile of P but made again from the token's key: P[u, n_j] = exp(S[u, n_j] − lse_u), one narrow product for all slots,
after the last tile of keys. Sums are made for each tile and added in a fixed order afterwards, without atomics.

Beside a large logit (padding by the least number there is) lse has no digits left for log Σ exp, so what its rounding
lost is kept for whoever makes P again.
"""

import torch
import triton
import triton.language as tl

from custom_kernels.shared._triton.blocks import dot, in_units, modes
from custom_kernels.shared._triton.chips import padded
from custom_kernels.shared._triton.motion_table import tile

from ..forms import row_buffer
from .slots import dense_rows, logits, probabilities, query_rows, sizes_of, slot_tile

__all__ = ["forward"]


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, box_ptr, token_ptr, object_ptr, key_bias_ptr, in_ptr, out_bias_ptr,
    out_ptr, lse_ptr, lost_ptr, sums_ptr, maps_ptr,
    F, H, L, N, J, OBJECTS, HEIGHT, WIDTH, TILES, PROGRAMS, scale,
    q_b, q_f, q_h, q_l, k_b, k_h, k_n, v_b, v_h, v_n, out_b, out_f, out_h, out_l,
    BL: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BJ: tl.constexpr, UNIT: tl.constexpr,
    KEY_BIAS: tl.constexpr, BIAS: tl.constexpr, MAPS: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """out, lse and what it lost, maps, and the tile's part of the sums, (4, B·F·H, tiles, J)."""
    at = tl.program_id(0)
    bfh, here = (at // TILES).to(tl.int64), at % TILES
    b, f, h = bfh // (F * H), (bfh // H) % F, bfh % H
    u, d, j = here * BL + tl.arange(0, BL), tl.arange(0, BD), tl.arange(0, BJ)
    rows, inner = u < L, d < D
    whole = rows[:, None] & inner[None, :]
    q = query_rows(q_ptr, b, f, h, here, q_b, q_f, q_h, q_l, L, BL, D, BD, UNIT)
    k_ptr += (b * k_b + h * k_h) * UNIT
    v_ptr += (b * v_b + h * v_h) * UNIT
    k_tile = (tl.arange(0, BN) * k_n * UNIT)[None, :] + d[:, None]
    v_tile = (tl.arange(0, BN) * v_n * UNIT)[:, None] + d[None, :]
    key_bias_ptr += b * N
    token, masks, bias = slot_tile(
        box_ptr, token_ptr, object_ptr, in_ptr, out_bias_ptr, b, f, u, F, N, J, OBJECTS, HEIGHT, WIDTH, BJ, BIAS, ACC
    )
    most = tl.full((BL,), float("-inf"), dtype=ACC)
    total = tl.zeros((BL,), dtype=ACC)
    acc = tl.zeros((BL, BD), dtype=ACC)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        held = n < N
        wide = tl.cast(start, tl.int64) * UNIT
        s, _ = logits(
            q, k_ptr + wide * k_n, k_tile, key_bias_ptr, n, held, token, bias, J, scale,
            KEY_BIAS, BIAS, BJ, D, BD, UPCAST, ACC,
        )  # fmt: skip
        # softmax in one walk over the keys: what was summed under an earlier maximum shrinks to the new one
        higher = tl.maximum(most, tl.max(s, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # all keys so far may be masked
        p = tl.exp(s - shift[:, None])
        shrink = tl.exp(most - shift)
        total = total * shrink + tl.sum(p, 1)
        v = tl.load(v_ptr + wide * v_n + v_tile, mask=held[:, None] & inner[None, :], other=0.0)
        acc = dot(p.to(v.dtype), v, acc * shrink[:, None], UPCAST)
        most = higher
    # a row whose keys are all at −inf: nothing is attended to, and lse is −inf
    masked = most == float("-inf")
    total = tl.where(masked, 1.0, total)
    lse = most + tl.log(total)
    lost = tl.where(masked, 0.0, (most - lse) + tl.log(total))
    place = out_ptr + (b * out_b + f * out_f + h * out_h + here.to(tl.int64) * BL * out_l) * UNIT
    place += (tl.arange(0, BL) * out_l * UNIT)[:, None] + d[None, :]
    tl.store(place, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=whole)
    tl.store(lse_ptr + bfh * L + u, lse, mask=rows)
    tl.store(lost_ptr + bfh * L + u, lost, mask=rows)
    there = token >= 0
    s_slot, _ = logits(
        q, k_ptr, token.to(tl.int64)[None, :] * k_n * UNIT + d[:, None], key_bias_ptr, token, there, token, bias, J,
        scale, KEY_BIAS, BIAS, BJ, D, BD, UPCAST, ACC,
    )  # fmt: skip
    p_slot = tl.where(rows[:, None] & there[None, :], probabilities(s_slot, lse, lost), 0.0)
    place = sums_ptr + (bfh * TILES + here) * J + j
    step = tl.cast(PROGRAMS, tl.int64) * J
    x, y = ((u % WIDTH).to(ACC) + 0.5) / WIDTH, ((u // WIDTH).to(ACC) + 0.5) / HEIGHT
    tl.store(place, tl.sum(p_slot * masks, 0), mask=j < J)
    tl.store(place + step, tl.sum(p_slot, 0), mask=j < J)
    tl.store(place + 2 * step, tl.sum(p_slot * x[:, None], 0), mask=j < J)
    tl.store(place + 3 * step, tl.sum(p_slot * y[:, None], 0), mask=j < J)
    if MAPS:
        place = maps_ptr + (bfh * L + u)[:, None] * J + j[None, :]
        tl.store(place, p_slot, mask=rows[:, None] & (j < J)[None, :])


def forward(
    q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out, grid, want_maps
) -> tuple[torch.Tensor, ...]:
    """out, lse, sums (4, B, F, H, J), maps (B, F, H, L, J) or empty, and what lse lost (B, F, H, L).

    Arguments as `attend` takes them.
    """
    q, k, v = (dense_rows(t) for t in (q, k, v))
    (batch, frames, heads, cells, width), count = q.shape, slot_object.shape[0]
    out, lse = row_buffer(q), boxes.new_empty(batch, frames, heads, cells)
    lost = torch.empty_like(lse)
    maps = boxes.new_empty((batch, frames, heads, cells, count) if want_maps else (0,))
    entry = tile("forward", padded(width), q.device)
    rows = min(entry.rows, padded(cells))
    tiles = triton.cdiv(cells, rows)
    sums = boxes.new_empty(4, batch, frames, heads, tiles, count)
    programs = batch * frames * heads * tiles
    strides, unit = in_units(q, k, v, out)
    if programs:
        given = (
            t if t is None else t.contiguous() for t in (boxes, slot_token, slot_object, key_bias, bias_in, bias_out)
        )
        given = [q if t is None else t for t in given]
        _forward_kernel[(programs,)](
            q, k, v, *given, out, lse, lost, sums, maps,
            *sizes_of(q, k, count, boxes.shape[1], grid), tiles, programs, width**-0.5,
            *strides, BL=rows, BN=min(entry.columns, padded(k.shape[2])), D=width, BD=padded(width), BJ=16, UNIT=unit,
            KEY_BIAS=key_bias is not None, BIAS=bias_in is not None, MAPS=want_maps, **modes(q),
            num_warps=entry.warps, num_stages=entry.stages,
        )  # fmt: skip
    return out, lse, sums.sum(4), maps, lost
