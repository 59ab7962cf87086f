"""How spherical harmonics turn."""

import math

import torch

from wm_pipelines.morpho4d.harmonics import basis
from wm_pipelines.morpho4d.quaternions import conjugate, rotate

MOST_DEGREE = 3
COEFFICIENTS = tuple((degree + 1) ** 2 for degree in range(MOST_DEGREE + 1))
"""K of each degree: 1, 4, 9, 16."""


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
