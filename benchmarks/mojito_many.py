"""Many objects whose paths cross in one clip: what directional motion control costs, and what it does to their energy.

    python benchmarks/mojito_many.py    # a few minutes on one core; prints one table

One clip each of embedded diorama-video with 1, 5, 10 and 20 objects, all of other colours and shapes; every second
one goes from left to right, the others back, so that paths cross. Cost is CPU time of the whole call over that of the
call with one object; energy is that of the first and of the last guided iteration, a frame; the share of attention in
the boxes is measured without any move, and at the last guided iteration. The base has seen at most two objects: this
tells of the mechanism, not of pictures.
"""

import argparse
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import CFG, made_by
from records import RESULTS, environment, write

from wm_pipelines import AutoWMPipeline, MotionObject, embedded
from wm_pipelines.diorama.scene import COLOURS, SHAPES
from wm_pipelines.media.boxes import box_iou
from wm_pipelines.text.phrasing import with_article

FRAMES, STEPS, COUNTS = 8, 5, (1, 5, 10, 20)
GUIDED = {"guidance_fraction": 0.4, "guidance_iterations": 3, "guidance_threshold": 0.0}


def crossing(count: int) -> tuple[str, list[MotionObject]]:
    """A prompt of `count` things and their paths."""
    pairs = [(colour, shape) for shape in SHAPES for colour in COLOURS][:count]
    side, items = 0.2, []
    for n, (colour, shape) in enumerate(pairs):
        top = (n + 0.5) / count * (1 - side)
        ends = (0.0, 1 - side) if n % 2 == 0 else (1 - side, 0.0)
        tops = (top, (1 - side) - top)
        boxes = [(x, y, x + side, y + side) for x, y in zip(ends, tops, strict=True)]
        items.append(MotionObject(f"{colour} {shape}", boxes=boxes, keyframes=(0, FRAMES - 1)))
    words = [with_article(item.phrase) for item in items]
    return " ".join(words), items


def measure(pipe: Any, count: int) -> dict[str, Any]:
    """One row."""
    prompt, items = crossing(count)
    options = {
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "guidance_scale": CFG,
        "output_type": "latent",
    }
    still = pipe(
        prompt, items, generator=torch.Generator().manual_seed(0), **options, **{**GUIDED, "guidance_iterations": 0}
    )
    started = time.process_time()
    out = pipe(prompt, items, generator=torch.Generator().manual_seed(0), **options, **GUIDED)
    seconds = time.process_time() - started
    (report,), (plan,) = out.report, out.plan
    meeting = sum(bool((box_iou(plan.boxes[a], plan.boxes[b]) > 0).any()) for a, b in combinations(range(count), 2))
    shares = report.in_box.mean(1)
    return {
        "objects": count,
        "tokens": len(plan.slots.tokens),
        "pairs that cross": meeting,
        "cpu seconds": round(seconds, 2),
        "energy": [round(report.energy[0][0], 4), round(report.energy[-1][-1], 4)],
        "in box": [round(float(still.report[0].in_box.mean()), 4), round(float(shares.mean()), 4)],
        "worst object": round(float(shares.min()), 4),
        "updates": report.iterations,
    }


def main(argv: list[str] | None = None) -> int:
    """Print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "mojito_many.jsonl")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    pipe = AutoWMPipeline.from_pretrained(embedded("diorama-video"))
    pipe.set_progress_bar_config(disable=True)
    rows = [measure(pipe, count) | made_by(None) | environment() for count in COUNTS]
    print(f"{'objects':>7} {'tokens':>6} {'crossing':>8} {'cost':>6} {'energy':>15} {'in box':>15} {'worst':>6}")
    for row in rows:
        cost = row["cpu seconds"] / rows[0]["cpu seconds"]
        energy, share = (" -> ".join(f"{x:.3f}" for x in row[name]) for name in ("energy", "in box"))
        print(
            f"{row['objects']:>7} {row['tokens']:>6} {row['pairs that cross']:>8} {cost:>6.2f} {energy:>15} "
            f"{share:>15} {row['worst object']:>6.3f}"
        )
    write(args.out, rows)
    return int(not np.isfinite([row["energy"] for row in rows]).all())


if __name__ == "__main__":
    sys.exit(main())
