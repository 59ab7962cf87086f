"""Gaussians of space as Gaussians of the picture plane (Zwicker and others, 2001), in plain torch.

    Σ' = J W Σ Wᵀ Jᵀ + dilation·I,   J = [[fx/z, 0, −fx x/z²], [0, fy/z, −fy y/z²]]

J is taken no farther out than 1.3 times the half field of view. A Gaussian reaches √(2 ln(255 o)) standard deviations,
where its α falls below 1/255.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .reference import LEAST_ALPHA

__all__ = ["Projected", "project_gaussians"]


class Projected(NamedTuple):
    """splats: (N, 6), as `composite_gaussians` takes them. z: (N,), along the optical axis. reach: (N, 2), half sizes
    of the boxes in which they are seen, pixels, 0 where a Gaussian is behind the camera or too faint."""

    splats: Tensor
    z: Tensor
    reach: Tensor


def project_gaussians(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    k: Tensor,
    world_to_camera: Tensor,
    *,
    size: tuple[int, int],
    dilation: float = 0.3,
    near: float = 0.05,
) -> Projected:
    """Where N Gaussians lie in a picture.

    Args:
        means: (N, 3). quats: (N, 4), unit (w, x, y, z). scales: (N, 3), standard deviations. opacities: (N,).
        k: (3, 3), in pixels, without skew. world_to_camera: (4, 4), to x right, y down, z forward.
        size: (height, width), pixels.
        dilation: added to both variances, square pixels.
        near: least z of what is seen.
    """
    turn = world_to_camera[:3, :3]
    x, y, z = (means @ turn.T + world_to_camera[:3, 3]).unbind(-1)
    seen = (z > near) & (opacities > LEAST_ALPHA)
    inverse = 1 / torch.where(z > near, z, 1.0)
    (fx, _, cx), (_, fy, cy), _ = k.tolist()
    height, width = size
    px, py = x * inverse, y * inverse
    wide, tall = 0.15 * width / fx, 0.15 * height / fy
    jx = px.clamp((0 - cx) / fx - wide, (width - cx) / fx + wide)
    jy = py.clamp((0 - cy) / fy - tall, (height - cy) / fy + tall)
    zero = torch.zeros_like(x)
    jacobian = torch.stack([fx * inverse, zero, -fx * inverse * jx, zero, fy * inverse, -fy * inverse * jy], dim=-1)
    axes = (jacobian.view(-1, 2, 3) @ turn) @ (_matrices(quats) * scales[:, None])  # (N, 2, 3)
    cov = axes @ axes.mT
    cxx, cxy, cyy = cov[:, 0, 0] + dilation, cov[:, 0, 1], cov[:, 1, 1] + dilation
    determinant = cxx * cyy - cxy * cxy
    splats = torch.stack(
        [px * fx + cx, py * fy + cy, cyy / determinant, -cxy / determinant, cxx / determinant, opacities], dim=-1
    )
    with torch.no_grad():
        far = (2 * (opacities / LEAST_ALPHA).clamp(min=1).log()).sqrt() * seen
        reach = torch.stack([far * cxx.sqrt(), far * cyy.sqrt()], dim=-1)
    return Projected(splats, z, reach)


def _matrices(q: Tensor) -> Tensor:
    """Rotation matrices (N, 3, 3)."""
    w, v = q[:, :1, None], q[:, 1:]
    cross = torch.linalg.cross(v[:, :, None].expand(-1, 3, 3), torch.eye(3).to(q).expand(len(q), 3, 3), dim=1)
    straight = torch.eye(3).to(q) * (1 - 2 * v.square().sum(1))[:, None, None]
    return straight + 2 * (v[:, :, None] * v[:, None] + w * cross)
