"""Real spherical harmonics as 3D Gaussian splatting writes them (Kerbl and others, 2023), and how they turn."""

import math

import torch

from wm_pipelines.morpho4d.gaussians import SH_DC
from wm_pipelines.morpho4d.quaternions import conjugate, rotate

MOST_DEGREE = 3
COEFFICIENTS = tuple((degree + 1) ** 2 for degree in range(MOST_DEGREE + 1))
"""K of each degree: 1, 4, 9, 16."""


def basis(directions: torch.Tensor, degree: int) -> torch.Tensor:
    """The harmonics (..., K) of unit directions (..., 3), with the Condon-Shortley phase."""
    x, y, z = directions.unbind(-1)
    found = [torch.full_like(x, SH_DC)]
    if degree >= 1:
        found += [0.4886025119029199 * v for v in (-y, z, -x)]
    if degree >= 2:
        found += [1.0925484305920792 * v for v in (x * y, -y * z)]
        found += [0.31539156525252005 * (2 * z * z - x * x - y * y), -1.0925484305920792 * x * z]
        found += [0.5462742152960396 * (x * x - y * y)]
    if degree >= 3:
        found += [-0.5900435899266435 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z]
        found += [-0.4570457994644658 * y * (4 * z * z - x * x - y * y)]
        found += [0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y)]
        found += [-0.4570457994644658 * x * (4 * z * z - x * x - y * y), 1.445305721320277 * z * (x * x - y * y)]
        found += [-0.5900435899266435 * x * (x * x - 3 * y * y)]
    return torch.stack(found, dim=-1)


def turned(sh: torch.Tensor, quats: torch.Tensor) -> torch.Tensor:
    """Coefficients of the same colours after everything has been turned.

    The new function at d is the old one at R^T d. Every degree is closed under rotation, so its values along enough
    fixed directions give the new coefficients exactly (our design).

    Args:
        sh: (N, K, 3). quats: (4,) or (N, 4), unit.
    """
    degree = COEFFICIENTS.index(sh.shape[1])
    if degree == 0:
        return sh
    n = torch.arange(4 * sh.shape[1], dtype=torch.float64)
    z, angle = 1 - (2 * n + 1) / len(n), n * math.pi * (3 - math.sqrt(5))  # a spiral over the sphere
    ring = (1 - z * z).sqrt()
    directions = torch.stack([ring * angle.cos(), ring * angle.sin(), z], dim=-1)  # (P, 3)
    solve = torch.linalg.pinv(basis(directions, degree))  # (K, P)
    back = conjugate(quats.double().reshape(-1, 1, 4))
    seen = basis(rotate(back, directions.expand(len(back), -1, 3)), degree)  # (N or 1, P, K)
    return (solve @ seen @ sh.double()).to(sh)
