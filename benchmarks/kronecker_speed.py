"""What a Kronecker adapter costs beside its base layer, against PEFT's and LyCORIS' LoKr and a LoRA of equal rank.

    python benchmarks/kronecker_speed.py                       # every shape that results/kronecker_speed.jsonl lacks
    python benchmarks/kronecker_speed.py --shape 256x768       # this one again (tokens x width)
    python benchmarks/kronecker_speed.py --quick               # tiny shapes, to see that it runs

One frozen nn.Linear and the same layer under each adapter, all as the libraries' own modules, in fp32 on the CPU;
repeats alternate in a shuffled order, ratios are of the same repeat, the interval is a bootstrap of their median.
Under `--threads 1` times are CPU time, which other work on the machine disturbs less, else time on the wall.
Beside the times it counts the bytes that each layer keeps for its backward pass beyond x, its weights and its factors.
Bars and goals, two threads: forward and backward over the base at most 1.45 (goal 1.20) at width 768 and 1.15 (1.05)
at 4096; at least 1.7 (2.5) times faster than PEFT LoKr; at most 1.03 of a LoRA of equal rank. lycoris-lora is used
where it can be imported (`pip install lycoris-lora==4.1.3`).
On a GPU the bf16 goals are measured too; without one they are recorded as unmeasured.
Exit status 1 if a bar does not hold.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from peft import LoKrConfig, LoraConfig, PeftConfig, get_peft_model
from records import RESULTS, environment, read, write
from timing import LONG_ENOUGH, measure, ratio, speed_arguments
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig, unload_augmented
from wm_pipelines.kernels import kronecker_linear
from wm_pipelines.runtime.noise import randn

SHAPES = ("256x768", "4096x768", "256x4096", "4096x4096")
QUICK = ("8x64", "16x128")
BASE, OURS, DENSE, LOKR, LORA = "base", "ours", "ours, dense A", "PEFT LoKr", "PEFT LoRA"
AUGMENTED = "ours, augmented"  # inference only
MODES = ("forward", "forward and backward")


def size_of(shape: str) -> tuple[int, int]:
    """(tokens, width) of "256x768"."""
    tokens, _, width = shape.partition("x")
    if not (tokens.isdigit() and width.isdigit() and int(tokens) and int(width) and int(width) % 32 == 0):
        raise argparse.ArgumentTypeError(f"a shape is TOKENSxWIDTH with a width divisible by 32, got {shape!r}")
    return int(tokens), int(width)


def wake(module: nn.Module) -> nn.Module:
    """Trainable parameters get values as after training: a zero factor could be cheaper."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.requires_grad:
                p.copy_(0.02 * randn(tuple(p.shape), "kronecker speed", name))
    return module


@cache
def lycoris() -> tuple[type | None, str]:
    """LyCORIS' LoKr module, or None and why it can't be imported."""
    try:
        from lycoris.modules.lokr import LokrModule
    except ImportError as error:
        return None, f"lycoris-lora can't be imported ({error}); pip install lycoris-lora==4.1.3"
    return LokrModule, ""


def variants(width: int) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """{name: layer} on copies of one base, and {name: reason} of those that are left out."""

    def base() -> nn.Linear:
        linear = nn.Linear(width, width).requires_grad_(False)
        with torch.no_grad():
            linear.weight.copy_(randn((width, width), "kronecker speed", "weight") * width**-0.5)
        return linear

    def wrapped(config: PeftConfig) -> nn.Module:
        return wake(get_peft_model(nn.Sequential(base()), config).train())

    def adapted(config: PeftConfig) -> nn.Module:
        return wrapped(config).base_model.model[0]

    made = {
        BASE: base(),
        OURS: adapted(KroneckerConfig(n=32, r=1, target_modules=["0"])),
        DENSE: adapted(KroneckerConfig(n=32, r=1, factored=False, target_modules=["0"])),
        LOKR: adapted(LoKrConfig(r=1, alpha=1, decompose_factor=32, target_modules=["0"])),
        LORA: adapted(LoraConfig(r=32, lora_alpha=32, target_modules=["0"])),
        AUGMENTED: unload_augmented(wrapped(KroneckerConfig(n=32, r=1, target_modules=["0"])))[0][0],
    }
    names = {"LyCORIS LoKr": False, "LyCORIS LoKr, bypass": True}
    module, reason = lycoris()
    if module is None:
        return made, dict.fromkeys(names, reason)
    for name, bypass in names.items():
        linear = base()
        lokr = module("lokr", linear, lora_dim=1, alpha=1, factor=32, bypass_mode=bypass)
        lokr.apply_to()  # the linear layer's forward is now the adapter's
        linear.lokr = wake(lokr)
        made[name] = linear
    return made, {}


def runner(layer: nn.Module, x: torch.Tensor, g: torch.Tensor, backward: bool) -> Callable[[], None]:
    """One call: forward without autograd, or forward and backward with a gradient for x and the adapter."""
    leaves = [p for p in layer.parameters() if p.requires_grad]

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def both() -> None:
        for leaf in (x, *leaves):
            leaf.grad = None
        layer(x).backward(g)

    return both if backward else forward


def kept_bytes(layer: nn.Module, x: torch.Tensor) -> int:
    """Of all tensors kept for the backward pass, without x and what the layer holds anyway."""
    given = {t.untyped_storage().data_ptr() for t in (x, *layer.parameters(), *layer.buffers())}
    kept: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = layer(x)
    assert y.requires_grad
    return sum(size for place, size in kept.items() if place not in given)


def verdicts(width: int, times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Bars and goals, fixed before the first run, against the times of forward and backward."""
    over_base = (1.45, 1.20) if width < 4096 else (1.15, 1.05)
    rows = [
        {"figure": "ours / base", "bar": over_base[0], "goal": over_base[1], **ratio(times[OURS], times[BASE])},
        {"figure": "PEFT LoKr / ours", "at_least": True, "bar": 1.7, "goal": 2.5, **ratio(times[LOKR], times[OURS])},
        {"figure": "ours / PEFT LoRA of equal rank", "bar": 1.03, "goal": 1.03, **ratio(times[OURS], times[LORA])},
    ]
    for row in rows:
        sign = -1 if row.get("at_least") else 1
        row["holds"] = sign * row["ratio"] <= sign * row["bar"]
        row["goal_holds"] = sign * row["ratio"] <= sign * row["goal"]
    return rows


def cpu(shape: str, repeats: int, least: float = LONG_ENOUGH) -> list[dict[str, Any]]:
    """All rows of one shape."""
    tokens, width = size_of(shape)
    alone = torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    layers, missing = variants(width)
    x, g = (randn((tokens, width), "kronecker speed", name) for name in ("x", "g"))
    x.requires_grad_()
    rows = []
    for mode in MODES:
        used = {name: layer for name, layer in layers.items() if name != AUGMENTED or mode == MODES[0]}
        runs = {name: runner(layer, x, g, mode != MODES[0]) for name, layer in used.items()}
        times = measure(runs, repeats, clock, least)
        for name, seconds in times.items():
            row = {"figure": "over the base", "variant": name, "mode": mode, **ratio(seconds, times[BASE])}
            rows.append(
                {**row, "median_s": float(np.median(seconds)), "p20_p80_s": np.quantile(seconds, (0.2, 0.8)).tolist()}
            )
        if mode == MODES[1]:
            rows += [{**row, "mode": mode} for row in verdicts(width, times)]
    for name, layer in layers.items():
        if name != AUGMENTED:
            row = {"figure": "kept for the backward pass beyond x", "variant": name}
            rows.append({**row, "bytes": kept_bytes(layer, x), "bytes_of_x": x.nbytes})
    rows += [{"figure": "over the base", "variant": name, "skipped": reason} for name, reason in missing.items()]
    where = {"device": "cpu", "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    where["clock"] = "CPU" if alone else "wall"
    return [{"benchmark": "kronecker_speed", "shape": shape, **row, **where} for row in rows]


# ---- GPU ----

# tokens, width, what is compared, under a CUDA graph, the most it may be
GOALS = (
    (4096, 3072, "forward", False, 1.10),
    (16384, 3072, "forward", False, 1.10),
    (4096, 768, "forward", False, 1.35),
    (4096, 768, "forward, q and v", False, 1.25),
    (64, 4096, "forward", True, 1.15),
    (4096, 3072, "forward and backward", False, 1.15),
    (4096, 768, "forward and backward", False, 1.50),
)


def gpu_runs(tokens: int, width: int, mode: str) -> dict[str, Callable[[], Any]]:
    """Base (cuBLAS), ours by the kernels and by torch, and a LoRA of equal rank as separate products, in bf16."""
    parts = 2 if "q and v" in mode else 1
    lead = (2,) if parts == 2 else ()
    slices = tuple((j * width, (j + 1) * width) for j in range(2)) if parts == 2 else None

    def made(*shape: int, name: str, train: bool = True) -> torch.Tensor:
        return (0.02 * randn(shape, "kronecker speed", name)).to("cuda", torch.bfloat16).requires_grad_(train)

    x, weight, bias = made(tokens, width, name="x"), made(parts * width, width, name="w", train=False), None
    slow = [made(*lead, 32, 32, name=name) for name in ("a_out", "a_in")]
    pair = [made(*lead, 32, width // 32, 1, name=name) for name in ("u", "v")]
    down, up = made(32 * parts, width, name="down"), made(parts * width, 32 * parts, name="up")
    g = made(tokens, parts * width, name="g", train=False)
    linear = nn.functional.linear
    forward = {
        BASE: lambda: linear(x, weight, bias),
        OURS: lambda: kronecker_linear(x, weight, bias, *slow, *pair, scale=0.2, slices=slices, backend="triton"),
        "ours, torch": lambda: kronecker_linear(x, weight, bias, *slow, *pair, slices=slices, backend="torch"),
        LORA: lambda: linear(x, weight, bias) + linear(linear(x, down), up),
    }

    def both(run: Callable[[], torch.Tensor]) -> None:
        for leaf in (x, *slow, *pair, down, up):
            leaf.grad = None
        run().backward(g)

    if mode == "forward and backward":
        return {name: (lambda run=run: both(run)) for name, run in forward.items()}
    return {name: torch.no_grad()(run) for name, run in forward.items()}


def captured(run: Callable[[], Any]) -> Callable[[], None]:
    """The run as a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def gpu(repeats: int) -> list[dict[str, Any]]:
    """The bf16 goals for the kernels, or one row that says they were not measured."""
    common = {"benchmark": "kronecker_speed", "shape": "gpu", "device": "cuda"}
    if not torch.cuda.is_available():
        return [{**common, "figure": "bf16 goals", "status": "unmeasured", "reason": "no GPU"}]

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    rows = []
    for tokens, width, mode, graph, goal in GOALS:
        runs = gpu_runs(tokens, width, mode)
        for run in runs.values():
            run()
        times = measure({n: captured(r) if graph else r for n, r in runs.items()}, repeats, clock)
        row = {"tokens": tokens, "width": width, "mode": mode, "cuda_graph": graph, "goal": goal}
        for name in list(runs)[1:]:
            rows.append(
                {**common, "figure": "over the base", "variant": name, **row, **ratio(times[name], times[BASE])}
            )
            if name == OURS:
                rows[-1]["goal_holds"] = rows[-1]["ratio"] <= goal
        faster = ratio(times[LORA], times[OURS])
        wins = {"goal": 1.25, "goal_holds": faster["ratio"] >= 1.25}
        rows.append({**common, "figure": "LoRA as separate products / ours", **row, **wins, **faster})
    return [{**row, "gpu": torch.cuda.get_device_name()} for row in rows]


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    text = f"{row['shape']}, {row['figure']}" + "".join(f", {row[k]}" for k in ("variant", "mode") if k in row)
    if "bytes" in row:
        return f"{text}: {row['bytes']:,} bytes, {row['bytes'] / row['bytes_of_x']:.2f} of x"
    if "ratio" not in row:
        return f"{text}: {row.get('skipped') or row['status'] + ', ' + row['reason']}"
    text += f": {row['ratio']:.3f} [{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]"
    sign = ">=" if row.get("at_least") else "<="
    for key, kept in (("bar", "holds"), ("goal", "goal_holds")):
        if kept in row:
            text += f"; {key} {sign} {row[key]}: {'HOLDS' if row[kept] else 'DOES NOT HOLD'}"
    return text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args = speed_arguments(parser, argv, "TOKENSxWIDTH, or gpu; measured again if it is there")
    repeats = args.repeats
    for shape in args.shape or ():
        if shape != "gpu":
            size_of(shape)
    out = args.out or (None if args.quick else RESULTS / "kronecker_speed.jsonl")
    shapes = args.shape or [*(QUICK if args.quick else SHAPES), "gpu"]
    known = read(out) if out else []
    if not args.shape:
        shapes = [shape for shape in shapes if not any(row["shape"] == shape for row in known)]
    torch.set_num_threads(args.threads)
    failed = False
    for shape in shapes:
        rows = gpu(repeats) if shape == "gpu" else cpu(shape, repeats, 0.0 if args.quick else LONG_ENOUGH)
        for row in rows:
            print(line(row), flush=True)
        failed |= any(row.get("holds") is False for row in rows)
        if out:
            where = environment()
            write(out, [r for r in read(out) if r["shape"] != shape] + [{**row, **where} for row in rows])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
