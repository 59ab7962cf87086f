"""How well the embedded adapter is obeyed: test scenes of two objects under one kind of condition at a time, edge
maps split by object and bound to their phrases, with and without binding in the attention.

    python benchmarks/flexecontrol_embedded.py --out benchmarks/results/flexecontrol_embedded.jsonl
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from records import append, environment, mean_interval

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.render import render
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.metrics import edge_f1, objects_obeyed
from wm_pipelines.flexecontrol.run import load
from wm_pipelines.flexecontrol.training.augmentation import widen
from wm_pipelines.hub import embedded
from wm_pipelines.media.conditions import depth_to_map, extract, seg_from_ids

KINDS = ("none", "canny", "lines", "softedge", "sketch", "depth", "seg", "canny on phrases", "seg on phrases")


def conditions_of(kind: str, rgb, ids, depth, words) -> list[Condition]:
    name, _, split = kind.partition(" ")
    if name == "none":
        return []
    image = {"depth": lambda: depth_to_map(depth), "seg": lambda: seg_from_ids(ids)}.get(
        name, lambda: extract(name, rgb)
    )()
    if not split:
        return [Condition(name, image)]
    return [
        Condition(name, image, region=widen((ids == i)[None].float()), phrase=words.text[slice(*span)], span=span)
        for i, span in words.spans.items()
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--control", default="flexecontrol")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    pipeline = load(control=args.control)
    pipeline.set_progress_bar_config(disable=True)
    judge = DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()
    data = DioramaDataset(split="test", length=args.scenes, num_objects=2, same_shape=True, name="flexecontrol-test")
    scenes = [data.scene(i) for i in range(args.scenes)]
    truth = render(scenes, maps=("rgb", "ids", "depth"))
    rgb, ids, depth = truth.rgb[:, 0], truth.ids[:, 0], truth.depth[:, 0]
    words = [caption(s, "objects", seed=i, relations=False) for i, s in enumerate(scenes)]
    edges = extract("canny", rgb)
    for kind in KINDS:
        given = [conditions_of(kind, *parts) for parts in zip(rgb, ids, depth, words, strict=True)]
        for binding in ("attention", "none") if "phrases" in kind else ("none",):
            pictures = []
            for start in range(0, len(scenes), args.batch):
                at = range(start, min(start + args.batch, len(scenes)))
                pictures.append(
                    pipeline(
                        [words[i].text for i in at],
                        conditions=[given[i] for i in at] if any(given) else None,
                        num_inference_steps=args.steps,
                        guidance_scale=args.guidance,
                        generator=[torch.Generator().manual_seed(i) for i in at],
                        binding=binding,
                        on_conflict="ignore",
                        output_attention=False,
                        output_type="pt",
                    ).images
                )
            pictures = torch.cat(pictures)
            rows = objects_obeyed(judge, pictures, ids, scenes)
            scores = {
                "edge_f1": edge_f1(pictures, edges).numpy(),
                "miou": np.array([np.mean([o["iou"] for o in row]) for row in rows]),
                "binding": np.array([np.mean([o["bound"] for o in row]) for row in rows]),
            }
            row = {"benchmark": "flexecontrol_embedded", "condition": kind, "binding_in": binding, "n": len(scenes)}
            row |= {k: round(float(np.nanmean(v)), 4) for k, v in scores.items()}
            row |= {f"{k}_ci95": mean_interval(v) for k, v in scores.items()}
            row["evaluation"] = [
                {
                    "task": "controlled text-to-image",
                    "dataset": f"Diorama test, two objects of one shape, {kind}, binding={binding}",
                    "metric": key,
                    "value": row[key],
                    "ci95": row[f"{key}_ci95"],
                    "n": len(scenes),
                    "seeds": [0],
                    "command": "python benchmarks/flexecontrol_embedded.py",
                }
                for key in scores
            ]
            print(json.dumps({k: v for k, v in row.items() if k != "evaluation"}), flush=True)
            if args.out:
                append(args.out, row | environment())


if __name__ == "__main__":
    main()
