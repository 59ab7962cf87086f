"""Registers, stack and shared memory of the kernels that blend Gaussians, compiled ahead of time.

    python benchmarks/gaussians_resources.py      # all architectures; rewrites results/gaussians_resources.jsonl
    python benchmarks/gaussians_resources.py --arch sm_90      # only its rows

Needs no GPU, see `ahead_of_time.py`. Claim, for sm_90: no kernel has a stack, and none stores registers to local
memory. Exit status 1 if it does not hold.
"""

import sys

import torch
from ahead_of_time import Call, distinct, main, recorded

from custom_kernels.gaussians._triton.composite import WARPS, backward, forward

CHANNELS = (12, 32)
"""Colour, depth and eight features; two passes."""


def launch(tile: int, channels: int) -> None:
    """Forward and backward of 100 tiles, each with a list of up to 512."""
    splats, origins = torch.empty(1000, 6, device="meta"), torch.empty(100, 2, device="meta")
    values = torch.empty(1000, channels, device="meta")
    lists = torch.empty(100, 512, dtype=torch.int64, device="meta")
    out = forward(splats, values, lists, origins, tile)
    backward(out, splats, values, lists, origins, tile, max(channels - 4, 0))


def calls(arch: str) -> list[Call]:
    """The distinct kernels: every side of a tile, in one pass and in two."""
    with recorded(arch) as made:
        for tile in WARPS[arch]:
            for channels in CHANNELS:
                launch(tile, channels)
    return distinct(made)


if __name__ == "__main__":
    sys.exit(main("gaussians_resources", __doc__, calls))
