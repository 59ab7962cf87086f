"""What diorama-tokens keeps of a picture: the gate before anything is trained on its codes.

    python benchmarks/diorama_tokens.py --tokens runs/tokens/export --out benchmarks/results/diorama_tokens.jsonl

diorama-judge reads each test picture and its reconstruction. A reconstruction agrees if the same colours with the same
shapes are seen in both. The gate: 97 % agree, and 95 % of the centroids of those lie within one pixel.

Beside it, for what is trained on pairs: of the places in which no pixel of a pair differs, how many keep their code,
and in how many the reconstructions hardly differ. A code sees beyond its place, and normalisation over the picture
lets a change anywhere move it; what flips for no reason can't be copied by a world model.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import VQModel
from records import append, environment

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.metrics import look, matched
from wm_pipelines.evaluation.statistics import wilson
from wm_pipelines.hub import embedded
from wm_pipelines.hub.stock import load_model
from wm_pipelines.tokens.pictures import PictureTokens

BARS = {"agree": 0.97, "centroid_95": 1.0}
STILL = 0.03  # mean difference of a channel below which two places look alike
SETS = {"seen pairs": "iid", "held-out pairs": "held_out"}


def measure(tokens: PictureTokens, judge: DioramaJudge, composition: str, count: int, batch: int = 50) -> dict:
    """Figures over `count` first states of test pairs and as many second ones: agreement, centroids in pixels, error
    of the pixels in [0, 1], how many codes are used and how even."""
    pairs = DioramaDataset(kind="pairs", split="test", composition=composition, length=count)
    agree, away, errors, seen = [], [], [], torch.zeros(tokens.num_codes)
    kept: list[torch.Tensor] = []
    alike: list[torch.Tensor] = []
    for start in range(0, count, batch):
        pictures = torch.cat([pairs[i]["rgb"] for i in range(start, min(count, start + batch))])
        codes = tokens.encode(pictures)
        with torch.no_grad():
            again = tokens.decode(codes)
        seen += torch.bincount(codes.flatten(), minlength=tokens.num_codes)
        rest = cells((pictures[::2] - pictures[1::2]).abs().amax(1), tokens.factor, torch.amax) == 0
        kept.append((codes[::2] == codes[1::2])[rest])
        redrawn = cells((again[::2] - again[1::2]).abs().mean(1), tokens.factor, torch.mean)
        alike.append((redrawn < STILL)[rest])
        errors += (again - pictures).abs().mean((1, 2, 3)).tolist()
        for found, wanted in zip(look(judge, again), look(judge, pictures), strict=True):
            couples = matched(found, wanted)
            agree.append(couples is not None)
            away += [math.dist(a.centre, b.centre) * pictures.shape[-1] for a, b in couples or []]
    shares = seen[seen > 0] / seen.sum()
    return {
        "agree": float(np.mean(agree)),
        "ci95": [round(float(v), 4) for v in wilson(sum(agree), len(agree))],
        "n": len(agree),
        "centroid_mean": float(np.mean(away)) if away else float("nan"),
        "centroid_95": float(np.quantile(away, 0.95)) if away else float("nan"),
        "l1": float(np.mean(errors)),
        "codes_kept": float(torch.cat(kept).float().mean()),
        "redrawn_alike": float(torch.cat(alike).float().mean()),
        "codes_used": int((seen > 0).sum()),
        "perplexity": float((-(shares * shares.log()).sum()).exp()),
    }


def cells(values: torch.Tensor, side: int, of: Callable) -> torch.Tensor:
    """`of` the pixels of each place: `(N, H, W)` to `(N, H / side, W / side)`."""
    rows, columns = (size // side for size in values.shape[1:])
    return of(values.reshape(len(values), rows, side, columns, side), dim=(2, 4))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, help="folder; default: embedded diorama-tokens")
    parser.add_argument("--pairs", type=int, default=250, help="of each set; both states of each are read")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    folder = args.tokens or embedded("diorama-tokens")
    tokens = PictureTokens(load_model(VQModel, folder).eval())
    judge = DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()
    size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    for name, composition in SETS.items():
        scores = measure(tokens, judge, composition, args.pairs)
        row = {"benchmark": "diorama_tokens", "set": name, "bytes": size, "codes": tokens.num_codes,
               "factor": tokens.factor, **scores, "bars": BARS}  # fmt: skip
        if composition == "iid":
            row["holds"] = scores["agree"] >= BARS["agree"] and scores["centroid_95"] <= BARS["centroid_95"]
        row["evaluation"] = [
            {
                "task": "reconstruction",
                "dataset": f"Diorama test pairs, {name}",
                "metric": "judge reads the same",
                "value": round(scores["agree"], 4),
                "ci95": scores["ci95"],
                "n": scores["n"],
                "seeds": [0],
                "command": "python benchmarks/diorama_tokens.py",
            }
        ]
        print(json.dumps({k: v for k, v in row.items() if k != "evaluation"}))
        if args.out:
            append(args.out, row | environment())


if __name__ == "__main__":
    main()
