"""Discffusion on diorama-sd, without training or with: does it tell what is true from a foil, and whom does it beat?

    python benchmarks/discffusion_diorama.py --work runs/dd                # all parts; stop and start at will
    python benchmarks/discffusion_diorama.py --work runs/dd --parts foils  # one of them
    python benchmarks/discffusion_diorama.py --work runs/dd --report       # only the report
    python benchmarks/discffusion_diorama.py --work runs/da --parts foils,best --adapter FOLDER

    foils  300 test scenes of two objects; a foil has another subject or object, the objects in each other's places
           (relation) or their colours exchanged (swap). The picture is chosen for the true caption, and the caption
           for the true picture, by A_t (lse), B_t (dc), their sum, Diffusion Classifier (minus the mean square error,
           all from the same passes) and diorama-clip, at n = 1, 5, 10 and 20 timesteps of the authors' table. A tie is
           wrong. Each timestep by itself too, and weights of the timesteps, fitted on one half of the scenes (mean
           margin over its variance) and tried on the other.
    own    the same with pictures that the base itself made of the captions: the same-generator control.
    race   8 captions of a picture, 49 timesteps: does successive elimination find the winner of the full run, and for
           how many passes?
    best   8 pictures of one prompt and one edge map from FlexEControl; diorama-judge says which obey the prompt. How
           often does the one obey that Discffusion, Diffusion Classifier, CLIP or chance keeps?

Arrays of every scene stay in --work; the report's rows go to --out. A scene costs about 300 passes of the UNet in
"foils" (4 to 6 core-seconds), 441 in "race".
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import every_nth
from comclip_diorama import trials
from records import RESULTS, append, environment, mean_interval, read, write

from wm_pipelines import hub
from wm_pipelines.clip.parts import load_clip, preprocess
from wm_pipelines.clip.towers import encode_images, encode_texts
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.metrics import look, obedience
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.render import render
from wm_pipelines.discffusion.pipeline import DiscffusionPipeline
from wm_pipelines.discffusion.ranking import run_race
from wm_pipelines.discffusion.timesteps import released_timesteps
from wm_pipelines.evaluation.statistics import mcnemar
from wm_pipelines.hub.stock import load_model
from wm_pipelines.media.conditions import extract
from wm_pipelines.text.phrasing import with_article

FOILS = ("subject", "object", "relation", "swap")
ARMS = ("lse", "dc", "lse+dc", "diffusion classifier", "clip")
COUNTS = (1, 5, 10, 20)  # tables of which each is a part of the next
SIDES = ("picture", "caption")
PICTURES, RACE_STEPS = 8, 50
SIZES = {"foils": 300, "own": 100, "race": 500, "best": 60}


def named(thing: Any) -> str:
    return with_article(f"{thing.colour} {thing.shape}")


class Item:
    """A caption with its picture, and a foil of both for each kind."""

    def __init__(self, caption: str, scene: Any, made: dict[str, Any]):
        a, b = scene.objects
        relation = caption.removeprefix(f"{named(a)} ").removesuffix(f" {named(b)}")
        self.caption, self.scenes = caption, [scene, *(made["verb" if f == "relation" else f] for f in FOILS)]
        self.foils = []
        for foil in FOILS:
            first, second = made["verb" if foil == "relation" else foil].objects
            said = [named(o) for o in (first, second)]
            self.foils.append(f" {relation} ".join(said[::-1] if foil == "relation" else said))

    def pictures(self) -> torch.Tensor:
        """`(5, 3, H, W)`: the true one, then the foils."""
        return render(self.scenes, size=64, maps=("rgb",)).rgb[:, 0]

    def generated(self, base: Any, number: int) -> torch.Tensor:
        """The same, made by the base from the captions."""
        made = base(
            [self.caption, *self.foils],
            num_inference_steps=25,
            guidance_scale=4.0,
            output_type="pt",
            generator=[torch.Generator().manual_seed(5 * number + n) for n in range(5)],
        )
        return made.images.float()


class Judges:
    """Discffusion on a base, and CLIP."""

    def __init__(self, base: str, clip: str, adapter: Path | None):
        self.base = str(hub.resolve(base))
        self.pipe = DiscffusionPipeline.from_pretrained(self.base)
        if adapter is not None:
            self.pipe.load_adapter(adapter)
        self.pipe.set_progress_bar_config(disable=True)
        self.clip = load_clip(hub.resolve(clip))

    def cosines(self, pictures: torch.Tensor, texts: list[str]) -> np.ndarray:
        """`(pictures, texts)`."""
        with torch.no_grad():
            seen = encode_images(self.clip["clip"], preprocess(self.clip["image_processor"], list(pictures)))
            said = encode_texts(self.clip["clip"], self.clip["tokenizer"], texts)
        return (seen.double() @ said.double().T).numpy()

    def generator(self) -> Any:
        from diffusers import StableDiffusionPipeline

        made = StableDiffusionPipeline.from_pretrained(self.base)
        made.set_progress_bar_config(disable=True)
        return made


def measure_foils(judges: Judges, item: Item, pictures: torch.Tensor) -> dict[str, Any]:
    """Readings at all timesteps `(3, n, 5)` of five pictures of the caption, and of five captions of the picture."""
    shown = judges.pipe(list(pictures), item.caption, timesteps=COUNTS[-1])
    told = judges.pipe(pictures[0], item.foils, timesteps=COUNTS[-1])
    captions = torch.cat([shown.steps[:, :, :1], told.steps], 2)
    clip = judges.cosines(pictures, [item.caption, *item.foils])
    return {
        "picture": _kept(shown.steps), "caption": _kept(captions), "timesteps": shown.timesteps,
        "clip": {"picture": clip[:, 0].tolist(), "caption": clip[0].tolist()},
        "forwards": shown.forwards + told.forwards,
    }  # fmt: skip


def measure_race(judges: Judges, item: Item) -> dict[str, Any]:
    """Score of eight captions of one picture at each of 49 timesteps."""
    a, b = item.scenes[0].objects
    more = [with_article(f"{a.colour} {b.shape}"), named(b), named(a)]
    texts = [item.caption, *item.foils, *more][:8]
    out = judges.pipe(item.pictures()[0], texts, timesteps=RACE_STEPS)
    return {"steps": _kept(out.steps), "forwards": out.forwards}


def measure_best(judges: Judges, item: Item, flex: Any, judge: DioramaJudge, number: int) -> dict[str, Any]:
    """Eight pictures of a prompt under its scene's edges: whether each obeys, and what each judge thinks of it."""
    from wm_pipelines.flexecontrol.conditions.condition import Condition

    edges = Condition("canny", extract("canny", item.pictures()[:1])[0])
    made = flex(
        item.caption,
        conditions=edges,
        num_images_per_prompt=PICTURES,
        generator=[torch.Generator().manual_seed(PICTURES * number + n) for n in range(PICTURES)],
        output_type="pt",
        on_conflict="ignore",
    ).images.float()
    parsed = parse_caption(item.caption)
    read_as = [obedience(parsed.objects, found, parsed.relations) for found in look(judge, made)]
    out = judges.pipe(list(made), item.caption, timesteps=10)
    return {
        "obeys": [float(o["all"] == 1 and o["relations"] == 1) for o in read_as],
        "picture": _kept(out.steps), "clip": {"picture": judges.cosines(made, [item.caption])[:, 0].tolist()},
        "forwards": out.forwards,
    }  # fmt: skip


def _kept(steps: torch.Tensor) -> list:
    return [[[round(float(v), 6) for v in row] for row in part] for part in steps]


def arms_of(row: dict[str, Any], side: str, chosen: list[int]) -> dict[str, np.ndarray]:
    """Score of each candidate by each arm, over the chosen timesteps."""
    lse, dc, error = np.array(row[side])[:, chosen].mean(1)
    found = {"lse": lse, "dc": dc, "lse+dc": lse + dc, "diffusion classifier": -error}
    return found | {"clip": np.array(row["clip"][side])}


def right_by_arm(rows: list[dict[str, Any]], side: str, foil: int, n: int) -> dict[str, np.ndarray]:
    """Whether each arm prefers what is true to the foil, `(scenes,)`."""
    table = rows[0]["timesteps"]
    chosen = [table.index(t) for t in released_timesteps(n)]
    scores = [arms_of(row, side, chosen) for row in rows]
    return {arm: np.array([float(s[arm][0] > s[arm][1 + foil]) for s in scores]) for arm in ARMS}


def report_foils(part: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracies by side, foil and n, with paired tests against the two others; curves over timesteps."""
    found = []
    for side in SIDES:
        for f, foil in enumerate(FOILS):
            for n in COUNTS:
                right = right_by_arm(rows, side, f, n)
                row = {"kind": "accuracy", "part": part, "side": side, "foil": foil, "timesteps": n, "n": len(rows)}
                row["accuracy"] = {arm: round(float(v.mean()), 4) for arm, v in right.items()}
                row["ci95"] = {arm: mean_interval(v) for arm, v in right.items()}
                row["p"] = {
                    f"{arm} against {other}": round(mcnemar(right[arm], right[other]).p, 5)
                    for arm in ("lse", "lse+dc") for other in ("diffusion classifier", "clip")
                }  # fmt: skip
                found.append(row)
                if n == COUNTS[-1]:
                    line = ", ".join(f"{arm} {100 * row['accuracy'][arm]:.0f}" for arm in ARMS)
                    print(f"{part}, {side}, {foil} (n = {n}): {line}")
        found.append({"kind": "curve", "part": part, "side": side, **curve(rows, side)})
    return found


def curve(rows: list[dict[str, Any]], side: str) -> dict[str, Any]:
    """Accuracy of each timestep alone, and what weights of the timesteps are worth, over all foils together."""
    margins = np.array([np.array(row[side])[:, :, :1] - np.array(row[side])[:, :, 1:] for row in rows])
    parts = {"lse": margins[:, 0], "dc": margins[:, 1], "diffusion classifier": -margins[:, 2]}
    found: dict[str, Any] = {"timesteps": rows[0]["timesteps"], "alone": {}, "weights": {}, "held_out": {}}
    first, second = np.arange(len(rows)) % 2 == 0, np.arange(len(rows)) % 2 == 1
    for name, margin in parts.items():
        found["alone"][name] = [round(float(v), 4) for v in (margin > 0).mean((0, 2))]
        fitted = margin[first].mean((0, 2)) / (margin[first].var((0, 2)) + 1e-12)
        fitted = fitted.clip(0) / max(float(fitted.clip(0).sum()), 1e-12)
        found["weights"][name] = [round(float(w), 5) for w in fitted]
        weighed = np.einsum("skf,k->sf", margin[second], fitted)
        found["held_out"][name] = {
            "even": round(float((margin[second].mean(1) > 0).mean()), 4),
            "weighed": round(float((weighed > 0).mean()), 4), "scenes": int(second.sum()),
        }  # fmt: skip
    return found


def report_race(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The elimination replayed on the full run's scores."""
    found = []
    for arm in ("lse", "dc", "lse+dc"):
        same, passes = [], []
        for row in rows:
            lse, dc, _ = np.array(row["steps"])
            scores = {"lse": lse, "dc": dc, "lse+dc": lse + dc}[arm]
            race = run_race(lambda k, left, s=scores: s[k, left], *scores.shape)
            same.append(float(race.order[0] == int(scores.mean(0).argmax())))
            passes.append(race.seen.sum() + race.seen.max())  # those of the empty caption too
        full = scores.shape[0] * (scores.shape[1] + 1)
        share = float(np.mean(passes)) / full
        met = bool(np.mean(same) >= 0.99 and share <= 0.5)
        found.append(
            {
                "kind": "elimination", "part": "race", "arm": arm, "n": len(rows),
                "same": round(float(np.mean(same)), 4), "passes": round(share, 4), "full": full,
                "wanted": {"same": 0.99, "passes": 0.5}, "met": met,
            }
        )  # fmt: skip
        print(f"race, {arm}: same winner in {np.mean(same):.1%} of {len(rows)}, {share:.0%} of {full} passes")
    return found


def report_best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    obeys = np.array([row["obeys"] for row in rows])
    kept: dict[str, np.ndarray] = {"chance": obeys.mean(1), "any of the eight": obeys.max(1)}
    for arm in ARMS:
        picks = [int(arms_of(row, "picture", list(range(10)))[arm].argmax()) for row in rows]
        kept[arm] = obeys[np.arange(len(rows)), picks]
    row = {"kind": "best of 8", "part": "best", "n": len(rows)}
    row["obeys"] = {arm: round(float(v.mean()), 4) for arm, v in kept.items()}
    row["ci95"] = {arm: mean_interval(v) for arm, v in kept.items()}
    row["rise"] = {arm: mean_interval(kept[arm] - kept["chance"]) for arm in ARMS}
    row["helps"] = {arm: row["rise"][arm][0] > 0 for arm in ARMS}
    print("best of 8: " + ", ".join(f"{arm} {100 * v:.0f}" for arm, v in row["obeys"].items()))
    return [row]


def measure(part: str, args: argparse.Namespace, sizes: dict[str, int], judges: Judges) -> None:
    """The scenes of one part that are not there yet."""
    path = args.work / f"{part}.jsonl"
    done = {row["scene"] for row in read(path)}
    cells = [(n,) for n in range(sizes[part])]
    left = [n for (n,) in every_nth(cells, args.shard) if n not in done]
    if not left:
        return
    items = [Item(*trial) for trial in trials(sizes[part])]
    flex = judge = base = None
    if part == "best":
        from wm_pipelines.flexecontrol.run import load

        flex, judge = load(control=args.control), load_model(DioramaJudge, hub.embedded("diorama-judge")).eval()
        flex.set_progress_bar_config(disable=True)
    if part == "own":
        base = judges.generator()
    for n in left:
        if part == "race":
            row = measure_race(judges, items[n])
        elif part == "best":
            row = measure_best(judges, items[n], flex, judge, n)
        else:
            pictures = items[n].pictures() if part == "foils" else items[n].generated(base, n)
            row = measure_foils(judges, items[n], pictures)
        append(path, {"scene": n, "part": part, **row})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the arrays of every scene")
    parser.add_argument("--base", default="diorama-sd", help="embedded name or folder of the judge's base")
    parser.add_argument("--adapter", type=Path, help="checkpoint of `wm train discffusion` on that base")
    parser.add_argument("--clip", default="diorama-clip", help="embedded name or folder")
    parser.add_argument("--control", default="flexecontrol", help="FlexEControl adapter for the part best")
    parser.add_argument("--parts", default=",".join(SIZES))
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th scene, from i")
    parser.add_argument("--out", type=Path, default=RESULTS / "discffusion_diorama.jsonl")
    parser.add_argument("--report", action="store_true", help="only report on the scenes that are there")
    parser.add_argument("--smoke", action="store_true", help="two scenes of each part")
    args = parser.parse_args(argv)
    sizes = dict.fromkeys(SIZES, 2) if args.smoke else SIZES
    parts = args.parts.split(",")
    unknown = [part for part in parts if part not in SIZES]
    if unknown:
        parser.error(f"--parts: unknown {unknown[0]!r}; there are {', '.join(SIZES)}")
    if not args.report:
        judges = Judges(args.base, args.clip, args.adapter)
        for part in parts:
            measure(part, args, sizes, judges)
    rows: list[dict[str, Any]] = []
    for part in parts:
        found = sorted(read(args.work / f"{part}.jsonl"), key=lambda row: row["scene"])
        if len(found) < 2:
            continue
        makers = {"race": report_race, "best": report_best}
        rows += makers[part](found) if part in makers else report_foils(part, found)
    if rows:
        about = {"base": args.base, "adapter": args.adapter is not None, **environment()}
        write(args.out, [{**row, **about} for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
