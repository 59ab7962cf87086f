"""What launchers know of the chip: its row of their tables, its units, and whether there is one at all."""

import os

import torch

__all__ = ["UNITS", "architecture", "interpreted", "padded"]

# streaming multiprocessors or compute units, to decide how far a reduction is split
UNITS = {"sm_80": 108, "sm_90": 132, "gfx942": 304}


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
