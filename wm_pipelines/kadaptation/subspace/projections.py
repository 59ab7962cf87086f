"""Random projections P (size D, dim d) for theta = theta0 + P z (Li et al., 1804.08838, section 2).

All of them are made anew from their key and never saved: two projections of one key are equal on every machine.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from wm_pipelines.runtime.random import keyed

MAX_ENTRIES = 2**28
"""Largest D * d of a dense or sparse projection; 1 GiB in float32."""


def hadamard(x: torch.Tensor) -> torch.Tensor:
    """Walsh-Hadamard transform of the last dimension, natural order, not normalised: H H = n I.

    Args:
        x: (..., n) with n a power of two; differentiable any number of times.

    Raises:
        ValueError: n is no power of two.
    """
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise ValueError(f"the last dimension is {n}; the Walsh-Hadamard transform needs a power of two")
    shape, half = x.shape, 1
    while half < n:
        a, b = x.reshape(*shape[:-1], n // (2 * half), 2, half).unbind(-2)
        x, half = torch.stack((a + b, a - b), dim=-2), 2 * half
    return x.reshape(shape)


class DenseProjection(nn.Module):
    """Gaussian columns, each scaled to norm 1. Call: z (d,) to P z (D,)."""

    def __init__(self, size: int, dim: int, *key: str | int):
        super().__init__()
        matrix = torch.from_numpy(keyed("dense", size, dim, *key).standard_normal((size, dim), dtype="float32"))
        self.register_buffer("matrix", matrix / matrix.norm(dim=0), persistent=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.matrix @ z


class SparseProjection(nn.Module):
    """Each entry is there with probability s = 1/sqrt(D) and is +-1/sqrt(s D); columns have norm 1 on average.

    Call: z (d,) to P z (D,).
    """

    def __init__(self, size: int, dim: int, *key: str | int):
        super().__init__()
        density, rng = size**-0.5, keyed("sparse", size, dim, *key)
        # gaps between the entries of independent trials are geometric: work grows with the entries, not with D * d
        places, last = [], -1
        while last < size * dim:
            gaps = rng.geometric(density, size=int(size * dim * density) + 16)
            places.append(last + gaps.cumsum())
            last = int(places[-1][-1])
        flat = torch.cat([torch.from_numpy(part) for part in places])
        flat = flat[flat < size * dim]
        signs = torch.from_numpy(rng.integers(2, size=len(flat)) * 2.0 - 1).float()
        self.size = size
        self.register_buffer("rows", flat // dim, persistent=False)
        self.register_buffer("columns", flat % dim, persistent=False)
        self.register_buffer("values", signs / math.sqrt(density * size), persistent=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z.new_zeros(self.size).index_add(0, self.rows, self.values * z[self.columns])


class FastfoodProjection(nn.Module):
    """The first D rows of H G Pi H B on the next power of two n, scaled so that columns have norm 1 on average.

    B are random signs, Pi a permutation, G Gaussians, H Walsh-Hadamard (Le et al., 2013). It costs n log n time and
    3 n numbers for any d. Call: z (d,) to P z (D,).
    """

    def __init__(self, size: int, dim: int, *key: str | int):
        super().__init__()
        rng, n = keyed("fastfood", size, dim, *key), 1 << (size - 1).bit_length()
        self.size, self.n, self.scale = size, n, (size * n) ** -0.5
        signs = torch.from_numpy(rng.integers(2, size=n) * 2.0 - 1).float()
        self.register_buffer("signs", signs, persistent=False)
        self.register_buffer("permutation", torch.from_numpy(rng.permutation(n)), persistent=False)
        self.register_buffer("gauss", torch.from_numpy(rng.standard_normal(n, dtype="float32")), persistent=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        mixed = hadamard(F.pad(z, (0, self.n - len(z))) * self.signs)[self.permutation]
        return hadamard(mixed * self.gauss)[: self.size] * self.scale


PROJECTIONS = {"fastfood": FastfoodProjection, "dense": DenseProjection, "sparse": SparseProjection}


def check_projection(kind: str, size: int, dim: int) -> None:
    """ValueError where `make_projection` can't make it."""
    if kind not in PROJECTIONS:
        raise ValueError(f"projection={kind!r}; choose from {', '.join(PROJECTIONS)}")
    if not 1 <= dim <= size:
        raise ValueError(f"dim={dim}; it must be from 1 to {size}, the number of parameters it moves")
    if kind != "fastfood" and size * dim > MAX_ENTRIES:
        raise ValueError(
            f"a {kind} projection of {size:,} parameters to {dim:,} has {size * dim:,} entries, at most "
            f"{MAX_ENTRIES:,} are allowed; use projection='fastfood'"
        )


def make_projection(kind: str, size: int, dim: int, *key: str | int) -> nn.Module:
    """P from R^dim to R^size, the same for the same arguments on every machine.

    Args:
        kind: "fastfood", "dense" or "sparse". size: D. dim: d, from 1 to D. key: seeds and names.

    Raises:
        ValueError: unknown kind, d out of range, or D * d above 2**28 for dense and sparse.
    """
    check_projection(kind, size, dim)
    return PROJECTIONS[kind](size, dim, *key)
