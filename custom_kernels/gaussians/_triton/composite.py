"""Blending of a tile's Gaussians: one program a tile, front to back, and back to front for the gradients.

A program holds the sums of all its pixels. On the way back T_i = T_{i+1} / (1 − α_i), from the T that was left and the
length that was reached, both of which the way there is walked once more to find.
"""

import torch
import triton
import triton.language as tl

from custom_kernels.shared._triton import chips

from ..reference import LEAST_ALPHA, LEAST_TRANSMITTANCE, MOST_ALPHA

__all__ = ["backward", "forward"]

# warps of a program by tile and architecture: sums of tile² pixels by 16 channels stay in registers
WARPS = {"sm_80": {4: 1, 8: 2, 16: 8}, "sm_90": {4: 1, 8: 2, 16: 8}, "gfx942": {4: 1, 8: 1, 16: 4}}
BOUNDS = {"MOST": MOST_ALPHA, "LEAST": LEAST_ALPHA, "STOP": LEAST_TRANSMITTANCE}
WIDTH = 16  # channels of a pass; more go in several


@triton.jit
def _alpha(place, x, y, MOST: tl.constexpr, LEAST: tl.constexpr):
    """α of one Gaussian in all pixels, before its cap too, and its six numbers."""
    u = tl.load(place)
    v = tl.load(place + 1)
    a = tl.load(place + 2)
    b = tl.load(place + 3)
    c = tl.load(place + 4)
    o = tl.load(place + 5)
    dx = x - u
    dy = y - v
    plain = o * tl.exp(-0.5 * (a * dx * dx + 2.0 * b * dx * dy + c * dy * dy))
    alpha = tl.where(plain > LEAST, tl.minimum(plain, MOST), 0.0)
    return alpha, plain, dx, dy, a, b, c, o


@triton.jit
def _forward_kernel(
    splats_ptr, channels_ptr, lists_ptr, counts_ptr, origins_ptr, out_ptr,
    longest, channels, first, out_row,
    TILE: tl.constexpr, WIDTH: tl.constexpr, MOST: tl.constexpr, LEAST: tl.constexpr, STOP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    pixel = tl.arange(0, TILE * TILE)
    x = tl.load(origins_ptr + 2 * row) + (pixel % TILE) + 0.5
    y = tl.load(origins_ptr + 2 * row + 1) + (pixel // TILE) + 0.5
    column = tl.arange(0, WIDTH)
    held = first + column < channels
    light = x * 0.0 + 1.0
    covered = x * 0.0
    total = light[:, None] * 0.0 + column[None, :] * 0.0
    count = tl.load(counts_ptr + row)
    i = count * 0
    while i < count:
        g = tl.load(lists_ptr + row * longest + i)
        alpha, _, _, _, _, _, _, _ = _alpha(splats_ptr + 6 * g, x, y, MOST, LEAST)
        weight = tl.where(light > STOP, alpha * light, 0.0)
        value = tl.load(channels_ptr + g * channels + first + column, mask=held, other=0.0)
        total += weight[:, None] * value[None, :]
        covered += weight
        light *= 1.0 - alpha
        i = tl.where(tl.max(light, 0) > STOP, i + 1, count)
    place = out_ptr + (row * TILE * TILE + pixel.to(tl.int64)) * out_row
    tl.store(place[:, None] + first + column[None, :], total, mask=held[None, :])
    tl.store(place + channels, covered)


@triton.jit
def _backward_kernel(
    g_ptr, splats_ptr, channels_ptr, lists_ptr, counts_ptr, origins_ptr, d_splats_ptr, d_channels_ptr,
    longest, channels, tied, first, out_row,
    TILE: tl.constexpr, WIDTH: tl.constexpr, MOST: tl.constexpr, LEAST: tl.constexpr, STOP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    pixel = tl.arange(0, TILE * TILE)
    x = tl.load(origins_ptr + 2 * row) + (pixel % TILE) + 0.5
    y = tl.load(origins_ptr + 2 * row + 1) + (pixel // TILE) + 0.5
    column = tl.arange(0, WIDTH)
    held = first + column < channels
    place = g_ptr + (row * TILE * TILE + pixel.to(tl.int64)) * out_row
    d_out = tl.load(place[:, None] + first + column[None, :], mask=held[None, :], other=0.0)
    # alpha's own gradient counts in the first pass alone
    d_covered = tl.where(first == 0, tl.load(place + channels), 0.0)
    count = tl.load(counts_ptr + row)
    light = x * 0.0 + 1.0
    i = count * 0
    while i < count:
        g = tl.load(lists_ptr + row * longest + i)
        alpha, _, _, _, _, _, _, _ = _alpha(splats_ptr + 6 * g, x, y, MOST, LEAST)
        light *= 1.0 - alpha
        # as the way there ends: when no pixel of the tile is reached by light any more
        reached = tl.max(light, 0) > STOP
        count = tl.where(reached, count, i + 1)
        i += 1
    later = x * 0.0
    while i > 0:
        i -= 1
        g = tl.load(lists_ptr + row * longest + i)
        alpha, plain, dx, dy, a, b, c, o = _alpha(splats_ptr + 6 * g, x, y, MOST, LEAST)
        light /= 1.0 - alpha
        seen = light > STOP
        weight = tl.where(seen, alpha * light, 0.0)
        value = tl.load(channels_ptr + g * channels + first + column, mask=held, other=0.0)
        bound = tl.where(first + column < tied, value, 0.0)
        q = tl.sum(d_out * bound[None, :], 1) + d_covered
        # more opacity here adds what this Gaussian shows and takes 1 / (1 − α) of what all behind it show (`later`)
        d_alpha = tl.where(seen, light * q, 0.0) - later / (1.0 - alpha)
        later += weight * q
        d_power = tl.where((plain > LEAST) & (plain < MOST), d_alpha * plain, 0.0)
        to = d_splats_ptr + 6 * g
        # a Gaussian lies in many tiles, whose programs add in any order: the last digits differ from run to run
        tl.atomic_add(to, tl.sum(d_power * (a * dx + b * dy), 0))
        tl.atomic_add(to + 1, tl.sum(d_power * (b * dx + c * dy), 0))
        tl.atomic_add(to + 2, tl.sum(-0.5 * d_power * dx * dx, 0))
        tl.atomic_add(to + 3, tl.sum(-d_power * dx * dy, 0))
        tl.atomic_add(to + 4, tl.sum(-0.5 * d_power * dy * dy, 0))
        tl.atomic_add(to + 5, tl.sum(d_power, 0) / o)
        d_value = tl.sum(weight[:, None] * d_out, 0)
        tl.atomic_add(d_channels_ptr + g * channels + first + column, d_value, mask=held)


def forward(splats, channels, lists, origins, tile):
    """out (n, tile², C + 1)."""
    count = channels.shape[1]
    out = splats.new_empty(len(lists), tile * tile, count + 1)
    if not len(lists):
        return out
    warps = WARPS[chips.architecture(splats.device)][tile]
    given = (splats.contiguous(), channels.contiguous(), lists.contiguous(), (lists >= 0).sum(1), origins.contiguous())
    for first in range(0, max(count, 1), WIDTH):
        _forward_kernel[(len(lists),)](
            *given, out, lists.shape[1], count, first, count + 1,
            TILE=tile, WIDTH=WIDTH, **BOUNDS, num_warps=warps, num_stages=1,
        )  # fmt: skip
    return out


def backward(g, splats, channels, lists, origins, tile, detached):
    """The gradients of splats and channels."""
    d_splats, d_channels = torch.zeros_like(splats), torch.zeros_like(channels)
    if not len(lists):
        return d_splats, d_channels
    count = channels.shape[1]
    warps = WARPS[chips.architecture(splats.device)][tile]
    given = (splats.contiguous(), channels.contiguous(), lists.contiguous(), (lists >= 0).sum(1), origins.contiguous())
    for first in range(0, max(count, 1), WIDTH):
        _backward_kernel[(len(lists),)](
            g.contiguous(), *given, d_splats, d_channels, lists.shape[1], count, count - detached, first, count + 1,
            TILE=tile, WIDTH=WIDTH, **BOUNDS, num_warps=warps, num_stages=1,
        )  # fmt: skip
    return d_splats, d_channels
