"""Frames a second of the Diorama renderer at 64 x 64, four moving objects, for all maps and for single ones.

    python benchmarks/diorama_speed.py --threads 2        # prints a line, appends it to results/diorama_speed.jsonl
    python benchmarks/diorama_speed.py --threads 1 --against ../before     # the same pictures by another checkout

Each figure is the best of `--repeats` runs over 8 scenes x 16 times, by the wall clock and by the processor's (all
threads together); where they differ much, other programs held the processor, which the record says as `load`. For
"cameras", 1 scene x 8 cameras x 16 times, and "chequered", the 8 scenes on such floors, it is all maps. `--against`
gives the processor time of the other checkout as a multiple of this one's: quartile, median and quartile of
`--repeats` pairs of runs that follow each other, either first.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from wm_pipelines.diorama.motion import sample_motion
from wm_pipelines.diorama.render import MAPS, render
from wm_pipelines.diorama.scene import Scene, sample_scene
from wm_pipelines.runtime.files import atomic

RESULTS = Path(__file__).parent / "results" / "diorama_speed.jsonl"
CASES = {
    "all": MAPS,
    "rgb ids depth": ("rgb", "ids", "depth"),
    "rgb": ("rgb",),
    "ids depth": ("ids", "depth"),
    "flow occlusion": ("flow", "occlusion"),
}


def moving_scenes(count: int = 8) -> list[Scene]:
    return [
        sample_motion(sample_scene("speed", i, num_objects=4, composition="all"), "speed", i) for i in range(count)
    ]


@torch.no_grad()
def measure(repeats: int, times: int = 16) -> dict[str, dict[str, int]]:
    """Frames per second of wall time and of processor time, for every entry of CASES and all maps in two more."""
    from wm_pipelines.diorama.cameras import ring_cameras

    worlds = moving_scenes()
    cases = {name: {"scenes": worlds, "maps": maps} for name, maps in CASES.items()}
    cases["cameras"] = {"scenes": worlds[:1], "maps": MAPS, "cameras": ring_cameras(8, radius=8.0)}
    cases["chequered"] = {"scenes": [replace(w, floor_pattern="chequered") for w in worlds], "maps": MAPS}
    render(worlds, range(2), 64, MAPS)
    found = {}
    for name, arguments in cases.items():
        wall, processor = [], []
        for _ in range(repeats):
            before = time.perf_counter(), time.process_time()
            render(times=range(times), size=64, **arguments)
            wall.append(time.perf_counter() - before[0])
            processor.append(time.process_time() - before[1])
        frames = 8 * times
        found[name] = {"wall": round(frames / min(wall)), "processor": round(frames / min(processor))}
    return found


@torch.no_grad()
def serve() -> None:
    """Renders the case that each line of standard input names, and prints the seconds of processor time it took."""
    worlds = moving_scenes()
    for line in sys.stdin:
        before = time.process_time()
        render(worlds, range(16), 64, CASES[line.strip()])
        print(time.process_time() - before, flush=True)


def compare(folder: Path, threads: int, repeats: int) -> dict[str, list[float]]:
    """Processor time of the checkout `folder` over that of this one: quartile, median, quartile."""

    def start(root: Path) -> subprocess.Popen:
        command = [sys.executable, __file__, "--serve", "--threads", str(threads)]
        environment = os.environ | {"PYTHONPATH": str(root.resolve())}
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def seconds(server: subprocess.Popen, case: str) -> float:
        server.stdin.write(f"{case}\n")
        return float(server.stdout.readline())

    found = {}
    with start(folder) as before, start(Path(__file__).parents[1]) as after:
        for case in CASES:
            ratios = []
            for n in range(repeats + 1):
                first, second = (before, after) if n % 2 else (after, before)
                spent = {first: seconds(first, case), second: seconds(second, case)}
                ratios.append(spent[before] / spent[after])
            found[case] = [round(q, 2) for q in statistics.quantiles(ratios[1:], n=4)]  # the first run warms up
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--against", type=Path, help="folder of another checkout to compare with")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.serve:
        return serve()
    if arguments.against:
        figure = "processor time of another checkout over this one's: quartiles; 64 x 64, four objects"
        figures = {"repeats": arguments.repeats, **compare(arguments.against, arguments.threads, arguments.repeats)}
    else:
        figure, figures = "frames a second, 64 x 64, four objects", measure(arguments.repeats)
    record = {
        "figure": figure,
        "threads": arguments.threads,
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "note": arguments.note,
        **figures,
    }
    print(json.dumps(record, indent=1))
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    with atomic(RESULTS) as partial:
        partial.write_text("\n".join([*lines, json.dumps(record)]) + "\n")


if __name__ == "__main__":
    main()
