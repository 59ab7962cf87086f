"""What `motion_attention` costs, forward and the gradient of the queries, beside three ways to do without it.

    python benchmarks/motion_attention_speed.py                     # every CPU shape that the record lacks
    python benchmarks/motion_attention_speed.py --shape 16x5x1024x77x64     # this one again
    python benchmarks/motion_attention_speed.py --device cuda       # the sizes and goals of a GPU, bf16
    python benchmarks/motion_attention_speed.py --quick             # tiny shapes, to see that it runs

A shape is FRAMESxHEADSxCELLSxKEYSxWIDTH, batch 1, two objects and three slots, biases on. Each way returns the
attention and the sums I, Z, Cx, Cy, from which dQ is taken with a gradient for all of them; repeats alternate in a
shuffled order, ratios are of the same repeat, the interval is a bootstrap of their median.
Bar on the CPU, two threads, fp32: at most 1.10 of the best of the three. Memory is the peak of what a call allocates:
with memory="low" at most that of SDPA with indicator columns. Exit status 1 if a bar does not hold.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from records import RESULTS, environment, read, write
from timing import LONG_ENOUGH, measure, ratio, speed_arguments
from torch import Tensor

from custom_kernels.motion_attention.forms import as_frames, indicator_columns
from custom_kernels.motion_attention.slots import Slots, indicators
from wm_pipelines.kernels import motion_attention, temporal_motion_attention
from wm_pipelines.runtime.noise import randn

SHAPES = ("16x5x1024x77x64", "16x8x256x77x32", "4x12x1024x226x64", "4x12x512x512x128")
QUICK = ("2x2x16x5x8", "2x1x16x140x8")
# frames, heads, cells, keys, width; goals of the ratio (explicit, indicator columns, plain SDPA) / ours
GPU_SHAPES = {
    "16x5x2560x77x64": {"explicit softmax": 2.5, "indicator columns": 1.4, "plain SDPA": 1.0},
    "16x8x4096x77x40": {"explicit softmax": 3.5, "indicator columns": 1.4, "plain SDPA": 1.0},
    "21x12x1560x512x128": {"explicit softmax": 2.0, "indicator columns": 1.4, "plain SDPA": 1.0},
}
OURS, LOW = "ours", 'ours, memory="low"'
COLUMNS, DENSE, EXPLICIT = "indicator columns", "dense bias and a second softmax", "explicit softmax"
BASELINES = (COLUMNS, DENSE, EXPLICIT)
PLAIN, FLEX = "plain SDPA", "FlexAttention"
BAR = 1.10
BIAS_IN, BIAS_OUT = 3.0, 1.0


def size_of(shape: str) -> tuple[int, ...]:
    """(frames, heads, cells, keys, width) of "16x5x1024x77x64"."""
    parts = shape.split("x")
    if len(parts) != 5 or not all(p.isdigit() and int(p) for p in parts) or int(parts[3]) < 4:
        raise argparse.ArgumentTypeError(f"a shape is FRAMESxHEADSxCELLSxKEYSxWIDTH, at least 4 keys, got {shape!r}")
    return tuple(int(p) for p in parts)


def grid_of(cells: int) -> tuple[int, int]:
    """The most square (h, w) with h·w = cells."""
    rows = next(h for h in range(math.isqrt(cells), 0, -1) if cells % h == 0)
    return rows, cells // rows


class Case:
    """Inputs of one shape, as heads split off a projection lie, and the gradients that are sent back."""

    def __init__(self, shape: str, device: str, dtype: torch.dtype) -> None:
        frames, heads, cells, keys, width = size_of(shape)
        self.grid = grid_of(cells)

        def made(*size: int, name: str) -> Tensor:
            return randn(size, "motion attention speed", shape, name).to(device, dtype)

        self.q = made(1, frames, cells, heads, width, name="q").transpose(2, 3).requires_grad_()
        self.k, self.v = (made(1, keys, heads, width, name=name).transpose(1, 2) for name in "kv")
        self.g_out = made(1, frames, cells, heads, width, name="g").transpose(2, 3)
        start = torch.tensor([[0.1, 0.2, 0.5, 0.7], [0.4, 0.1, 0.9, 0.6]], device=device)
        drift = torch.linspace(0, 0.1, frames, device=device)
        self.boxes = (start[None, :, None] + drift.view(1, 1, -1, 1)).contiguous()
        self.token = torch.tensor([1, 2, keys - 1], device=device)
        self.owner = torch.tensor([0, 0, 1], device=device)
        bias = [torch.full((1, 2), value, device=device) for value in (BIAS_IN, BIAS_OUT)]
        self.slots = Slots(self.boxes, self.token[None], self.owner, self.grid, *bias)
        self.g_sums = randn((4, 1, frames, heads, 3), "motion attention speed", shape, "sums").to(device)

    def repeated(self) -> tuple[Tensor, ...]:
        """q, k, v with the frames in the batch, (F, H, L or N, d), as a pipeline holds them."""
        frames = self.q.shape[1]
        return self.q.flatten(0, 1), *(t.expand(frames, -1, -1, -1) for t in (self.k, self.v))

    def dense_bias(self) -> Tensor:
        """Of every query and key, (F, 1, L, N), in q's dtype."""
        chosen = indicators(self.token, self.k.shape[2], self.q.dtype)
        return (self.slots.logits()[0].to(self.q.dtype) @ chosen)[:, None]

    def sums(self, maps: Tensor) -> Tensor:
        """(4, 1, F, H, J) of maps (F, H, L, J), by the same code for each baseline."""
        return self.slots.sums(maps[None].to(self.slots.boxes.dtype))

    def logits(self) -> Tensor:
        """(F, H, L, N) with the bias."""
        q, k, _ = self.repeated()
        return q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + self.dense_bias()

    # each way returns (out, sums)

    def ours(self, **options: str) -> tuple[Tensor, Tensor]:
        found = motion_attention(
            self.q, self.k, self.v, self.boxes, self.token, self.owner, grid=self.grid, bias_in=BIAS_IN,
            bias_out=BIAS_OUT, **options,
        )  # fmt: skip
        return found.out, torch.stack(found[2:6])

    def columns(self) -> tuple[Tensor, Tensor]:
        width, frames = self.q.shape[-1], self.q.shape[1]
        out = F.scaled_dot_product_attention(*indicator_columns(self.q, self.k, self.v, self.slots), scale=width**-0.5)
        return as_frames(out[..., :width], frames), self.sums(as_frames(out[..., width : width + 3], frames)[0])

    def dense(self) -> tuple[Tensor, Tensor]:
        out = F.scaled_dot_product_attention(*self.repeated(), attn_mask=self.dense_bias())
        maps = torch.softmax(self.logits().to(self.slots.boxes.dtype), -1)[..., self.token]
        return out[None], self.sums(maps)

    def explicit(self) -> tuple[Tensor, Tensor]:
        p = torch.softmax(self.logits().to(self.slots.boxes.dtype), -1)
        return (p.to(self.q.dtype) @ self.repeated()[2])[None], self.sums(p[..., self.token])

    def plain(self) -> tuple[Tensor, None]:
        """Neither bias nor sums."""
        return F.scaled_dot_product_attention(*self.repeated())[None], None

    def flex(self) -> tuple[Tensor, Tensor]:
        """Bias by score_mod, and each slot's probability from its logit and the lse."""
        from torch.nn.attention.flex_attention import AuxRequest

        bias, token, width = self.slots.logits()[0], self.token, self.q.shape[-1]

        def score(s, b, h, i, n):
            for j in range(len(token)):
                s = s + torch.where(n == token[j], bias[b, i, j], 0.0)
            return s

        q, k, v = self.repeated()
        out, aux = flex()(q, k.contiguous(), v.contiguous(), score_mod=score, return_aux=AuxRequest(lse=True))
        s = q @ k[:, :, token].transpose(-1, -2) * width**-0.5 + bias[:, None]  # slots here have distinct tokens
        return out[None], self.sums(torch.exp(s - aux.lse[..., None]))


@cache
def flex() -> Callable:
    """FlexAttention, compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def ways(case: Case, device: str) -> dict[str, Callable[[], tuple[Tensor, Tensor | None]]]:
    """{name: function}; FlexAttention only where it has a backward pass."""
    made = {OURS: case.ours, COLUMNS: case.columns, DENSE: case.dense, EXPLICIT: case.explicit, PLAIN: case.plain}
    if device == "cpu":
        return made | {LOW: lambda: case.ours(memory="low")}
    return made | {FLEX: case.flex}


def runner(case: Case, way: Callable[[], tuple[Tensor, Tensor | None]], backward: bool) -> Callable[[], None]:
    """One call: forward without autograd, or forward and dQ."""

    def forward() -> None:
        with torch.no_grad():
            way()

    def both() -> None:
        case.q.grad = None
        out, sums = way()
        given = [(out, case.g_out)] + ([] if sums is None else [(sums, case.g_sums)])
        torch.autograd.backward(*zip(*given, strict=True), inputs=[case.q])

    return both if backward else forward


def peak_memory(run: Callable[[], None], device: str) -> int:
    """Most bytes allocated at one time during a call, beyond those before it."""
    run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(max(np.cumsum(sizes)))


def verdicts(times: dict[str, list[float]], memory: dict[str, int]) -> list[dict[str, Any]]:
    """The bars of a CPU, from times of forward and dQ."""
    best = min(BASELINES, key=lambda name: np.median(times[name]))
    row = {"figure": "ours / best of three", "best": best, "bar": BAR, **ratio(times[OURS], times[best])}
    low = {"figure": "memory, low / indicator columns", "bar": 1.0, "ratio": memory[LOW] / memory[COLUMNS]}
    return [{**row, "holds": row["ratio"] <= BAR}, {**low, "holds": low["ratio"] <= 1.0}]


def measured(shape: str, device: str, repeats: int, least: float) -> list[dict[str, Any]]:
    """All rows of one shape."""
    case = Case(shape, device, torch.float32 if device == "cpu" else torch.bfloat16)

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    rows = []
    for mode in ("forward", "forward and dQ"):
        runs = {name: runner(case, way, mode != "forward") for name, way in ways(case, device).items()}
        memory = {name: peak_memory(run, device) for name, run in runs.items()}
        times = measure(runs, repeats, clock, least)
        for name, seconds in times.items():
            found = {"median_s": float(np.median(seconds)), "p20_p80_s": np.quantile(seconds, (0.2, 0.8)).tolist()}
            found |= {"peak_bytes": memory[name], "over_ours": ratio(seconds, times[OURS])}
            rows.append({"figure": "time and memory", "variant": name, "mode": mode, **found})
            goal = GPU_SHAPES.get(shape, {}).get(name)
            if device == "cuda" and mode != "forward" and goal:
                rows[-1] |= {"goal": goal, "goal_holds": found["over_ours"]["ratio"] >= goal}
        if device == "cpu" and mode != "forward":
            rows += [{**row, "mode": mode} for row in verdicts(times, memory)]
    where = {"device": device, "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    where |= {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return [{"benchmark": "motion_attention_speed", "shape": shape, **row, **where} for row in rows]


def temporal(repeats: int) -> list[dict[str, Any]]:
    """Over the frames of VideoCrafter2's top layer on a GPU, against SDPA with a dense bias; goal 1.5."""
    q, k, v, g = (
        randn((1, 2560, 16, 5, 64), "motion attention speed", name).to("cuda", torch.bfloat16) for name in "qkvg"
    )
    q.requires_grad_()
    boxes = torch.tensor([0.2, 0.2, 0.6, 0.7], device="cuda").expand(1, 1, 16, 4)
    rho = torch.zeros(5, 31, device="cuda")
    bias = torch.zeros(2560, 1, 16, 16, device="cuda", dtype=torch.bfloat16)

    def ours() -> Tensor:
        return temporal_motion_attention(q, k, v, boxes, grid=(40, 64), tau=1.0, gamma=2.0, rho=rho)

    def dense() -> Tensor:
        heads = (t[0].transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(*heads, attn_mask=bias.expand(-1, 5, -1, -1)).transpose(1, 2)[None]

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    runs = {name: (lambda way=way: torch.autograd.grad(way(), q, g)) for name, way in ((OURS, ours), (DENSE, dense))}
    times = measure(runs, repeats, clock)
    found = ratio(times[DENSE], times[OURS])
    row = {
        "figure": "temporal, SDPA with dense bias / ours",
        **found,
        "goal": 1.5,
        "goal_holds": found["ratio"] >= 1.5,
    }
    where = {"device": "cuda", "gpu": torch.cuda.get_device_name()}
    return [{"benchmark": "motion_attention_speed", "shape": "temporal", **row, **where}]


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    text = f"{row['shape']}, {row['figure']}" + "".join(f", {row[k]}" for k in ("variant", "mode", "best") if k in row)
    if "median_s" in row:
        text += (
            f": {1e3 * row['median_s']:.2f} ms, {row['peak_bytes'] / 2**20:.1f} MiB, {row['over_ours']['ratio']:.3f}"
        )
    elif "ratio" in row:
        text += f": {row['ratio']:.3f}" + (f" {row['ci95']}" if "ci95" in row else "")
    for key, kept in (("bar", "holds"), ("goal", "goal_holds")):
        if kept in row:
            text += f"; {key} {row[key]}: {'HOLDS' if row[kept] else 'DOES NOT HOLD'}"
    return text + (f": {row['status']}, {row['reason']}" if "status" in row else "")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = speed_arguments(parser, argv, "FRAMESxHEADSxCELLSxKEYSxWIDTH, or temporal (GPU)")
    repeats = args.repeats
    for shape in args.shape or ():
        if shape != "temporal":
            size_of(shape)
    out = args.out or (None if args.quick else RESULTS / "motion_attention_speed.jsonl")
    torch.set_num_threads(args.threads)
    gpu = args.device == "cuda"
    if gpu and not torch.cuda.is_available():
        print(line({"shape": "gpu", "figure": "goals of a GPU", "status": "unmeasured", "reason": "no GPU"}))
        return 0
    shapes = args.shape or (QUICK if args.quick else [*GPU_SHAPES, "temporal"] if gpu else SHAPES)
    known = {(row["shape"], row["device"]) for row in (read(out) if out else [])}
    if not args.shape:
        shapes = [shape for shape in shapes if (shape, args.device) not in known]
    failed = False
    for shape in shapes:
        least = 0.0 if args.quick else LONG_ENOUGH
        rows = temporal(repeats) if shape == "temporal" else measured(shape, args.device, repeats, least)
        for row in rows:
            print(line(row), flush=True)
        failed |= any(row.get("holds") is False for row in rows)
        if out:
            where = environment()
            kept = [r for r in read(out) if (r["shape"], r["device"]) != (shape, args.device)]
            write(out, kept + [{**row, **where} for row in rows])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
