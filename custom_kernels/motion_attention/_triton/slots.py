"""What the forward and the backward kernels share: slot tiles, rows of queries, S."""

import torch
import triton
import triton.language as tl

from custom_kernels.shared._triton.blocks import cover, dot

__all__ = ["add_slots", "dense_rows", "logits", "probabilities", "query_rows", "sizes_of", "slot_tile"]


@triton.jit
def slot_tile(
    box_ptr, token_ptr, object_ptr, in_ptr, out_ptr, b, f, u, F, N, J, OBJECTS, HEIGHT, WIDTH,
    BJ: tl.constexpr, BIAS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Of the slots of batch row b and frame f: token (BJ,), -1 for none; masks and biases of cells u, (BL, BJ)."""
    j = tl.arange(0, BJ)
    token = tl.load(token_ptr + b * J + j, mask=j < J, other=-1).to(tl.int32)
    token = tl.where(token < N, token, -1)  # on a GPU nobody has looked at the values
    owner = tl.load(object_ptr + j, mask=j < J, other=0)
    held = (token >= 0) & (owner >= 0) & (owner < OBJECTS)
    owner += b * OBJECTS
    column, row = (u % WIDTH).to(ACC)[:, None], (u // WIDTH).to(ACC)[:, None]
    masks = cover((box_ptr + (owner * F + f) * 4)[None, :], held[None, :], column, row, HEIGHT, WIDTH)
    bias = masks
    if BIAS:
        inside = tl.load(in_ptr + owner, mask=held, other=0.0)[None, :]
        bias = inside * masks - tl.load(out_ptr + owner, mask=held, other=0.0)[None, :] * (1 - masks)
    return token, masks, bias


@triton.jit
def add_slots(s, n, token, values, J, BJ: tl.constexpr):
    """s[u, i] + Σ_j values[u, j] [n_i = token_j], slot after slot."""
    j = tl.arange(0, BJ)
    # one after another, for two slots may name the same token; Triton has no scatter within a tile
    for i in range(J):
        chosen = tl.sum(tl.where(j == i, token, 0), 0)
        column = tl.sum(tl.where((j == i)[None, :], values, 0.0), 1)
        s += tl.where((n == chosen)[None, :], column[:, None], 0.0)
    return s


@triton.jit
def query_rows(
    ptr, b, f, h, here, s_b, s_f, s_h, s_l, L,
    BL: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Tile `here` of the rows of one frame and head, (BL, BD), of a (B, F, H, L, D) tensor; strides are in UNITs."""
    i, d = tl.arange(0, BL), tl.arange(0, BD)
    place = ptr + (b * s_b + f * s_f + h * s_h + tl.cast(here, tl.int64) * BL * s_l) * UNIT
    place += (i * s_l * UNIT)[:, None] + d[None, :]
    return tl.load(place, mask=(here * BL + i < L)[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def logits(
    q, k_ptr, offsets, key_bias_ptr, n, held, token, bias, J, scale,
    KEY_BIAS: tl.constexpr, BIAS: tl.constexpr, BJ: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    UPCAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """S of the queries q and the keys n, (BL, BN), and those keys, (BD, BN); −inf where not `held`."""
    inner = tl.arange(0, BD) < D
    k = tl.load(k_ptr + offsets, mask=held[None, :] & inner[:, None], other=0.0)
    s = dot(q, k, tl.zeros((q.shape[0], k.shape[1]), dtype=ACC), UPCAST) * scale
    if KEY_BIAS:
        s += tl.load(key_bias_ptr + n, mask=held, other=0.0)[None, :]
    if BIAS:
        s = add_slots(s, n, token, bias, J, BJ)
    return tl.where(held[None, :], s, float("-inf")), k


@triton.jit
def probabilities(s, lse, lost):
    """exp(s − lse), with what lse `lost` when it was rounded; 0 in a row without a key, whose lse is −inf."""
    least = tl.where(lse == float("-inf"), 0.0, lse)
    return tl.exp((s - least[:, None]) - lost[:, None])


def dense_rows(t: torch.Tensor) -> torch.Tensor:
    """With the last dimension dense."""
    return t if t.stride(-1) == 1 else t.contiguous()


def sizes_of(q, k, slot_count: int, objects: int, grid) -> tuple[int, ...]:
    """F, H, L, N, J, OBJECTS, HEIGHT, WIDTH."""
    _, frames, heads, cells, _ = q.shape
    return frames, heads, cells, k.shape[2], slot_count, objects, *grid
