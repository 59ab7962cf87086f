"""Six pictures of one caption, or four clips of one prompt, one is kept: does it help who chooses?

    python benchmarks/best_of_n.py                                # goes on where it was stopped
    python benchmarks/best_of_n.py --captions 24 --prompts 12     # fewer

The examples `wm_best_by_comclip` and `wm_best_by_discffusion` of the ComfyUI nodes, over many captions: `diorama-sd`
makes six pictures of the caption of a test scene with two objects, pairs of colour and shape that it never saw among
them (of others, nearly all pictures obey, and nobody can choose well), from the prompt alone. One is kept by ComCLIP,
which without boxes is the similarity of `diorama-clip`, or by Discffusion on the same base (ten timesteps).
`diorama-judge`, which neither knows, says whether what the caption says is there. Chance is the mean of the six, the
best of them the most that a choice can reach. A row of each caption is kept, so the intervals are over captions.

The example `wm_best_by_physics`, over many prompts: `diorama-video` makes four clips of one moving object (16 frames,
ten steps), the physics report keeps the one that it finds the most physical. What is asked for is that the object of
the prompt's colour is seen and goes the said way: the share of frames that show it, 0 where it goes another way. The
report's masks are `diorama-judge`'s too, so both fail together where it errs.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import ClipMaker, seen_object
from records import RESULTS, append, environment, mean_interval, read, write

from wm_pipelines import AutoWMPipeline, embedded
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.language import caption
from wm_pipelines.discffusion.pipeline import DiscffusionPipeline
from wm_pipelines.flexecontrol.diorama import obeyed
from wm_pipelines.mojito.metrics import WAYS, direction, persistence, track_colour
from wm_pipelines.morpho4d.physics.footage import ranked_clips
from wm_pipelines.runtime.random import keyed

PICTURES, STEPS, TIMESTEPS = 6, 20, 10
CLIPS, CLIP_STEPS = 4, 10
ARMS = {"caption": ("comclip", "discffusion"), "prompt": ("physics",)}
"""Who chooses, among the pictures of a caption and the clips of a prompt."""


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
        "scores": {arm: [round(float(x), 6) for x in found] for arm, found in scores.items()},
    }  # fmt: skip


@torch.no_grad()
def measure_clips(number: int, maker: ClipMaker) -> dict[str, Any]:
    """How far each clip of a prompt does what it says, and how physical it is."""
    words, colour = seen_object(keyed("best of n", "clip", number))
    way = WAYS[number % 4]
    prompt = f"{words} moving {way}{' the camera' * (way == 'towards')}"
    clips = [maker.make([prompt], number, [n], steps=CLIP_STEPS)[0][0] for n in range(CLIPS)]
    tracks = [track_colour(maker.judge, clip, colour) for clip in clips]
    ratios = {n: 1e3 if found is None else found.score for n, found in ranked_clips(clips)}
    return {
        "kind": "prompt", "number": number, "caption": prompt,
        "there": [persistence(track) * (direction(track) == way) for track in tracks],
        "scores": {"physics": [round(-ratios[n], 6) for n in range(CLIPS)]},
    }  # fmt: skip


def report(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    there = np.array([row["there"] for row in rows])
    kept = {"chance": there.mean(1), "best of all": there.max(1)}
    arms = ARMS[kind]
    for arm in arms:
        picks = [int(np.argmax(row["scores"][arm])) for row in rows]
        kept[arm] = there[np.arange(len(rows)), picks]
    rises = {arm: kept[arm] - kept["chance"] for arm in arms}
    row = {
        "kind": "report", "of": kind, "n": len(rows), "candidates": there.shape[1],
        "there": {arm: round(float(values.mean()), 4) for arm, values in kept.items()},
        "rise": {arm: round(float(values.mean()), 4) for arm, values in rises.items()},
        "rise ci95": {arm: mean_interval(values) for arm, values in rises.items()},
    }  # fmt: skip
    row["helps"] = {arm: row["rise ci95"][arm][0] > 0 for arm in arms}
    return row | environment()


def made(captions: int, prompts: int, done: dict[str, set[int]]) -> Iterator[dict[str, Any]]:
    """The rows that are not done yet."""
    todo = sorted(set(range(prompts)) - done["prompt"])
    maker = ClipMaker(None) if todo else None
    for number in todo:
        yield measure_clips(number, maker)
    todo = sorted(set(range(captions)) - done["caption"])
    if not todo:
        return
    held = {"composition": "held_out", "num_objects": 2}
    scenes = DioramaDataset("image", split="test", length=captions, name="best of n", **held)
    painter = AutoWMPipeline.from_pretrained(embedded("flexecontrol"))
    parts = {
        "painter": painter,
        "judge": DioramaJudge.from_pretrained(embedded("diorama-judge")).eval(),
        "comclip": AutoWMPipeline.from_pretrained(embedded("comclip")),
        "discffusion": DiscffusionPipeline.from_parts(painter),
    }
    for pipeline in (painter, parts["comclip"], parts["discffusion"]):
        pipeline.set_progress_bar_config(disable=True)
    for number in todo:
        yield measure(caption(scenes.scene(number)).text, number, parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS / "best_of_n.jsonl")
    args = parser.parse_args()
    rows = [row for row in read(args.out) if row["kind"] in ARMS]
    done = {kind: {row["number"] for row in rows if row["kind"] == kind} for kind in ARMS}
    for row in made(args.captions, args.prompts, done):
        rows.append(row)
        append(args.out, row)
    reports = [report(some, kind) for kind in ARMS if (some := [row for row in rows if row["kind"] == kind])]
    write(args.out, [*sorted(rows, key=lambda row: (row["kind"], row["number"])), *reports])
    for found in reports:
        for arm, share in found["there"].items():
            rise = found["rise"].get(arm)
            more = "" if rise is None else f", {rise:+.3f} {found['rise ci95'][arm]}"
            print(f"{found['of']}, {arm}: {share:.3f}{more}")


if __name__ == "__main__":
    main()
