"""Times of several runs in turn, and ratios of the same repeat."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from records import interval, median_draws

from wm_pipelines.runtime.random import keyed

LONG_ENOUGH = 0.02  # seconds of one sample; shorter calls are repeated within it


def measure(
    runs: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float], least: float = LONG_ENOUGH
) -> dict[str, list[float]]:
    """Seconds per call of every run in every repeat, in an order that changes from repeat to repeat."""
    inner = {}
    for name, run in runs.items():
        run()
        began = clock()
        run()
        inner[name] = max(1, min(100, int(least / max(clock() - began, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for i in keyed("timing", repeat).permutation(len(runs)):
            name = list(runs)[i]
            began = clock()
            for _ in range(inner[name]):
                runs[name]()
            times[name].append((clock() - began) / inner[name])
    return times


def ratio(over: list[float], under: list[float]) -> dict[str, Any]:
    """Median of the paired ratios with its 95 % interval."""
    ratios = np.array(over) / np.array(under)
    low, high = interval(median_draws(ratios))
    return {"ratio": round(float(np.median(ratios)), 4), "ci95": [round(low, 4), round(high, 4)], "pairs": len(ratios)}


def speed_arguments(parser: argparse.ArgumentParser, argv: list[str] | None, shape: str) -> argparse.Namespace:
    """The arguments that speed benchmarks share, parsed; `repeats` is filled in.

    Args:
        shape: what `--shape` may be, for its help.
    """
    parser.add_argument("--shape", action="append", help=shape)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, three repeats, nothing recorded by default")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    args.repeats = args.repeats or (3 if args.quick else 31)
    if args.repeats < 15 and not args.quick:
        parser.error(f"--repeats must be at least 15, got {args.repeats}")
    return args
