"""Tile sizes of every kernel by architecture and size class, and the rules that choose among them.

The classes come from the roofline of the operation, not from timings: no GPU was at hand, so the choice is unmeasured.
What is checked for each entry, ahead of time, is that it compiles and spills no register (`kronecker_resources.py`).
"""

import os
from dataclasses import dataclass

import torch

__all__ = ["Launch", "interpreted", "launch", "padded", "plan", "splits"]

FEW_TOKENS = 128  # up to here the base product waits for W, and recomputing x Qᵀ for each column tile is free

# streaming multiprocessors or compute units, to decide how far a reduction is split
UNITS = {"sm_80": 108, "sm_90": 132, "gfx942": 304}


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


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def architecture(device: torch.device) -> str:
    """The row of the table for a device; newer chips take the nearest older row, the interpreter sm_90's."""
    if interpreted() or device.type != "cuda":
        return "sm_90"
    if torch.version.hip:
        return "gfx942"
    return "sm_90" if torch.cuda.get_device_capability(device)[0] >= 9 else "sm_80"


def padded(size: int) -> int:
    """The power of two, 16 at least, that a tile dimension needs."""
    return max(16, 1 << (size - 1).bit_length())


def launch(kernel: str, device: torch.device) -> Launch:
    """The table's entry for a kernel on a device."""
    return TABLE[architecture(device)][kernel]


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
    wanted, most = max(1, UNITS[architecture(device)] // max(tiles, 1)), max(1, length // (4 * tile))
    return min(wanted, most)
