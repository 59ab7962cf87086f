"""The micro-experiment of ComCLIP: do sub-images help a small CLIP to tell a caption's picture from a foil?

    python benchmarks/comclip_micro.py                      # everything; stop and start it as you like
    python benchmarks/comclip_micro.py --report             # only the report on what is there
    python benchmarks/comclip_micro.py --shard 1/2          # half of the seeds, beside another process with 0/2

For each seed a small CLIP is trained on the flat world of shapes.py, where nine tenths of the pairs are of a kind and
its fixed partner, and frozen. The trials are pairs that training hardly showed; each foil differs in subject, object
or relation, or has the two colours exchanged. Boxes are exact (oracle), noisy (a fifth is left out, sides move by up
to 15 per cent) or absent (none). A cell is one (seed, boxes) with all rules; finished cells are not run again.

Claims: a rule holds if it beats global CLIP on all four foils, intervals above 0. `missing="blank"` becomes the
default if, with oracle and with noisy boxes, it beats `full` on subject, object and swap, is not below it on verb, and
beats boxes alone on verb and swap. Exact boxes alone answer a swap (neither of the two things is there), so that last
part can hardly be met there. Rules, sizes and claims were fixed before any run; the verdicts are printed either way.
"""

import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from cells import make_parser, of_shard, parse, run_cells, same_settings
from comclip_foils import FOILS, RULES, Boxes, Results, decide, plot, report
from records import RESULTS, environment, read, write
from shapes import SIDE, Scene, boxes, counter_scene, foils, render
from shapes_clip import shapes_clip

from wm_pipelines.comclip.pipeline import ComCLIPPipeline
from wm_pipelines.runtime.random import keyed

SIZES: dict[str, Any] = {"clip_steps": 1500, "clip_batch": 96, "trials": 300, "drop": 0.2, "jitter": 0.15}
QUICK: dict[str, Any] = SIZES | {"clip_steps": 2, "clip_batch": 4, "trials": 4}
GROUNDING = ("oracle", "noisy", "none")

Cell = tuple[int, str]


def cells_of(seeds: int) -> list[Cell]:
    """(seed, boxes), seed by seed, so that an unfinished run has whole seeds."""
    return [(seed, grounding) for seed in range(seeds) for grounding in GROUNDING]


def boxes_of(scene: Scene, grounding: str, sizes: dict[str, Any]) -> Boxes:
    """Words -> box in pixels, both corners inside; the noise is a function of the scene."""
    if grounding == "none":
        return {}
    rng, found = keyed("comclip noise", scene.key), {}
    for words, (x0, y0, x1, y1) in boxes(scene).items():
        box = np.array([x0, y0, x1 - 1, y1 - 1], dtype=float)
        if grounding == "noisy":
            dropped = rng.random() < sizes["drop"]
            sides = np.array([x1 - x0, y1 - y0] * 2)
            box += sides * rng.uniform(-sizes["jitter"], sizes["jitter"], 4)
            if dropped:
                continue
        found[words] = [tuple(np.clip(box, 0, SIDE - 1))]
    return found


class World:
    """The CLIP of a seed and its trials: scenes, and for each foil the scenes that the captions are false of."""

    def __init__(self, seed: int, sizes: dict[str, Any], work: Path):
        self.seed, self.sizes = seed, sizes
        parts = shapes_clip(seed, sizes["clip_steps"], work, sizes["clip_batch"])
        self.pipeline = ComCLIPPipeline(parts["clip"], parts["tokenizer"], parts["image_processor"])
        rngs = [keyed("comclip micro", seed, n) for n in range(sizes["trials"])]
        self.true = [counter_scene(rng) for rng in rngs]
        made = [foils(scene, rng) for scene, rng in zip(self.true, rngs, strict=True)]
        self.false = {foil: [scenes[foil] for scenes in made] for foil in FOILS}
        self.pictures = render(self.true)


def run_cell(world: World, grounding: str) -> dict[str, Any]:
    """Score one cell: all foils by all rules."""
    world.pipeline.clear_caches()
    captions, began = [scene.caption for scene in world.true], time.process_time()
    own = [boxes_of(scene, grounding, world.sizes) for scene in world.true]
    right, cost = {}, {}
    for foil in FOILS:
        scenes = world.false[foil]
        shown = [boxes_of(scene, grounding, world.sizes) for scene in scenes]
        right[foil], cost[foil] = decide(world.pipeline, captions, world.pictures, render(scenes), own, shown)
    return {
        "kind": "cell", "seed": world.seed, "boxes": grounding, "settings": world.sizes, "rules": list(RULES),
        "right": right, "cost": cost, "cpu_s": round(time.process_time() - began, 2), **environment(),
    }  # fmt: skip


def finish(out: Path, seeds: int, draws: int) -> None:
    """Print the report; write its rows and the plot beside the results."""
    results = Results(read(out), draws)
    if not results.cells:
        print("no cell is there yet")
        return
    text, rows = report(results, seeds)
    print(text)
    write(out.with_name(f"{out.stem}_verdicts.jsonl"), [{**row, "draws": draws} for row in rows])
    plot(results, out.with_name(f"{out.stem}.png"))


def main(argv: list[str] | None = None) -> int:
    work = "folder of the CLIPs (default: runs/shapes, shared with cpl_micro)"
    parser = make_parser(__doc__, "comclip_micro", work, 5, shard="seed")
    args = parse(parser, argv)
    sizes, out = (QUICK if args.quick else SIZES), args.out or RESULTS / "comclip_micro.jsonl"
    if args.report:
        finish(out, args.seeds, args.draws)
        return 0
    rows = same_settings(parser, out, sizes)
    done = {(row["seed"], row["boxes"]) for row in rows if row["kind"] == "cell"}
    world = lru_cache(maxsize=1)(lambda seed: World(seed, sizes, args.work or Path("runs/shapes")))

    def say(cell: Cell, row: dict[str, Any]) -> str:
        swap = {rule: 100 * np.mean(row["right"]["swap"][rule]) for rule in ("global", "released", "blank")}
        words = ", ".join(f"{rule} {value:.1f} %" for rule, value in swap.items())
        return f"seed {cell[0]} {cell[1]}, swap {words}, {row['cpu_s']} s of CPU"

    run_cells(
        of_shard(cells_of(args.seeds), 0, args.shard), done,
        lambda cell: run_cell(world(cell[0]), cell[1]), out, say,
    )  # fmt: skip
    finish(out, args.seeds, args.draws)
    return 0


if __name__ == "__main__":
    sys.exit(main())
