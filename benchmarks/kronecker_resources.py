"""Registers, stack and shared memory of every kernel that `kronecker_linear` can launch, compiled ahead of time.

    python benchmarks/kronecker_resources.py      # all architectures; rewrites results/kronecker_resources.jsonl
    python benchmarks/kronecker_resources.py --arch sm_90

Needs no GPU: the launchers run on tensors without data (`meta`), each launch is recorded with the specialisation that
the just-in-time compiler would choose, and compiled for sm_80, sm_90 and gfx942. Claim, for sm_90: no kernel has a
stack, and none stores registers to local memory. Exit status 1 if it does not hold.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from records import RESULTS, environment, write
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from custom_kernels._triton import kronecker_linear, kronecker_mix, table
from custom_kernels.kronecker_rank_one import Factors

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.int64: "i64"}
CLAIM = "sm_90: STACK 0 and no local loads or stores"


@dataclass(frozen=True)
class Call:
    """One launch: the kernel, each argument's value or, of a tensor, its dtype, and the launch options."""

    kernel: JITFunction
    arguments: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, int], ...]

    def source(self) -> ASTSource:
        """What the just-in-time compiler would compile: ones are constants, multiples of 16 are marked."""
        signature, constants, attributes = {}, {}, {}
        constexpr = {p.name for p in self.kernel.params if p.is_constexpr}
        for i, (name, value) in enumerate(self.arguments):
            if name in constexpr or (isinstance(value, int) and value == 1):
                signature[name], constants[(i,)] = "constexpr", value
            elif isinstance(value, torch.dtype):
                signature[name] = f"*{TYPES[value]}"
                attributes[(i,)] = [["tt.divisibility", 16]]
            elif isinstance(value, float):
                signature[name] = "fp32"
            else:
                signature[name] = "i32"
                if value % 16 == 0:
                    attributes[(i,)] = [["tt.divisibility", 16]]
        return ASTSource(self.kernel, signature, constants, attributes)

    def key(self) -> tuple:
        """Equal for launches that would share one compiled kernel."""
        source = self.source()
        return (self.kernel.fn.__name__, str(source.signature), str(source.constants), str(source.attrs), self.options)


@contextmanager
def recorded(arch: str) -> Iterator[list[Call]]:
    """Collects launches instead of running them, as on a device of that architecture."""
    calls: list[Call] = []

    def record(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages")}
        values = dict(zip(self.arg_names, args, strict=False)) | kwargs
        plain = {name: v.dtype if isinstance(v, torch.Tensor) else v for name, v in values.items()}
        calls.append(Call(self, tuple((name, plain[name]) for name in self.arg_names), tuple(options.items())))

    there = mock.patch.object(table, "architecture", lambda device: arch)
    with mock.patch.object(JITFunction, "run", record), there:
        yield calls


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
    y, hidden = kronecker_linear.forward(x, weight, bias, made, 0.5, slices, None)
    if not samples:
        needs = [True] * 7 + [False]
        kronecker_linear.backward(y, x, hidden, weight, made, 0.5, slices, None, needs)


def launch_dense(tokens: int, dtype: torch.dtype, n: int, r: int) -> None:
    """The mix of the dense form, and its backward pass."""
    hidden = torch.empty(tokens, n, n, r, dtype=dtype, device="meta")
    a = torch.empty(n, n, n, dtype=dtype, device="meta")
    for transposed in (False, True):
        kronecker_mix.mix(hidden, a, transposed)


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
    return list({call.key(): call for call in made}.values())


def _tool(name: str) -> str:
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def resources(call: Call, arch: str) -> dict[str, int]:
    """Compiles for the architecture. NVIDIA: registers, stack, local loads and stores; AMD: registers and spills."""
    compiled = triton.compile(call.source(), target=GPUTarget(*TARGETS[arch]), options=dict(call.options))
    if TARGETS[arch][0] == "hip":
        text = compiled.asm["amdgcn"]
        found = {
            name: int(re.search(rf"\.{name}:\s*(\d+)", text)[1])
            for name in ("vgpr_count", "sgpr_count", "vgpr_spill_count", "sgpr_spill_count")
        }
        return found | {"shared": compiled.metadata.shared}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        run = [[_tool("cuobjdump"), "--dump-resource-usage", file.name], [_tool("nvdisasm"), "-c", file.name]]
        usage, code = (subprocess.run(r, capture_output=True, text=True, check=True).stdout for r in run)
    found = {name.lower(): int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK")}
    return found | {"local": len(re.findall(r"\b(?:STL|LDL)\b", code)), "shared": compiled.metadata.shared}


def dtype_of(call: Call) -> str:
    """Type of the activations: rank-sized sums are fp32 beside them."""
    types = dict(call.arguments)
    return TYPES[next(types[name] for name in ("y_ptr", "x_ptr", "hidden_ptr") if name in types)]


def row(call: Call, arch: str) -> dict[str, Any]:
    """One line of the record."""
    tiles = {name: v for name, v in call.arguments if name.isupper() and isinstance(v, (bool, int, tuple))}
    found = resources(call, arch)
    spills = any(found.get(name) for name in ("stack", "local", "vgpr_spill_count", "sgpr_spill_count"))
    return {
        "benchmark": "kronecker_resources", "arch": arch,
        "kernel": call.kernel.fn.__name__.strip("_"), "dtype": dtype_of(call),
        **dict(call.options), "arguments": tiles, **found, "spills": spills,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=TARGETS, action="append")
    parser.add_argument("--out", type=Path, default=RESULTS / "kronecker_resources.jsonl")
    args = parser.parse_args(argv)
    rows = []
    for arch in args.arch or TARGETS:
        for call in calls(arch):
            rows.append(row(call, arch))
            print({k: v for k, v in rows[-1].items() if k != "benchmark"}, flush=True)
    where = environment() | {"triton": triton.__version__}
    write(args.out, [r | where for r in rows])
    for arch in args.arch or TARGETS:
        mine = [r for r in rows if r["arch"] == arch]
        print(f"{arch}: {len(mine)} kernels, {sum(r['spills'] for r in mine)} with spills")
    holds = not any(r["spills"] for r in rows if r["arch"] == "sm_90")
    print(f"{CLAIM}: {'HOLDS' if holds else 'DOES NOT HOLD'}")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
