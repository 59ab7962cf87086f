"""When two controls contradict each other, which one wins at which strength, and do the conflict reports say so?

    python benchmarks/conflicting_controls.py        # stop and start it as you like; then the report and the curves
    python benchmarks/conflicting_controls.py --part pictures

"clips": the words of diorama-video say left (or right), the object's boxes go the other way; the strength is the share
of the checkpoint's own guidance step size, 0 leaves the guidance out. Position: how far the object's centre went along
the boxes' way, 1 where it went all of it, below 0 where it went the way of the words; the words win below -0.25, the
boxes above 0.25. "pictures": edges of one object, bound to its phrase, stand on one side; a scene graph puts the same
node's box on the other. The strength is that of the edges. Position: of the object's centre along the way from the
graph's box (0) to the edges (1); an object is at a place if its centre lies in that box and the boxes overlap by an
IoU of at least 0.3. A report is right where the winner that it names is the one that won. One checkpoint: intervals
tell of prompts and noise.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import FRAMES, ClipMaker, check_rows, made_by, seen_object
from records import RESULTS, append, environment, mean_interval, read, write

from wm_pipelines import AutoWMPipeline, Condition, DioramaDataset, MotionObject, Node, SceneGraph, embedded
from wm_pipelines.config import WMConfig
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.metrics import Found, look
from wm_pipelines.diorama.render import render
from wm_pipelines.hub import fingerprint
from wm_pipelines.media.boxes import box_iou
from wm_pipelines.media.conditions import extract
from wm_pipelines.mojito.metrics import track_colour
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.random import keyed

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
MOVED = 0.25  # of the boxes' way
LEAST_IOU = 0.3
Box = tuple[float, float, float, float]


def clip_case(index: int) -> tuple[str, str, str, tuple[Box, Box]]:
    """Prompt, phrase, colour, and first and last box, which go against the words; left and right take turns."""
    rng = keyed("conflicting clips", index)
    words, colour = seen_object(rng)
    said = ("left", "right")[index % 2]
    size, y = rng.uniform(0.2, 0.3), rng.uniform(0.35, 0.65)
    near, far = rng.uniform(0.18, 0.28), rng.uniform(0.72, 0.82)
    ends = [(x - size / 2, y - size / 2, x + size / 2, y + size / 2) for x in (near, far)]
    return f"{words} moving {said}", words.split(" ", 1)[1], colour, tuple(ends if said == "left" else ends[::-1])


@torch.no_grad()
def clips(maker: ClipMaker, strength: float, indices: list[int], eta: float) -> list[dict[str, Any]]:
    """One row a prompt."""
    prompts, phrases, colours, ways = zip(*(clip_case(i) for i in indices), strict=True)
    objects = [[MotionObject(p, boxes=w, keyframes=(0, FRAMES - 1))] for p, w in zip(phrases, ways, strict=True)]
    options = {"guidance_eta": strength * eta} if strength else {"guidance_iterations": 0}
    rows = []
    made = maker.make(prompts, 0, indices, objects=objects, **options)
    for index, colour, way, items, (frames, _, report) in zip(indices, colours, ways, objects, made, strict=True):
        track = track_colour(maker.judge, frames, colour)
        centres = track.centres[:, 0][track.seen]
        whole = (way[1][0] + way[1][2] - way[0][0] - way[0][2]) / 2
        position = float((centres[-1] - centres[0]) / whole) if len(centres) > 1 else float("nan")
        rows.append(
            {
                "part": "clips",
                "strength": strength,
                "case": index,
                "position": position,
                "iou": float(torch.nan_to_num(box_iou(track.boxes, items[0].frame_boxes(FRAMES))).mean()),
                "won": "words" if position < -MOVED else "boxes" if position > MOVED else "neither",
                "called": "boxes" if any("the boxes win" in line for line in report.conflicts) else None,
            }
        )
    return rows


def picture_scenes(count: int) -> list[int]:
    """Of a test set of one object, those that stand clearly on one side."""
    data, found = DioramaDataset(split="test", length=20 * count, num_objects=1, name="conflicting-controls"), []
    for index in range(len(data)):
        ids = render([data.scene(index)], maps=("ids",)).ids[0, 0]
        x0, _, x1, _ = bounds(ids > 0)
        if x1 < 0.48 or x0 > 0.52:
            found.append(index)
        if len(found) == count:
            return found
    raise ValueError(f"only {len(found)} of {count} scenes have their object on one side")


def bounds(mask: torch.Tensor) -> Box:
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    h, w = mask.shape
    return float(columns[0]) / w, float(rows[0]) / h, float(columns[-1] + 1) / w, float(rows[-1] + 1) / h


def at(found: Found, box: Box) -> bool:
    x, y = found.centre
    overlap = float(box_iou(torch.tensor([found.box]), torch.tensor([box]))[0])
    return box[0] <= x <= box[2] and box[1] <= y <= box[3] and overlap >= LEAST_IOU


class PictureMaker:
    """FlexEControl, and the judge that reads its pictures."""

    def __init__(self, count: int):
        self.pipe = AutoWMPipeline.from_pretrained(embedded("flexecontrol"))
        self.pipe.set_progress_bar_config(disable=True)
        self.judge = DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()
        self.data = DioramaDataset(split="test", length=20 * count, num_objects=1, name="conflicting-controls")

    def case(self, index: int, strength: float) -> tuple[Condition, SceneGraph, Box, Box, str]:
        """Edges bound to the phrase, the graph that says the other side, both boxes, the colour."""
        scene = self.data.scene(index)
        truth = render([scene], maps=("rgb", "ids"))
        mask, thing, words = truth.ids[0, 0] > 0, scene.objects[0], caption(scene, "objects", relations=False)
        here = bounds(mask)
        other = (1 - here[2], here[1], 1 - here[0], here[3])
        phrase = f"{thing.colour} {thing.shape}"
        if phrase not in words.text:
            raise ValueError(f"the caption {words.text!r} does not say {phrase!r}")
        region = torch.nn.functional.max_pool2d(mask[None].float(), 5, 1, 2)
        edges = Condition("canny", extract("canny", truth.rgb[0, 0]), region=region, phrase=phrase, strength=strength)
        return edges, SceneGraph((Node(1, thing.shape, (thing.colour,), box=other),)), here, other, thing.colour

    def make(self, strength: float, index: int) -> dict[str, Any]:
        """The row of a scene; one at a time, since the pipeline reports the conflicts of a batch together."""
        edges, graph, here, other, colour = self.case(index, strength)
        out = self.pipe(
            conditions=[edges],
            scene_graph=graph,
            generator=torch.Generator().manual_seed(index),
            output_attention=False,
            output_type="pt",
        )
        own = [f for f in look(self.judge, out.images)[0] if f.colour == colour]
        places = [any(at(f, box) for f in own) for box in (here, other)]
        start, end = (other[0] + other[2]) / 2, (here[0] + here[2]) / 2
        won = {(True, True): "both", (True, False): "edges", (False, True): "graph", (False, False): "neither"}
        return {
            "part": "pictures",
            "strength": strength,
            "case": index,
            "position": (own[0].centre[0] - start) / (end - start) if own else float("nan"),
            "won": won[tuple(places)],
            "called": next(
                ("both" if c.winner == "both" else "edges" for c in out.conflicts if c.kind == "graph_place"), None
            ),
        }


def report(rows: list[dict[str, Any]], out: Path) -> None:
    """Prints and writes one summary for each part and strength, and draws the curves."""
    found = []
    for part, sides in (("clips", ("words", "boxes", "neither")), ("pictures", ("graph", "edges", "both", "neither"))):
        for strength in STRENGTHS:
            own = [r for r in rows if r["part"] == part and r["strength"] == strength]
            if not own:
                continue
            position = np.array([r["position"] for r in own])
            right = [r["called"] == r["won"] for r in own if r["called"]]
            row = {"kind": "summary", "part": part, "strength": strength, "n": len(own)}
            row |= {side: round(float(np.mean([r["won"] == side for r in own])), 3) for side in sides}
            row |= {"position": round(float(np.nanmean(position)), 3), "position_ci95": mean_interval(position)}
            row |= {"called": len(right), "right": round(float(np.mean(right)), 3) if right else None}
            found.append(row)
            print({k: v for k, v in row.items() if k != "kind"})
    write(out.with_name(f"{out.stem}_summary.jsonl"), [*found])
    plot(found, out.with_suffix(".png"))


def plot(found: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    names = {
        "clips": ("strength of the boxes", "way gone along the boxes", "words against boxes"),
        "pictures": ("strength of the edges", "place: graph 0, edges 1", "edges against graph"),
    }
    for axis, (part, (x, y, title)) in zip(axes, names.items(), strict=True):
        own = [r for r in found if r["part"] == part]
        if not own:
            continue
        at, mean = [r["strength"] for r in own], [r["position"] for r in own]
        low, high = zip(*(r["position_ci95"] for r in own), strict=True)
        axis.plot(at, mean, "o-", color="#1f6f8b")
        axis.fill_between(at, low, high, color="#1f6f8b", alpha=0.2, linewidth=0)
        axis.set(xlabel=x, ylabel=y, title=title, xticks=STRENGTHS)
        axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        axis.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    with atomic(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("clips", "pictures"), help="default: both")
    parser.add_argument("--clips", type=int, default=32, help="prompts")
    parser.add_argument("--pictures", type=int, default=100, help="scenes")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS / "conflicting_controls.jsonl")
    parser.add_argument("--report", action="store_true", help="only report on the rows that are there")
    args = parser.parse_args(argv)
    rows = read(args.out)
    for part in () if args.report else ("pictures", "clips") if args.part is None else (args.part,):
        name = {"clips": "diorama-video", "pictures": "flexecontrol"}[part]
        config = WMConfig.load(embedded(name))
        where = {"checkpoint": fingerprint(config)}
        check_rows([r for r in rows if r["part"] == part], where, args.out)
        done = {(r["strength"], r["case"]) for r in rows if r["part"] == part}
        if part == "clips":
            maker, cases = ClipMaker(None), list(range(args.clips))
            eta = made_by(None)["guidance"]["eta"]
        else:
            maker, cases = PictureMaker(args.pictures), picture_scenes(args.pictures)
        for strength in STRENGTHS:
            left = [c for c in cases if (strength, c) not in done]
            for start in range(0, len(left), args.batch):
                some = left[start : start + args.batch]
                made = (
                    clips(maker, strength, some, eta) if part == "clips" else [maker.make(strength, c) for c in some]
                )
                for row in made:
                    append(args.out, row | where | environment())
                    rows.append(row)
            print(f"{part}, strength {strength}: done", flush=True)
    report(rows, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
