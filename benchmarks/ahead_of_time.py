"""Kernels compiled ahead of time, without a GPU: what their launchers launch, and what each then takes of a chip.

The launchers run on tensors without data (`meta`), each launch is recorded with the specialisation that the
just-in-time compiler would choose, and compiled for sm_80, sm_90 and gfx942.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from records import RESULTS, environment, read, write
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from custom_kernels.shared._triton import chips

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

    there = mock.patch.object(chips, "architecture", lambda device: arch)
    with mock.patch.object(JITFunction, "run", record), there:
        yield calls


def distinct(calls: list[Call]) -> list[Call]:
    """One of each set of launches that would share a compiled kernel."""
    return list({call.key(): call for call in calls}.values())


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
    names = ("y_ptr", "x_ptr", "hidden_ptr", "q_ptr", "splats_ptr")
    return TYPES[next(types[name] for name in names if name in types)]


def row(call: Call, arch: str) -> dict[str, Any]:
    """One line of the record."""
    tiles = {name: v for name, v in call.arguments if name.isupper() and isinstance(v, (bool, int, tuple))}
    found = resources(call, arch)
    spills = any(found.get(name) for name in ("stack", "local", "vgpr_spill_count", "sgpr_spill_count"))
    return {
        "arch": arch,
        "kernel": call.kernel.fn.__name__.strip("_"), "dtype": dtype_of(call),
        **dict(call.options), "arguments": tiles, **found, "spills": spills,
    }  # fmt: skip


def main(name: str, doc: str, calls: Callable[[str], list[Call]], argv: list[str] | None = None) -> int:
    """Compiles the `calls` of every architecture, records them in results/<name>.jsonl; 1 if the claim fails."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=TARGETS, action="append")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.jsonl")
    args = parser.parse_args(argv)
    rows, wanted = [], args.arch or list(TARGETS)
    for arch in wanted:
        for call in calls(arch):
            rows.append(row(call, arch))
            print(rows[-1], flush=True)
    where = environment() | {"triton": triton.__version__}
    others = [r for r in read(args.out) if r["arch"] not in wanted]
    write(args.out, others + [{"benchmark": name} | r | where for r in rows])
    for arch in wanted:
        mine = [r for r in rows if r["arch"] == arch]
        print(f"{arch}: {len(mine)} kernels, {sum(r['spills'] for r in mine)} with spills")
    holds = not any(r["spills"] for r in rows if r["arch"] == "sm_90")
    print(f"{CLAIM}: {'HOLDS' if holds else 'DOES NOT HOLD'}")
    return int(not holds)
