"""Six pictures of one caption, one is kept: does it help who chooses?

    python benchmarks/best_of_n.py                   # goes on where it was stopped
    python benchmarks/best_of_n.py --captions 24     # fewer

The examples `wm_best_by_comclip` and `wm_best_by_discffusion` of the ComfyUI nodes, over many captions: `diorama-sd`
makes six pictures of the caption of a test scene with two objects, pairs of colour and shape that it never saw among
them (of others, nearly all pictures obey, and nobody can choose well), from the prompt alone. One is kept by ComCLIP,
which without boxes is the similarity of `diorama-clip`, or by Discffusion on the same base (ten timesteps).
`diorama-judge`, which neither knows, says whether what the caption says is there. Chance is the mean of the six, the
best of them the most that a choice can reach. A row of each caption is kept, so the intervals are over captions.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import RESULTS, append, environment, mean_interval, read, write

from wm_pipelines import AutoWMPipeline, embedded
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.language import caption
from wm_pipelines.discffusion.pipeline import DiscffusionPipeline
from wm_pipelines.flexecontrol.diorama import obeyed

PICTURES, STEPS, TIMESTEPS = 6, 20, 10
ARMS = ("comclip", "discffusion")


def measure(text: str, number: int, parts: dict[str, Any]) -> dict[str, Any]:
    """What is there in each picture of a caption, and the scores of those who choose."""
    pictures = parts["painter"](
        text, num_images_per_prompt=PICTURES, num_inference_steps=STEPS, output_type="pt",
        generator=torch.Generator().manual_seed(number),
    ).images  # fmt: skip
    there = [verdict.score for verdict in obeyed(parts["judge"], pictures, None, text)]
    with warnings.catch_warnings(action="ignore"):  # of parts without a box
        grid = parts["comclip"].matrix(list(pictures), [text])
    found = parts["discffusion"](list(pictures), [text], pairwise=False, timesteps=TIMESTEPS, seed=0)
    scores = {"comclip": grid.score[:, 0], "discffusion": found.score[:, 0]}
    return {
        "kind": "caption", "number": number, "caption": text, "there": there,
        "scores": {arm: [round(float(x), 6) for x in scores[arm]] for arm in ARMS},
    }  # fmt: skip


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    there = np.array([row["there"] for row in rows])
    kept = {"chance": there.mean(1), "best of the six": there.max(1)}
    for arm in ARMS:
        picks = [int(np.argmax(row["scores"][arm])) for row in rows]
        kept[arm] = there[np.arange(len(rows)), picks]
    rises = {arm: kept[arm] - kept["chance"] for arm in ARMS}
    row = {
        "kind": "report", "n": len(rows), "pictures": PICTURES, "steps": STEPS,
        "there": {arm: round(float(values.mean()), 4) for arm, values in kept.items()},
        "rise": {arm: round(float(values.mean()), 4) for arm, values in rises.items()},
        "rise ci95": {arm: mean_interval(values) for arm, values in rises.items()},
    }  # fmt: skip
    row["helps"] = {arm: row["rise ci95"][arm][0] > 0 for arm in ARMS}
    return row | environment()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "best_of_n.jsonl")
    args = parser.parse_args()
    rows = [row for row in read(args.out) if row["kind"] == "caption"]
    done = {row["number"] for row in rows}
    held = {"composition": "held_out", "num_objects": 2}
    scenes = DioramaDataset("image", split="test", length=args.captions, name="best of n", **held)
    painter = AutoWMPipeline.from_pretrained(embedded("flexecontrol"))
    parts = {
        "painter": painter,
        "judge": DioramaJudge.from_pretrained(embedded("diorama-judge")).eval(),
        "comclip": AutoWMPipeline.from_pretrained(embedded("comclip")),
        "discffusion": DiscffusionPipeline.from_parts(painter),
    }
    for pipeline in (painter, parts["comclip"], parts["discffusion"]):
        pipeline.set_progress_bar_config(disable=True)
    for number in sorted(set(range(args.captions)) - done):
        rows.append(measure(caption(scenes.scene(number)).text, number, parts))
        append(args.out, rows[-1])
    found = report(rows)
    write(args.out, [*sorted(rows, key=lambda row: row["number"]), found])
    for arm, share in found["there"].items():
        more = f", {found['rise'][arm]:+.3f} {found['rise ci95'][arm]}" if arm in ARMS else ""
        print(f"{arm}: {share:.3f}{more}")


if __name__ == "__main__":
    main()
