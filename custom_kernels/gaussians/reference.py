"""Blending of Gaussians front to back (Kerbl and others, 2023, equations 2 and 3).

    p_i = −½ (a dx² + 2 b dx dy + c dy²)     α_i = min(0.99, o exp(p_i)),  0 up to 1/255
    T_i = Π_{j<i} (1 − α_j)                  w_i = α_i T_i,  0 where T_i <= 1e-4
    out = Σ_i w_i f_i                        alpha = Σ_i w_i

(dx, dy) is the pixel's centre minus (u, v); i runs over a tile's list, nearest first. The reference below is the
definition, gradients by autograd; neither 0.99, 1/255 nor 1e-4 is differentiated through.
"""

import torch
from torch import Tensor

__all__ = ["LEAST_ALPHA", "LEAST_TRANSMITTANCE", "MOST_ALPHA", "composite_gaussians_reference", "pixel_centres"]

MOST_ALPHA, LEAST_ALPHA, LEAST_TRANSMITTANCE = 0.99, 1 / 255, 1e-4


def pixel_centres(tile: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """x and y (tile²,) of the pixels of a tile, row by row, from its top left corner."""
    line = torch.arange(tile, device=like.device, dtype=like.dtype) + 0.5
    return line.repeat(tile), line.repeat_interleave(tile)


def composite_gaussians_reference(
    splats: Tensor, channels: Tensor, lists: Tensor, origins: Tensor, *, tile: int, detached: int = 0
) -> Tensor:
    """The definition: every pixel of a tile against its whole list, (n, tile², C + 1); alpha comes last.

    The last `detached` channels send no gradient to the weights.
    """
    there = lists >= 0
    u, v, a, b, c, o = splats[lists.clamp(min=0)].unsqueeze(1).unbind(-1)  # (n, 1, K) each
    x, y = pixel_centres(tile, splats)
    dx = (origins[:, 0:1] + x)[..., None] - u  # (n, P, K)
    dy = (origins[:, 1:2] + y)[..., None] - v
    alpha = (o * torch.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy))).clamp(max=MOST_ALPHA)
    alpha = torch.where((alpha > LEAST_ALPHA) & there[:, None], alpha, 0.0)
    behind = (1 - alpha).cumprod(-1)
    light = torch.cat([torch.ones_like(behind[..., :1]), behind[..., :-1]], dim=-1)
    weight = torch.where(light > LEAST_TRANSMITTANCE, alpha * light, 0.0)
    values, tied = channels[lists.clamp(min=0)], channels.shape[1] - detached
    blended = [weight @ values[..., :tied], weight.detach() @ values[..., tied:], weight.sum(-1, keepdim=True)]
    return torch.cat(blended, dim=-1)
