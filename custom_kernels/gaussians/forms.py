"""`composite_gaussians` in plain torch and its gradients.

With (x, y) from the middle of a tile, the exponent is a polynomial of second degree, so that one product of matrices
gives it for all pixels, and the gradients of all six parameters follow from its six moments.

    p + ln o = Σ_m k_m(u, v, a, b, c, o) · (1, x, y, x², xy, y²)_m
    q_i = Σ_c ∂L/∂out_c f_ic     ∂L/∂α_i = T_i q_i − (Σ_{j>i} w_j q_j) / (1 − α_i)     ∂L/∂f_i = Σ_pixels w_i ∂L/∂out
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import threshold_

from .reference import LEAST_ALPHA, LEAST_TRANSMITTANCE, MOST_ALPHA, pixel_centres

__all__ = ["backward_torch", "forward_torch"]

CHUNK = 2**17  # (tile, pixel, Gaussian) triples that are worked on at a time
FAINT = -30.0  # of exponents: what is fainter is nothing, and exp() would make slow denormal numbers of it
NOTHING = -1e37  # in place of ln 0


def _basis(tile: int, like: Tensor) -> Tensor:
    """(P, 6): 1, x, y, x², xy, y² from the middle of a tile."""
    x, y = (t - tile / 2 for t in pixel_centres(tile, like))
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=1)


def _gather(splats: Tensor, lists: Tensor, origins: Tensor, tile: int) -> tuple[Tensor, ...]:
    """u, v, a, b, c, o of each list, (n, K); u and v from the middle of the tile, o = 0 where a list has ended."""
    u, v, a, b, c, o = splats.index_select(0, lists.clamp(min=0).flatten()).view(*lists.shape, 6).unbind(-1)
    middle = origins + tile / 2
    return u - middle[:, :1], v - middle[:, 1:], a, b, c, torch.where(lists >= 0, o, 0.0)


def _alphas(parts: tuple[Tensor, ...], basis: Tensor) -> Tensor:
    """α before its cap and floor, (n, P, K)."""
    u, v, a, b, c, o = parts
    constant = (o.log() - 0.5 * (a * u * u + c * v * v) - b * u * v).clamp_(min=NOTHING)
    terms = torch.stack([constant, a * u + b * v, b * u + c * v, -0.5 * a, -b, -0.5 * c], dim=1)
    return torch.matmul(basis, terms).clamp_(min=FAINT).exp_()


def _weights(plain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """α with its cap and floor, 1 − α, and T or 0, (n, P, K) each."""
    alpha = threshold_(plain.clamp(max=MOST_ALPHA), LEAST_ALPHA, 0.0)
    rest = 1 - alpha
    light = torch.ones_like(rest)
    torch.cumprod(rest[..., :-1], -1, out=light[..., 1:])
    return alpha, rest, threshold_(light, LEAST_TRANSMITTANCE, 0.0)


def _chunks(lists: Tensor, tile: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the lists, and those rows as long as the longest of them."""
    counts = (lists >= 0).sum(1).tolist()
    start = 0
    while start < len(lists):
        end, longest = start, 0
        while end < len(lists):
            grown = max(longest, counts[end], 1)
            if end > start and grown * (end + 1 - start) * tile * tile > CHUNK:
                break
            end, longest = end + 1, grown
        yield slice(start, end), lists[start:end, :longest]
        start = end


def forward_torch(splats: Tensor, channels: Tensor, lists: Tensor, origins: Tensor, tile: int) -> Tensor:
    """(n, tile², C + 1)."""
    out = splats.new_zeros(len(lists), tile * tile, channels.shape[1] + 1)
    if not lists.numel():
        return out
    basis = _basis(tile, splats)
    for some, index in _chunks(lists, tile):
        parts = _gather(splats, index, origins[some], tile)
        alpha, _, light = _weights(_alphas(parts, basis))
        weight = alpha.mul_(light)
        out[some, :, :-1] = weight @ channels[index.clamp(min=0)]
        out[some, :, -1] = weight.sum(-1)
    return out


def backward_torch(
    g: Tensor, splats: Tensor, channels: Tensor, lists: Tensor, origins: Tensor, tile: int, detached: int
) -> tuple[Tensor, Tensor]:
    """The gradients of splats (N, 6) and channels (N, C)."""
    d_splats, d_channels = torch.zeros_like(splats), torch.zeros_like(channels)
    if not lists.numel():
        return d_splats, d_channels
    basis, tied = _basis(tile, splats), channels.shape[1] - detached
    for some, index in _chunks(lists, tile):
        parts = _gather(splats, index, origins[some], tile)
        index = index.clamp(min=0)
        plain = _alphas(parts, basis)
        alpha, rest, light = _weights(plain)
        weight = alpha * light
        d_out = g[some]
        d_channels.index_add_(0, index.flatten(), (weight.mT @ d_out[..., :-1]).flatten(0, 1))
        q = torch.baddbmm(d_out[..., -1:], d_out[..., :tied], channels[:, :tied][index].mT)
        later = weight.mul_(q)
        sums = later.cumsum(-1)
        later = sums[..., -1:] - sums
        q.mul_(light).sub_(later.div_(rest))
        d_power = torch.ops.aten.hardtanh_backward(q.mul_(alpha), plain, LEAST_ALPHA, MOST_ALPHA)
        d_splats.index_add_(0, index.flatten(), _from_moments(basis.T @ d_power, parts).flatten(0, 1))
    return d_splats, d_channels


def _from_moments(moments: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    """The gradient of (u, v, a, b, c, o), (n, K, 6), from that of the exponent by (1, x, y, x², xy, y²), (n, 6, K)."""
    m, mx, my, mxx, mxy, myy = moments.unbind(1)
    u, v, a, b, c, o = parts
    dx, dy = mx - u * m, my - v * m
    dxx = mxx - 2 * u * mx + u * u * m
    dxy = mxy - u * my - v * mx + u * v * m
    dyy = myy - 2 * v * my + v * v * m
    d_o = torch.where(o > 0, m / torch.where(o > 0, o, 1.0), 0.0)
    return torch.stack([a * dx + b * dy, b * dx + c * dy, -0.5 * dxx, -dxy, -0.5 * dyy, d_o], dim=-1)
