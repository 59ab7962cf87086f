"""Sizes that Kronecker factors may have, and the values they start with."""

from __future__ import annotations

import math

import torch

__all__ = ["check_divides", "divisors", "init_factors"]


def divisors(*sizes: int) -> list[int]:
    """All common divisors of `sizes`, ascending."""
    common = math.gcd(*sizes)
    return [k for k in range(1, common + 1) if common % k == 0]


def check_divides(n_in: int, n_out: int, in_features: int, out_features: int, name: str = "") -> None:
    """ValueError when a Kronecker factor does not divide its side of the layer, with the values that would.

    Args:
        name: the module's name, put in front of the message.
    """
    for n, size, side in ((n_in, in_features, "in_features"), (n_out, out_features, "out_features")):
        if n < 1 or size % n:
            both = divisors(in_features, out_features) if n_in == n_out else divisors(size)
            where = f"`{name}`: " if name else ""
            raise ValueError(f"{where}n={n} does not divide {side}={size}; choose from {', '.join(map(str, both))}")


@torch.no_grad()
def init_factors(
    u: torch.Tensor,
    v: torch.Tensor,
    *,
    a: torch.Tensor | None = None,
    a_out: torch.Tensor | None = None,
    a_in: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """ΔW = 0 with a gradient: u = 0, entries of each Vᵢ have variance n_in/di, entries of each Aᵢ variance 1/n.

    Factors may carry leading dimensions (per-type or fused). A factor that is None is left out, so that a layer
    that borrows its A initialises only its own u and v.
    """
    u.zero_()
    v.normal_(0.0, v.shape[-2] ** -0.5, generator=generator)
    for factor, power in ((a, -0.5), (a_out, -0.25), (a_in, -0.25)):
        if factor is not None:
            factor.normal_(0.0, factor.shape[-1] ** power, generator=generator)
