"""Registers, stack and shared memory of every kernel that `kronecker_linear` can launch, compiled ahead of time.

    python benchmarks/kronecker_resources.py      # all architectures; rewrites results/kronecker_resources.jsonl
    python benchmarks/kronecker_resources.py --arch sm_90      # only its rows

Needs no GPU, see `ahead_of_time.py`. Claim, for sm_90: no kernel has a stack, and none stores registers to local
memory. Exit status 1 if it does not hold.
"""

import sys

import torch
from ahead_of_time import Call, distinct, main, recorded

from custom_kernels.kronecker_linear._triton import linear
from custom_kernels.kronecker_linear._triton.mix import mix
from custom_kernels.kronecker_linear.rank_one import Factors


def launch_all(tokens: int, d: int, dtype: torch.dtype, r: int = 1, parts: int = 0, samples: int = 0) -> None:
    """Forward, and backward for every gradient, at one size; `parts` slices of a fused layer, or mixed `samples`."""

    def empty(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=kind, device="meta")

    n, rows = 32, d * max(parts, 1)
    lead = ((4,) if samples else ()) + ((parts,) if parts else ())
    factors = [empty(*lead, n, n), empty(*lead, n, n), empty(*lead, n, d // n, r), empty(*lead, n, d // n, r)]
    factors = [t.float() for t in factors]
    slices = [bound for j in range(parts) for bound in (j * d, (j + 1) * d)]
    index = empty(samples, kind=torch.int64) if samples else None
    made = Factors(*factors, slices, index, dtype)
    x, weight, bias = empty(tokens, d), empty(rows, d), empty(rows)
    y, hidden = linear.forward(x, weight, bias, made, 0.5, slices, None)
    if not samples:
        needs = [True] * 7 + [False]
        linear.backward(y, x, hidden, weight, made, 0.5, slices, None, needs)


def launch_dense(tokens: int, dtype: torch.dtype, n: int, r: int) -> None:
    """The mix of the dense form, and its backward pass."""
    hidden = torch.empty(tokens, n, n, r, dtype=dtype, device="meta")
    a = torch.empty(n, n, n, dtype=dtype, device="meta")
    for transposed in (False, True):
        mix(hidden, a, transposed)


def calls(arch: str) -> list[Call]:
    """The distinct kernels: every entry of the table in both half dtypes, narrow and wide layers, q and v in one pass,
    the widest rank-sized sum (128 columns), and mixed samples."""
    with recorded(arch) as made:
        for dtype in (torch.bfloat16, torch.float16):
            for tokens in (16, 128, 256, 4096):
                launch_all(tokens, 768, dtype)
            launch_all(64, 768, dtype, samples=64)
            launch_dense(256, dtype, 32, 1)
        for tokens in (16, 128, 256, 4096):
            launch_all(tokens, 4096, torch.bfloat16)
            launch_all(tokens, 768, torch.bfloat16, parts=2)
        for tokens in (128, 4096):
            launch_all(tokens, 768, torch.bfloat16, r=2, parts=2)
        launch_all(4096, 4096, torch.bfloat16, samples=16, parts=2)
        launch_dense(256, torch.bfloat16, 4, 8)
    return distinct(made)


if __name__ == "__main__":
    sys.exit(main("kronecker_resources", __doc__, calls))
