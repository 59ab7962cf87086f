"""ComCLIP on diorama-clip: foils of the miniature world with its exact boxes, once; and the embedded record `comclip`.

    python benchmarks/comclip_diorama.py                   # figures only: results/comclip_diorama.jsonl
    python benchmarks/comclip_diorama.py --checkpoint      # also writes wm_pipelines/embedded/comclip and its page

Scenes are test scenes of two plain objects of different colours and shapes with a clear relation. A foil has another
subject or object, the two objects in each other's places (verb), or the colours exchanged (swap). There is one base,
so the intervals tell of scenes, not of other bases: comclip_micro.py trains one for each seed.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from comclip_foils import FOILS, NAMES, RULES, decide
from records import RESULTS, environment, figure_text, summary, write

from wm_pipelines import hub
from wm_pipelines.comclip.pipeline import ComCLIPPipeline
from wm_pipelines.config import CONFIG_NAME, EvaluationRecord, WMConfig
from wm_pipelines.diorama.boxes import diorama_boxes
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, SHAPES, Scene, clear_relations
from wm_pipelines.hub.cards import write_card
from wm_pipelines.runtime.files import write_atomic
from wm_pipelines.runtime.random import keyed
from wm_pipelines.text.phrasing import with_article

COMMAND = "python benchmarks/comclip_diorama.py"
SIZE = 64


def trials(count: int) -> list[tuple[str, Scene, dict[str, Scene]]]:
    """Captions, the scenes they are true of, and those they are false of by foil."""
    data = DioramaDataset(split="test", length=1 << 20, num_objects=2, patterns=("plain",), name="comclip")
    found, index = [], 0
    while len(found) < count:
        scene = data.scene(index)
        made = _trial(scene, index)
        index += 1
        if made is not None:
            found.append(made)
    return found


def _trial(scene: Scene, index: int) -> tuple[str, Scene, dict[str, Scene]] | None:
    """None where the two things are alike in a word or nothing is clear about where they stand."""
    a, b = scene.objects
    said = sorted(predicate for predicate, subject, _ in clear_relations(scene) if subject == a.id)
    if a.colour == b.colour or a.shape == b.shape or not said:
        return None
    rng = keyed("comclip diorama", index)
    relation = said[rng.integers(len(said))]
    kinds = {(a.colour, a.shape), (b.colour, b.shape)}
    others = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in kinds]
    changed = [others[n] for n in rng.integers(len(others), size=2)]

    def scene_of(first: dict[str, Any], second: dict[str, Any]) -> Scene:
        pair = (dataclasses.replace(a, **first), dataclasses.replace(b, **second))
        return dataclasses.replace(scene, objects=pair)

    made = {
        "subject": scene_of({"colour": changed[0][0], "shape": changed[0][1]}, {}),
        "object": scene_of({}, {"colour": changed[1][0], "shape": changed[1][1]}),
        "verb": scene_of({"position": b.position}, {"position": a.position}),
        "swap": scene_of({"colour": b.colour}, {"colour": a.colour}),
    }
    if (relation, a.id, b.id) in clear_relations(made["verb"]):
        return None
    first, second = (with_article(f"{o.colour} {o.shape}") for o in (a, b))
    return f"{first} {relation} {second}", scene, made


def pictures_of(scenes: list[Scene]) -> Any:
    return render(scenes, size=SIZE, maps=("rgb",)).rgb[:, 0]


def measure(pipeline: ComCLIPPipeline, count: int) -> list[dict[str, Any]]:
    """Rows of figures: accuracy of every rule on every foil, with its interval over scenes."""
    listed = trials(count)
    captions, true = [caption for caption, _, _ in listed], [scene for _, scene, _ in listed]
    shown, own, rows = pictures_of(true), [diorama_boxes(scene, size=SIZE) for scene in true], []
    for foil in FOILS:
        false = [made[foil] for _, _, made in listed]
        right, cost = decide(
            pipeline, captions, shown, pictures_of(false), own, [diorama_boxes(s, size=SIZE) for s in false]
        )
        for rule in NAMES:
            values = 100 * np.array([right[rule]])
            figure = summary(values, 10_000)
            gap = summary(values - 100 * np.array([right["global"]]), 10_000) if rule != "global" else None
            entry = {
                "task": "choosing the true picture", "dataset": f"Diorama test scenes, {foil} foils, exact boxes",
                "metric": f"accuracy, {NAMES[rule]}", "value": round(figure["value"] / 100, 4),
                "ci95": [round(figure["low"] / 100, 4), round(figure["high"] / 100, 4)], "n": count, "seeds": [0],
                "baseline": round(float(np.mean(right["global"])), 4), "command": COMMAND,
            }  # fmt: skip
            kept = [entry] if rule in ("released", "blank") else []
            rows.append(
                {
                    "benchmark": "comclip_diorama", "foil": foil, "rule": rule, "trials": count, "figure": figure,
                    "difference": gap, "cost": cost, "evaluation": kept,
                }
            )  # fmt: skip
            print(f"{foil:<8}{NAMES[rule]:<46}{figure_text(figure)}" + (f"  {figure_text(gap)}" if gap else ""))
    return rows


def ship(pipeline: ComCLIPPipeline, base: str, rows: list[dict[str, Any]]) -> None:
    """Write the embedded record, its card, and its page under model_cards/; the weights are the base's."""
    out, page = hub.EMBEDDED_ROOT / "comclip", Path(__file__).parents[1] / "model_cards" / "comclip"
    pipeline.save_record(out, base)
    entries = [EvaluationRecord(**entry) for row in rows for entry in row["evaluation"]]
    hub.seal(out, WMConfig.load(out).model_copy(update={"evaluation": entries}))
    write_card(out)
    page.mkdir(parents=True, exist_ok=True)
    for name in ("README.md", CONFIG_NAME):
        write_atomic(page / name, (out / name).read_text(encoding="utf-8"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="diorama-clip", help="embedded name, folder or Hub id")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS / "comclip_diorama.jsonl")
    parser.add_argument("--checkpoint", action="store_true")
    args = parser.parse_args(argv)
    pipeline = ComCLIPPipeline.from_matcher(args.base)
    print(
        f"{len(RULES)} rules, {args.trials} scenes; accuracy in per cent, then the difference to global CLIP in points"
    )
    rows = [{**row, **environment()} for row in measure(pipeline, args.trials)]
    write(args.out, rows)
    if args.checkpoint:
        ship(pipeline, args.base, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
