"""`composite_gaussians`: checks its arguments and chooses what runs."""

import torch
from torch import Tensor

from custom_kernels.shared.backend import use_triton

from .checks import check, limits
from .registered import composite

__all__ = ["composite_gaussians"]


def composite_gaussians(
    splats: Tensor,
    channels: Tensor,
    lists: Tensor,
    origins: Tensor,
    *,
    tile: int,
    detached: int = 0,
    backend: str = "auto",
) -> Tensor:
    """Blends Gaussians front to back in each pixel of some tiles; colours, features and depth in the same pass.

    Args:
        splats: (N, 6) of (u, v, a, b, c, o): the centre in pixels, the inverse of the 2-D covariance [[a, b], [b, c]],
            the opacity in (0, 1]. float32 or float64.
        channels: (N, C), what is blended.
        lists: (n, K) int64, which Gaussians may touch each tile, nearest first; -1 where a list has ended. None is
            left out: K is as long as the longest list.
        origins: (n, 2), the top left corner (x, y) of each tile, pixels; without gradient.
        tile: side of a tile, pixels.
        detached: how many of the last channels send no gradient to the splats, so that a feature never moves one.
        backend: "auto", "triton" or "torch"; see `custom_kernels/shared/backend.py` for `WM_KERNELS`.

    Returns:
        (n, tile², C + 1), pixels row by row: the channels weighted by what each Gaussian covers, then alpha, the sum
        of the weights.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a number in `lists` that is no Gaussian (checked on the
            CPU), or an unusable backend.
    """
    check(splats, channels, lists, origins, tile, detached)
    triton = use_triton(backend, splats, limits(channels.shape[1], tile), dtypes=(torch.float32,))
    return composite(splats, channels, lists, origins, tile, detached, triton)
