"""Does diorama-sd draw what the prompt names? 500 prompts each of one and two objects, seen pairs and held-out pairs,
read by diorama-judge; the same reading of ground-truth renders beside it as the ceiling.

    python benchmarks/diorama_sd.py --out benchmarks/results/diorama_sd.jsonl
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from records import mean_interval

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.metrics import look, obedience
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.render import render
from wm_pipelines.hub import embedded
from wm_pipelines.runtime.random import keyed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", default=None, help="folder of the base; default: the embedded diorama-sd")
    parser.add_argument("--judge", default=None)
    parser.add_argument("--split", choices=("test", "val"), default="test", help="val while a base is still chosen")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--out", default=None)
    parser.add_argument("--pictures", default=None)
    args = parser.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(args.base or embedded("diorama-sd"))
    pipeline.set_progress_bar_config(disable=True)
    judge = DioramaJudge.from_pretrained(args.judge or embedded("diorama-judge"))
    for composition in ("iid", "held_out"):
        for count in (1, 2):
            data = DioramaDataset(split=args.split, composition=composition, length=args.prompts, num_objects=count)
            scenes = [data.scene(i) for i in range(args.prompts)]
            words = [caption(s, "objects", seed=i, relations=True).text for i, s in enumerate(scenes)]
            truth = torch.cat([render(scenes[i : i + 64], maps=("rgb",)).rgb[:, 0] for i in range(0, len(scenes), 64)])
            start, pictures = time.time(), []
            for i in range(0, len(words), args.batch):
                latents = torch.stack(
                    [
                        torch.from_numpy(keyed("diorama_sd", count, composition, i + j).standard_normal((4, 16, 16)))
                        for j in range(len(words[i : i + args.batch]))
                    ]
                ).float()
                pictures.append(
                    pipeline(
                        words[i : i + args.batch],
                        num_inference_steps=args.steps,
                        guidance_scale=args.guidance,
                        latents=latents,
                        height=64,
                        width=64,
                        output_type="pt",
                    ).images
                )
            pictures = torch.cat(pictures)
            if args.pictures:
                from wm_pipelines.media.pictures import image_grid, save_image

                save_image(image_grid(list(pictures[:48]), 12), Path(args.pictures) / f"{composition}_{count}.png")
                print("\n".join(words[:12]))
            for source, images in (("samples", pictures), ("renders", truth)):
                parsed = [parse_caption(w) for w in words]
                scores = [
                    obedience(p.objects, f, p.relations) for p, f in zip(parsed, look(judge, images), strict=True)
                ]
                row = {
                    "benchmark": "diorama_sd",
                    "source": source,
                    "composition": composition,
                    "objects": count,
                    "n": len(scores),
                    "steps": args.steps,
                    "guidance": args.guidance,
                    "seconds": round(time.time() - start, 1),
                }
                for key in scores[0]:
                    values = np.array([s[key] for s in scores])
                    if not np.isnan(values).all():
                        row[key] = round(float(np.nanmean(values)), 4)
                        row[f"{key}_ci95"] = mean_interval(values)
                if source == "samples":
                    row["evaluation"] = [
                        {
                            "task": "text-to-image",
                            "dataset": f"Diorama {args.split}, {composition}, {count} object(s)",
                            "metric": key,
                            "value": row[key],
                            "ci95": row[f"{key}_ci95"],
                            "n": len(scores),
                            "seeds": [0],
                            "command": "python benchmarks/diorama_sd.py",
                        }
                        for key in scores[0]
                        if key in row
                    ]
                print(json.dumps({k: v for k, v in row.items() if k != "evaluation"}), flush=True)
                if args.out:
                    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
                    with open(args.out, "a") as file:
                        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
