"""What diorama-judge gets right on renders whose truth is known: 500 easy scenes (one or two plain objects of at
least 12 pixels, 90 % visible) of held-out pairs, and the harder rest.

    python benchmarks/diorama_judge.py --out benchmarks/results/diorama_judge.jsonl
"""

import argparse
import json
from pathlib import Path

from records import append, environment

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.metrics import judge_on_renders
from wm_pipelines.diorama.scene import sample_scene
from wm_pipelines.hub import embedded

BARS = {"colour": 0.98, "shape": 0.95, "miou": 0.85}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", type=Path, help="folder; default: embedded diorama-judge")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    judge = DioramaJudge.from_pretrained(args.judge or embedded("diorama-judge")).eval()
    hard = DioramaDataset(split="test", composition="held_out", length=args.scenes)
    sets = {
        "held-out pairs, one or two plain objects": [
            sample_scene(
                "judge", i, num_objects=(1, 2), composition="held_out", min_pixels=12, min_visible=0.9,
                patterns=("plain",),
            )
            for i in range(args.scenes)
        ],
        "held-out pairs, striped and crowded scenes too": [hard.scene(i) for i in range(args.scenes)],
    }  # fmt: skip
    for name, scenes in sets.items():
        scores = judge_on_renders(judge, scenes)
        row = {"benchmark": "diorama_judge", "set": name, "scenes": len(scenes), **scores, "bars": BARS}
        if name.endswith("plain objects"):
            row["holds"] = all(scores[key] >= bar for key, bar in BARS.items())
        row["evaluation"] = [
            {
                "task": "reading pictures",
                "dataset": f"Diorama renders, {name}",
                "metric": key,
                "value": round(scores[key], 4),
                "n": int(scores["n"]),
                "seeds": [0],
                "command": "python benchmarks/diorama_judge.py",
            }
            for key in BARS
        ]
        print(json.dumps({k: v for k, v in row.items() if k != "evaluation"}))
        if args.out:
            append(args.out, row | environment())


if __name__ == "__main__":
    main()
