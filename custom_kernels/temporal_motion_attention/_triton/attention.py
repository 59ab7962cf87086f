"""Kernels of `temporal_motion_attention`: ⌊32/F⌋ pixels of one head in a tile, each with its F frames.

Rows of a tile are (pixel, frame) pairs, and so are its columns; all but the blocks of equal pixels are masked. One
program of the backward pass goes over SPAN tiles, so that dτ and dρ end as few parts, added in a fixed order.
"""

import torch
import triton
import triton.language as tl

from custom_kernels.shared._triton import chips
from custom_kernels.shared._triton.blocks import cover, dot, in_units, modes
from custom_kernels.shared._triton.chips import padded
from custom_kernels.shared._triton.motion_table import tile

from ..forms import diagonal_sums

__all__ = ["backward", "forward"]

ROWS = 32  # of a tile: with 64, twice as much of it would be masked, and the backward pass would spill registers


@triton.jit
def _tile(
    ptr, b, h, at, place, frame, held, s_b, s_p, s_f, s_h, PACK,
    D: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Tile `at` (rows, BD) of a (B, L, F, H, D) tensor, 0 where not `held`; strides are in UNITs."""
    d = tl.arange(0, BD)
    ptr += (b * s_b + h * s_h + tl.cast(at, tl.int64) * PACK * s_p) * UNIT
    offsets = ((place * s_p + frame * s_f) * UNIT)[:, None] + d[None, :]
    return tl.load(ptr + offsets, mask=held[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _put(
    ptr, value, b, h, at, place, frame, held, s_b, s_p, s_f, s_h, PACK,
    D: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Writes what `_tile` would read."""
    d = tl.arange(0, BD)
    ptr += (b * s_b + h * s_h + tl.cast(at, tl.int64) * PACK * s_p) * UNIT
    offsets = ((place * s_p + frame * s_f) * UNIT)[:, None] + d[None, :]
    tl.store(ptr + offsets, value.to(ptr.dtype.element_ty), mask=held[:, None] & (d < D)[None, :])


@triton.jit
def _probabilities(
    product, box_ptr, tau, gamma_ptr, rho_ptr, b, h, place, frame, pixel, held, F, H, OBJECTS, HEIGHT, WIDTH,
    RHO: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """P (rows, rows) from q·k/√d; rows of one `place` in the tile are of one pixel."""
    s = product * tau
    column, row = (pixel % WIDTH).to(ACC), (pixel // WIDTH).to(ACC)
    for i in range(OBJECTS):
        owner = b * OBJECTS + i
        m = cover(box_ptr + (owner * F + frame) * 4, held, column, row, HEIGHT, WIDTH)
        s -= tl.load(gamma_ptr + owner) * tl.abs(m[:, None] - m[None, :])
    # a pixel attends to its own frames alone: F by F is too small for the matrix units, so pixels share a tile
    same = place[:, None] == place[None, :]
    if RHO:
        distance = frame[:, None] - frame[None, :] + F - 1
        s += tl.load(rho_ptr + (b * H + h) * (2 * F - 1) + distance, mask=same, other=0.0)
    s = tl.where(same, s, float("-inf"))
    most = tl.max(s, 1)
    p = tl.exp(s - tl.where(most == float("-inf"), 0.0, most)[:, None])
    total = tl.sum(p, 1)
    return p / tl.where(total == 0.0, 1.0, total)[:, None]  # 0 in a row that is wholly masked


@triton.jit
def _temporal_forward_kernel(
    q_ptr, k_ptr, v_ptr, box_ptr, tau_ptr, gamma_ptr, rho_ptr, out_ptr,
    L, F, H, OBJECTS, HEIGHT, WIDTH, PACK, scale,
    q_b, q_p, q_f, q_h, k_b, k_p, k_f, k_h, v_b, v_p, v_f, v_h, out_b, out_p, out_f, out_h,
    BR: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr, RHO: tl.constexpr, ACC: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """out (B, L, F, H, d)."""
    bh = tl.program_id(1).to(tl.int64)
    b, h = bh // H, bh % H
    r, at = tl.arange(0, BR), tl.program_id(0)
    place, frame = r // F, r % F
    pixel = at * PACK + place
    held = (place < PACK) & (pixel < L)
    q = _tile(q_ptr, b, h, at, place, frame, held, q_b, q_p, q_f, q_h, PACK, D, BD, UNIT)
    k = _tile(k_ptr, b, h, at, place, frame, held, k_b, k_p, k_f, k_h, PACK, D, BD, UNIT)
    v = _tile(v_ptr, b, h, at, place, frame, held, v_b, v_p, v_f, v_h, PACK, D, BD, UNIT)
    product = dot(q, tl.trans(k), tl.zeros((BR, BR), dtype=ACC), UPCAST) * scale
    p = _probabilities(
        product, box_ptr, tl.load(tau_ptr + b), gamma_ptr, rho_ptr, b, h, place, frame, pixel, held, F, H, OBJECTS,
        HEIGHT, WIDTH, RHO, ACC,
    )  # fmt: skip
    out = dot(p.to(v.dtype), v, tl.zeros((BR, BD), dtype=ACC), UPCAST)
    _put(out_ptr, out, b, h, at, place, frame, held, out_b, out_p, out_f, out_h, PACK, D, BD, UNIT)


@triton.jit
def _temporal_backward_kernel(
    q_ptr, k_ptr, v_ptr, box_ptr, tau_ptr, gamma_ptr, rho_ptr, g_ptr, dq_ptr, dk_ptr, dv_ptr, d_tau_ptr, d_s_ptr,
    L, F, H, OBJECTS, HEIGHT, WIDTH, PACK, SPAN, SPLITS, scale,
    q_b, q_p, q_f, q_h, k_b, k_p, k_f, k_h, v_b, v_p, v_f, v_h, g_b, g_p, g_f, g_h,
    BR: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr, RHO: tl.constexpr,
    NEED_Q: tl.constexpr, NEED_K: tl.constexpr, NEED_V: tl.constexpr, NEED_TAU: tl.constexpr,
    NEED_RHO: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """dQ, dK, dV, and the split's parts of dτ, (B·H, splits), and of Σ dS, (B·H, splits, BR, BR)."""
    split, bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b, h = bh // H, bh % H
    r = tl.arange(0, BR)
    place, frame = r // F, r % F
    tau = tl.load(tau_ptr + b)
    d_tau, total = tl.zeros((BR,), dtype=ACC), tl.zeros((BR, BR), dtype=ACC)
    for at in range(split * SPAN, tl.minimum((split + 1) * SPAN, tl.cdiv(L, PACK))):
        pixel = at * PACK + place
        held = (place < PACK) & (pixel < L)
        q = _tile(q_ptr, b, h, at, place, frame, held, q_b, q_p, q_f, q_h, PACK, D, BD, UNIT)
        k = _tile(k_ptr, b, h, at, place, frame, held, k_b, k_p, k_f, k_h, PACK, D, BD, UNIT)
        product = dot(q, tl.trans(k), tl.zeros((BR, BR), dtype=ACC), UPCAST) * scale
        p = _probabilities(
            product, box_ptr, tau, gamma_ptr, rho_ptr, b, h, place, frame, pixel, held, F, H, OBJECTS,
            HEIGHT, WIDTH, RHO, ACC,
        )  # fmt: skip
        g = _tile(g_ptr, b, h, at, place, frame, held, g_b, g_p, g_f, g_h, PACK, D, BD, UNIT)
        if NEED_V:
            dv = dot(tl.trans(p.to(g.dtype)), g, tl.zeros((BR, BD), dtype=ACC), UPCAST)
            _put(dv_ptr, dv, b, h, at, place, frame, held, g_b, g_p, g_f, g_h, PACK, D, BD, UNIT)
        if NEED_Q or NEED_K or NEED_TAU or NEED_RHO:
            v = _tile(v_ptr, b, h, at, place, frame, held, v_b, v_p, v_f, v_h, PACK, D, BD, UNIT)
            d_p = dot(g, tl.trans(v), tl.zeros((BR, BR), dtype=ACC), UPCAST)
            d_p = tl.where(place[:, None] == place[None, :], d_p, 0.0)  # other pixels' may be infinite
            d_s = p * (d_p - tl.sum(p * d_p, 1)[:, None])
            if NEED_TAU:
                d_tau += tl.sum(d_s * product, 1)
            if NEED_RHO:
                total += d_s
            d_s = (d_s * (tau * scale)).to(q.dtype)
            if NEED_Q:
                dq = dot(d_s, k, tl.zeros((BR, BD), dtype=ACC), UPCAST)
                _put(dq_ptr, dq, b, h, at, place, frame, held, g_b, g_p, g_f, g_h, PACK, D, BD, UNIT)
            if NEED_K:
                dk = dot(tl.trans(d_s), q, tl.zeros((BR, BD), dtype=ACC), UPCAST)
                _put(dk_ptr, dk, b, h, at, place, frame, held, g_b, g_p, g_f, g_h, PACK, D, BD, UNIT)
    part = bh * SPLITS + split
    if NEED_TAU:
        tl.store(d_tau_ptr + part, tl.sum(d_tau, 0))
    if NEED_RHO:
        tl.store(d_s_ptr + (part * BR + r)[:, None] * BR + r[None, :], total)


def _near(t: torch.Tensor) -> torch.Tensor:
    """With rows that are dense, and those of a tile within 32-bit offsets of each other."""
    return t if t.stride(-1) == 1 and ROWS * (t.stride(1) + t.stride(2)) < 2**31 else t.contiguous()


def _arguments(q, k, v, boxes, tau, gamma, rho, grid) -> tuple[list, tuple, dict]:
    """Tensors, sizes, and constants that both kernels take."""
    _, pixels, frames, heads, width = q.shape
    tensors = [_near(t) for t in (q, k, v)] + [q if t is None else t.contiguous() for t in (boxes, tau, gamma, rho)]
    sizes = (pixels, frames, heads, boxes.shape[1], *grid, ROWS // frames)
    constants = {
        "BR": ROWS, "D": width, "BD": padded(width), "RHO": rho is not None,
        **modes(q),
    }  # fmt: skip
    return tensors, sizes, constants


def forward(q, k, v, boxes, tau, gamma, rho, grid) -> torch.Tensor:
    """As `forward_torch`."""
    tensors, sizes, constants = _arguments(q, k, v, boxes, tau, gamma, rho, grid)
    out = q.new_empty(q.shape)
    entry = tile("temporal_forward", constants["BD"], q.device)
    programs = (triton.cdiv(q.shape[1], sizes[-1]), q.shape[0] * q.shape[3])
    strides, unit = in_units(*tensors[:3], out)
    if out.numel():
        _temporal_forward_kernel[programs](
            *tensors, out, *sizes, q.shape[-1] ** -0.5, *strides, UNIT=unit, **constants,
            num_warps=entry.warps, num_stages=entry.stages,
        )  # fmt: skip
    return out


def backward(g, q, k, v, boxes, tau, gamma, rho, grid, needs) -> list[torch.Tensor | None]:
    """As `backward_torch`."""
    tensors, sizes, constants = _arguments(q, k, v, boxes, tau, gamma, rho, grid)
    g = g.contiguous()  # its strides are those of dQ, dK and dV too
    batch, pixels, frames, heads, width = q.shape
    entry = tile("temporal_backward", constants["BD"], q.device)
    tiles, programs = triton.cdiv(pixels, sizes[-1]), batch * heads
    span = triton.cdiv(tiles * max(1, programs), 8 * chips.UNITS[chips.architecture(q.device)])
    splits = triton.cdiv(tiles, span)
    made = [q.new_empty(q.shape) if need else q for need in needs[:3]]
    d_tau = tau.new_empty(batch, heads * splits) if needs[3] else tau
    d_s = tau.new_empty(batch, heads, splits, ROWS, ROWS) if needs[4] else tau
    if q.numel():
        strides, unit = in_units(*tensors[:3], g)
        _temporal_backward_kernel[(splits, programs)](
            *tensors, g, *made, d_tau, d_s, *sizes, span, splits, width**-0.5, *strides, UNIT=unit, **constants,
            **dict(zip(("NEED_Q", "NEED_K", "NEED_V", "NEED_TAU", "NEED_RHO"), needs, strict=True)),
            num_warps=entry.warps, num_stages=entry.stages,
        )  # fmt: skip
    grads = [t if need else None for t, need in zip(made, needs[:3], strict=True)]
    grads.append(d_tau.sum(1) if needs[3] else None)
    if not needs[4]:
        return [*grads, None]
    wide = diagonal_sums(d_s.sum(2))  # of all (pixel, frame) pairs; rows of other pixels are zero
    return [*grads, wide[..., ROWS - frames : ROWS + frames - 1]]
