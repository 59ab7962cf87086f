"""Registers, stack and shared memory of every kernel of motion attention, compiled ahead of time.

    python benchmarks/motion_resources.py      # all architectures; rewrites results/motion_resources.jsonl
    python benchmarks/motion_resources.py --arch sm_90      # only its rows

Needs no GPU, see `ahead_of_time.py`. Claim, for sm_90: no kernel has a stack, and none stores registers to local
memory. Exit status 1 if it does not hold.
"""

import sys

import torch
from ahead_of_time import Call, distinct, main, recorded

from custom_kernels.motion_attention._triton.backward import backward
from custom_kernels.motion_attention._triton.forward import forward
from custom_kernels.temporal_motion_attention._triton import attention as temporal

WIDTHS = (40, 64, 80, 128, 160)


def launch_cross(width: int, keys: int, dtype: torch.dtype, everything: bool, last_tap: bool = False) -> None:
    """Forward and backward of two slots at 40 x 64 cells.

    Args:
        everything: biases, padding, maps, and all gradients; else the guidance of frozen weights, which asks for dQ.
        last_tap: only the sums have a gradient.
    """

    def empty(*shape: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=kind, device="meta")

    batch, frames, heads, grid = 2, 16, 5, (40, 64)
    q = empty(batch, frames, heads, grid[0] * grid[1], width, kind=dtype)
    k, v = (empty(batch, heads, keys, width, kind=dtype) for _ in range(2))
    token, owner = empty(batch, 2, kind=torch.int64), empty(2, kind=torch.int64)
    bias = [empty(batch, 2) for _ in range(2)] if everything else [None, None]
    key_bias, boxes = empty(batch, keys) if everything else None, empty(batch, 2, frames, 4)
    found = forward(q, k, v, boxes, token, owner, key_bias, *bias, grid, everything)
    out, lse, sums, maps, lost = found
    grads = [None if last_tap else out, lse if everything else None, sums, maps if everything else None]
    needs = [True] * 6 if everything else [True] + [False] * 5
    backward(*grads, q, k, v, boxes, token, owner, key_bias, *bias, out, lse, lost, grid, needs)


def launch_temporal(width: int, dtype: torch.dtype, table: bool) -> None:
    """Forward and backward over 16 frames: all gradients, and without a table of distances those of q, k and v."""
    q = torch.empty(2, 2560, 16, 5, width, dtype=dtype, device="meta")
    boxes, tau, gamma = (torch.empty(*shape, device="meta") for shape in ((2, 2, 16, 4), (2,), (2, 2)))
    rho = torch.empty(2, 5, 31, device="meta") if table else None
    out = temporal.forward(q, q, q, boxes, tau, gamma, rho, (40, 64))
    needs = [True] * 3 + [table] * 2
    temporal.backward(out, q, q, q, boxes, tau, gamma, rho, (40, 64), needs)


def calls(arch: str) -> list[Call]:
    """The distinct kernels: every entry of the table, as training (most registers) and guidance use it."""
    with recorded(arch) as made:
        for width in WIDTHS:
            launch_cross(width, 512, torch.bfloat16, everything=True)
            launch_cross(width, 77, torch.bfloat16, everything=False)
            launch_cross(width, 77, torch.bfloat16, everything=False, last_tap=True)
            launch_temporal(width, torch.bfloat16, table=True)
        launch_cross(64, 77, torch.bfloat16, everything=True)
        launch_cross(64, 512, torch.bfloat16, everything=False)
        launch_temporal(64, torch.bfloat16, table=False)
        launch_cross(64, 77, torch.float16, everything=True)
        launch_temporal(64, torch.float16, table=True)
    return distinct(made)


if __name__ == "__main__":
    sys.exit(main("motion_resources", __doc__, calls))
