"""Pictures of Gaussians: colour, depth, alpha, object ids and features of a whole frame, in one pass."""

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wm_pipelines.kernels import (
    assemble_tiles,
    composite_gaussians,
    project_gaussians,
    tile_lists,
    tile_origins,
)
from wm_pipelines.morpho4d.gaussians import PosedGaussians
from wm_pipelines.morpho4d.harmonics import colours

BACKENDS = ("auto", "torch", "triton", "gsplat")
SOLID = 0.5
"""Alpha from which a pixel has a depth and an object."""


@dataclass
class RenderedScene:
    """T pictures. frames: (T, 3, H, W) in [0, 1], sRGB. depth: (T, H, W), metres along the optical axis, inf where
    alpha is under 0.5. alpha: (T, H, W). object_ids: (T, H, W) int64, 0 = background. features: (T, F, H, W)."""

    frames: torch.Tensor
    depth: torch.Tensor
    alpha: torch.Tensor
    object_ids: torch.Tensor
    features: torch.Tensor

    @classmethod
    def stack(cls, parts: Sequence["RenderedScene"]) -> "RenderedScene":
        names = ("frames", "depth", "alpha", "object_ids", "features")
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def blend(
    posed: PosedGaussians,
    channels: torch.Tensor,
    k: torch.Tensor,
    t_cw: torch.Tensor,
    size: tuple[int, int],
    dilation: float = 0.3,
    backend: str = "auto",
) -> torch.Tensor:
    """Any channels (N, C) of Gaussians, blended in every pixel: (C + 2, H, W), then z, then alpha.

    Args:
        k: (3, 3), pixels. t_cw: (4, 4), world to camera. size: (height, width).
        backend: "auto", "torch", "triton", or "gsplat" on a CUDA device.

    Raises:
        ValueError: an unknown or unusable `backend`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"`backend` is {backend!r}; allowed: {', '.join(BACKENDS)}")
    if backend == "gsplat" and has_gsplat(posed.means.device):
        return _gsplat(posed, channels, k, t_cw, size, dilation)
    backend = "torch" if backend == "gsplat" else backend
    seen = project_gaussians(
        posed.means, posed.quats, posed.scales, posed.opacities, k, t_cw, size=size, dilation=dilation
    )
    tile = 8 if posed.means.device.type == "cpu" else 16
    origins = tile_origins(size, tile, posed.means)
    values = torch.cat([channels, seen.z[:, None]], dim=1)
    out = values.new_zeros(len(origins), tile * tile, values.shape[1] + 1)
    tiles, lists = tile_lists(seen, origins, tile)
    block = composite_gaussians(seen.splats, values, lists, origins[tiles], tile=tile, backend=backend)
    return assemble_tiles(out.index_copy(0, tiles, block), size, tile)


def has_gsplat(device: torch.device) -> bool:
    """Whether gsplat can draw on `device`; a warning where it is installed without what it needs.

    Raises:
        ValueError: it is not installed.
    """
    if importlib.util.find_spec("gsplat") is None:
        raise ValueError('`backend` is "gsplat", which is not installed; it needs CUDA: pip install gsplat')
    if device.type == "cuda":
        from gsplat.cuda._backend import _C

        if _C is not None:
            return True
    warnings.warn("gsplat is installed but has no CUDA backend; using torch renderer", stacklevel=3)
    return False


def _gsplat(posed, channels, k, t_cw, size, dilation) -> torch.Tensor:
    from gsplat import rasterization

    z = posed.means @ t_cw[2, :3] + t_cw[2, 3]
    picture, alpha, _ = rasterization(
        *(posed.means, posed.quats, posed.scales, posed.opacities),
        torch.cat([channels, z[:, None]], dim=1),
        *(t_cw[None], k[None], size[1], size[0]),
        eps2d=dilation,
        near_plane=0.05,
    )
    return torch.cat([picture[0], alpha[0]], dim=-1).permute(2, 0, 1)


def render_posed(
    posed: PosedGaussians,
    k: torch.Tensor,
    t_cw: torch.Tensor,
    size: tuple[int, int],
    background: Sequence[float] = (0.0, 0.0, 0.0),
    dilation: float = 0.3,
    backend: str = "auto",
) -> RenderedScene:
    """One picture (T = 1); arguments as in `blend`, and the colour where nothing is."""
    eye = -t_cw[:3, :3].T @ t_cw[:3, 3]
    known, whose = posed.object_id.unique(return_inverse=True)
    shares = torch.nn.functional.one_hot(whose, max(len(known), 1)).to(posed.means)
    values = torch.cat([colours(posed, eye), posed.features, shares], dim=1)
    out = blend(posed, values, k, t_cw, size, dilation, backend)
    count = posed.features.shape[1]
    rgb, features, shares = out[:3], out[3 : 3 + count], out[3 + count : -2]
    z, alpha = out[-2], out[-1]
    solid = alpha >= SOLID
    known = known if len(known) else known.new_zeros(1)
    return RenderedScene(
        (rgb + (1 - alpha) * rgb.new_tensor(background)[:, None, None]).clamp(0, 1)[None],
        torch.where(solid, z / alpha.clamp(min=1e-6), torch.inf)[None],
        alpha[None],
        torch.where(solid, known[shares.argmax(0)], 0)[None],
        features[None],
    )
