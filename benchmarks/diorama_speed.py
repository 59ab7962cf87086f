"""Frames a second of the Diorama renderer at 64 x 64, four moving objects, for all maps and for single ones.

    python benchmarks/diorama_speed.py --threads 2        # prints a line, appends it to results/diorama_speed.jsonl

Each figure is the best of `--repeats` runs over 8 scenes x 16 times, by the wall clock and by the processor's (all
threads together); where they differ much, other programs held the processor, which the record says as `load`.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch

from wm_pipelines.diorama.motion import sample_motion
from wm_pipelines.diorama.render import MAPS, render
from wm_pipelines.diorama.scene import sample_scene
from wm_pipelines.runtime.files import atomic

RESULTS = Path(__file__).parent / "results" / "diorama_speed.jsonl"
CASES = {
    "all": MAPS,
    "rgb ids depth": ("rgb", "ids", "depth"),
    "rgb": ("rgb",),
    "ids depth": ("ids", "depth"),
    "flow occlusion": ("flow", "occlusion"),
}


@torch.no_grad()
def measure(repeats: int, scenes: int = 8, times: int = 16) -> dict[str, dict[str, int]]:
    """Frames per second of wall time and of processor time, for every entry of CASES."""
    worlds = [
        sample_motion(sample_scene("speed", i, num_objects=4, composition="all"), "speed", i) for i in range(scenes)
    ]
    render(worlds, range(2), 64, MAPS)
    found = {}
    for name, maps in CASES.items():
        wall, processor = [], []
        for _ in range(repeats):
            before = time.perf_counter(), time.process_time()
            render(worlds, range(times), 64, maps)
            wall.append(time.perf_counter() - before[0])
            processor.append(time.process_time() - before[1])
        frames = scenes * times
        found[name] = {"wall": round(frames / min(wall)), "processor": round(frames / min(processor))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--note", default="", help="what else ran on the machine")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    record = {
        "figure": "frames a second, 64 x 64, four objects",
        "threads": arguments.threads,
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "note": arguments.note,
        **measure(arguments.repeats),
    }
    print(json.dumps(record, indent=1))
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    with atomic(RESULTS) as partial:
        partial.write_text("\n".join([*lines, json.dumps(record)]) + "\n")


if __name__ == "__main__":
    main()
