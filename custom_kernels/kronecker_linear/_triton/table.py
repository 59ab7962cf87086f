"""Tile sizes of the Kronecker kernels by architecture and size class, and the rules that choose among them.

The classes come from the roofline of the operation, not from timings: no GPU was at hand, so the choice is unmeasured.
What is checked for each entry, ahead of time, is that it compiles and spills no register (`kronecker_resources.py`).
"""

from dataclasses import dataclass

import torch

from custom_kernels.shared._triton import chips

__all__ = ["Launch", "launch", "plan", "splits"]

FEW_TOKENS = 128  # up to here the base product waits for W, and recomputing x Qᵀ for each column tile is free


@dataclass(frozen=True)
class Launch:
    """Tokens, columns and reduction length of a tile, warps, pipeline stages."""

    tokens: int
    columns: int
    depth: int
    warps: int
    stages: int


TABLE: dict[str, dict[str, Launch]] = {
    "sm_80": {
        "linear": Launch(128, 128, 32, 8, 3),
        "linear_narrow": Launch(64, 128, 32, 4, 3),
        "fused": Launch(32, 64, 64, 4, 3),
        "fused_tiny": Launch(16, 64, 128, 4, 3),
        "down": Launch(64, 0, 64, 4, 3),
        "down_outer": Launch(64, 0, 64, 4, 2),
        "outer": Launch(64, 64, 0, 4, 3),
        "sample_down": Launch(16, 0, 64, 4, 2),
        "sample_up": Launch(16, 128, 0, 4, 2),
        "mix": Launch(16, 0, 8, 4, 2),
    },
    "sm_90": {
        "linear": Launch(128, 128, 64, 8, 3),
        "linear_narrow": Launch(64, 128, 64, 4, 3),
        "fused": Launch(64, 64, 64, 4, 4),
        "fused_tiny": Launch(16, 64, 128, 4, 4),
        "down": Launch(64, 0, 128, 4, 3),
        "down_outer": Launch(64, 0, 64, 4, 3),
        "outer": Launch(64, 64, 0, 4, 3),
        "sample_down": Launch(16, 0, 64, 4, 2),
        "sample_up": Launch(16, 128, 0, 4, 2),
        "mix": Launch(16, 0, 8, 4, 2),
    },
    "gfx942": {
        "linear": Launch(128, 128, 32, 8, 2),
        "linear_narrow": Launch(64, 128, 32, 4, 2),
        "fused": Launch(32, 64, 64, 4, 2),
        "fused_tiny": Launch(16, 64, 64, 4, 2),
        "down": Launch(64, 0, 64, 4, 2),
        "down_outer": Launch(64, 0, 32, 4, 2),
        "outer": Launch(32, 64, 0, 4, 2),
        "sample_down": Launch(16, 0, 64, 4, 2),
        "sample_up": Launch(16, 128, 0, 4, 2),
        "mix": Launch(16, 0, 8, 4, 2),
    },
}


def launch(kernel: str, device: torch.device) -> Launch:
    """The table's entry for a kernel on a device."""
    return TABLE[chips.architecture(device)][kernel]


def plan(tokens: int, rank: int, slices: tuple[int, ...], masked: bool) -> str:
    """The forward kernel: "fused" and "fused_tiny" (c2), or "linear" and "linear_narrow" (c1).

    c2 needs a column tile to lie in one slice, and can't show the rank-sized sum to a mask before using it.
    """
    aligned = all(bound % 64 == 0 for bound in slices[:-1])
    if tokens <= FEW_TOKENS and aligned and rank <= 64 and not masked:
        return "fused_tiny" if tokens <= 16 else "fused"
    return "linear" if tokens >= 2048 else "linear_narrow"


def splits(tiles: int, length: int, tile: int, device: torch.device) -> int:
    """Parts of a reduction so that about every unit of the chip has one, each of four tiles at least."""
    wanted, most = max(1, chips.UNITS[chips.architecture(device)] // max(tiles, 1)), max(1, length // (4 * tile))
    return min(wanted, most)
