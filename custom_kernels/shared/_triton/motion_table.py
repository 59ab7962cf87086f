"""Tile sizes of the motion attention kernels by architecture and padded head width.

The sizes come from registers and shared memory, not from timings; what is checked is that every entry compiles and
spills no register (`motion_resources.py`).
"""

from dataclasses import dataclass

import torch

from . import chips

__all__ = ["Tile", "tile"]


@dataclass(frozen=True)
class Tile:
    """Rows (queries; over frames, pixels with their frames) and most keys of a tile, warps, pipeline stages."""

    rows: int
    columns: int
    warps: int
    stages: int


TABLE: dict[str, dict[tuple[str, int], Tile]] = {
    "sm_80": {
        ("forward", 64): Tile(64, 128, 8, 2),
        ("forward", 128): Tile(64, 64, 8, 2),
        ("forward", 256): Tile(32, 64, 8, 1),
        ("query", 64): Tile(64, 64, 4, 2),
        ("query", 128): Tile(64, 32, 8, 1),
        ("query", 256): Tile(16, 32, 8, 1),
        ("key", 64): Tile(64, 64, 8, 2),
        ("key", 128): Tile(32, 64, 8, 1),
        ("key", 256): Tile(32, 32, 8, 1),
        ("temporal_forward", 64): Tile(32, 32, 4, 1),
        ("temporal_forward", 128): Tile(32, 32, 4, 1),
        ("temporal_forward", 256): Tile(32, 32, 8, 1),
        ("temporal_backward", 64): Tile(32, 32, 4, 1),
        ("temporal_backward", 128): Tile(32, 32, 4, 1),
        ("temporal_backward", 256): Tile(32, 32, 8, 1),
    },
}
TABLE["sm_90"] = dict(TABLE["sm_80"])
TABLE["sm_80"] |= {
    ("forward", 64): Tile(64, 64, 8, 2),
    ("query", 64): Tile(32, 64, 4, 2),
    ("query", 128): Tile(32, 32, 8, 1),
}
# four waves may use twice the registers of eight
TABLE["gfx942"] = TABLE["sm_80"] | {
    ("forward", 64): Tile(64, 64, 4, 1),
    ("forward", 128): Tile(32, 64, 4, 1),
    ("forward", 256): Tile(32, 32, 4, 1),
    ("query", 64): Tile(64, 64, 4, 1),
    ("query", 128): Tile(32, 32, 4, 1),
    ("query", 256): Tile(16, 32, 4, 1),
    ("key", 64): Tile(32, 64, 4, 1),
    ("key", 128): Tile(32, 32, 4, 1),
    ("key", 256): Tile(16, 32, 4, 1),
    ("temporal_forward", 256): Tile(32, 32, 4, 1),
    ("temporal_backward", 256): Tile(32, 32, 4, 1),
}


def tile(kernel: str, width: int, device: torch.device) -> Tile:
    """The table's entry for a kernel and a padded head width on a device."""
    return TABLE[chips.architecture(device)][kernel, max(64, width)]
