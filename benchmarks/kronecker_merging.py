"""What merging an adapter into a weight keeps of it, and what is left of the weight after it is taken out again.

    python benchmarks/kronecker_merging.py  # prints the table, rewrites results/kronecker_merging.jsonl

One 1024 x 1024 weight with uniform entries in bf16, fp16 and fp32, and an update that is a tenth, a hundredth or a
thousandth of it: with normal entries, whose figures stand below, and from a Kronecker adapter
(n = 32, r = 1), whose entries have heavier tails. Measured: the relative error of the realised update; the share of
weights that adding and subtracting it leaves changed, as other tools unmerge; the same for 50 cycles of our `merge`
and `unmerge`, which must be none; the bytes of our undo record beside those of a copy. Exit status 1 if a claim fails.
Every number is determined by the seed; no time is measured.
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch
from peft import inject_adapter_in_model
from records import RESULTS, write
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig
from wm_pipelines.adapters.kronecker.layer import AdaptedLinear
from wm_pipelines.adapters.kronecker.merging import merge_weight

CYCLES = 50
RATIOS = (1e-1, 1e-2, 1e-3)
# of normal updates: relative error of the realised one (fp32: at most that, to one digit), and share changed after
# adding and subtracting it
SPECIFIED = {
    torch.bfloat16: ((0.016, 0.148, 0.848), (0.069, 0.011, 0.002)),
    torch.float16: ((0.002, 0.019, 0.185), (None, None, None)),
    torch.float32: ((2e-5, 2e-5, 2e-5), (0.044, 0.008, 0.001)),
}


def build(size: int, dtype: torch.dtype, ratio: float) -> AdaptedLinear:
    """A linear layer with PyTorch's own initial weights, which are uniform, and a random adapter of that size."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": nn.Linear(size, size, bias=False)}).to(dtype)
    inject_adapter_in_model(KroneckerConfig(n=32, r=1, target_modules=["layer"]), model)
    layer = model["layer"]
    nn.init.normal_(layer.kronecker_u["default"])
    layer.set_scale("default", ratio * float(layer.base_layer.weight.float().norm() / delta_of(layer).norm()))
    return layer


def delta_of(layer: AdaptedLinear) -> torch.Tensor:
    return layer.full_delta("default")


@torch.no_grad()
def rounding(weight: torch.Tensor, delta: torch.Tensor, cycles: int) -> dict[str, float]:
    """The figures of plain addition and subtraction, which need no adapter."""
    merged, lost = merge_weight(weight, delta)
    plain, left = weight, []
    for _ in range(cycles):
        plain = merge_weight(merge_weight(plain, delta)[0], -delta)[0]
        left.append(float((plain != weight).float().mean()))
    return {
        "error": float(f"{lost:.4g}"),
        "changed": round(float((merged != weight).float().mean()), 4),
        "left_1": round(left[0], 5),
        f"left_{cycles}": round(left[-1], 5),
    }


@torch.no_grad()
def cycle(layer: AdaptedLinear, cycles: int) -> dict:
    """Our merge and unmerge: whether every bit came back each time, what the record took, and how often it warned."""
    before = layer.base_layer.weight.data.clone()
    bits = torch.int16 if before.element_size() == 2 else torch.int32
    exact, warned, nbytes = True, 0, 0
    for _ in range(cycles):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            layer.merge()
        warned += len(caught)
        nbytes = layer.undo_bytes
        layer.unmerge()
        exact = exact and torch.equal(layer.base_layer.weight.data.view(bits), before.view(bits))
    share = round(nbytes / before.nbytes, 4)
    return {f"exact_{cycles}": exact, "undo_share_of_copy": share, "warned": warned == cycles}


def close(value: float, specified: float | None) -> bool:
    """Whether a share agrees with one that is given to two or three digits."""
    return specified is None or abs(value - specified) <= max(0.06 * specified, 0.0005)


def measure(size: int, dtype: torch.dtype, index: int, cycles: int = CYCLES) -> list[dict]:
    """The rows of one dtype and one ratio."""
    ratio = RATIOS[index]
    layer = build(size, dtype, ratio)
    weight = layer.base_layer.weight.data
    normal = torch.randn(size, size, generator=torch.Generator().manual_seed(1))
    normal *= ratio * weight.float().norm() / normal.norm()
    errors, shares = SPECIFIED[dtype]
    setting = {"dtype": str(dtype).removeprefix("torch."), "size": size, "ratio": ratio}
    rows = []
    for kind, delta in (("normal", normal), ("kronecker", delta_of(layer))):
        row = {"update": kind, **setting, **rounding(weight, delta, cycles)}
        if kind == "normal":
            row |= {"specified_error": errors[index], "specified_left": shares[index]}
            small = row["error"] < errors[index] + 5e-6
            agrees = small if dtype == torch.float32 else close(row["error"], errors[index])
            row["holds"] = agrees and close(row["left_1"], shares[index])
        else:
            row |= cycle(layer, cycles)
            row["holds"] = row[f"exact_{cycles}"] and row["warned"] == (row["error"] > 0.1)
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print and record; exit status 1 if a claim fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "kronecker_merging.jsonl")
    parser.add_argument("--size", type=int, default=1024, help="rows and columns of the weight")
    parser.add_argument("--cycles", type=int, default=CYCLES)
    args = parser.parse_args(argv)
    cells = [(dtype, index) for dtype in SPECIFIED for index in range(len(RATIOS))]
    rows = [row for cell in cells for row in measure(args.size, *cell, args.cycles)]
    print("update    dtype       ratio     error  changed  left after add, subtract     merge, unmerge  record / copy")
    for row in rows:
        ours = {True: "exact", False: "LOST", None: ""}[row.get(f"exact_{args.cycles}")]
        record = f"{row['undo_share_of_copy']:.0%}" if ours else ""
        print(
            f"{row['update']:<10}{row['dtype']:<10}{row['ratio']:>7g}{row['error']:>10.4%}{row['changed']:>9.1%}"
            f"{row['left_1']:>10.2%} once{row[f'left_{args.cycles}']:>8.2%} at last{ours:>17}{record:>15}"
            f"{'' if row['holds'] else '   DOES NOT HOLD'}"
        )
    write(args.out, rows)
    return int(not all(row["holds"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
