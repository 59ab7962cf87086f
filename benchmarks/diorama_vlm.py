"""What diorama-vlm answers on test clips: by family and source, without the clip, with its frames shuffled, and in
pairs with the mirrored and the reversed twin.

    python benchmarks/diorama_vlm.py --out benchmarks/results/diorama_vlm.jsonl
    python benchmarks/diorama_vlm.py --model runs/diorama-vlm/export --split val
    python benchmarks/diorama_vlm.py --run runs/diorama-vlm --cache clips.safetensors    # of a run in mid-training
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import append, environment, mean_interval

from wm_pipelines import hub
from wm_pipelines.training import build
from wm_pipelines.training.engine import load_state
from wm_pipelines.training.recipe import Recipe
from wm_pipelines.video_quiz.demo import load_parts
from wm_pipelines.video_quiz.metrics import by_family, right
from wm_pipelines.video_quiz.scenes import SOURCES, QuizClips

COMMAND = "python benchmarks/diorama_vlm.py"


def of_run(run: Path) -> tuple[Any, Any]:
    """Model and processor of a run's newest state."""
    (state,) = sorted((run / "state").glob("step-*/state.json"))[-1:]
    told = json.loads(state.read_text())["recipe"]
    small = {"length": 8, "sources": ["pictures"], "events": 0, "families": None, "cache": None}
    recipe = Recipe(**{**told, "options": {**told["options"], **small}, "init_from": None})
    task = build(recipe)
    print("step", load_state(task, recipe, run))
    return task.model.eval(), task.processor


def rows_of(quiz: QuizClips, found: dict[str, np.ndarray], split: str) -> list[dict[str, Any]]:
    """Lines of a record's evaluation, one for each source."""
    rows = []
    for source in dict.fromkeys(part.source for part in quiz.parts):
        at = np.array([quiz.source(n) == source for n in range(quiz.length)])
        values = found["full"][at]
        best = float(np.mean([max(quiz.questions[n].priors) for n in np.flatnonzero(at)]))
        rows.append({
            "task": "multiple choice", "dataset": f"Diorama {split}, questions, {source}", "metric": "accuracy",
            "value": round(float(values.mean()), 4), "ci95": mean_interval(values), "n": len(values), "seeds": [0],
            "baseline": round(best, 4), "command": COMMAND,
        })  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or embedded name (default: diorama-vlm)", default="diorama-vlm")
    parser.add_argument("--run", type=Path, help="look at the newest state of this run instead")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--length", type=int, default=800, help="questions of each source")
    parser.add_argument("--events", type=int, default=0, help="questions of each family of events")
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--cache", help="file that keeps the clips")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    parts = of_run(args.run) if args.run else load_parts(hub.resolve(args.model))
    size = parts[1].image_processor.size["height"]
    quiz = QuizClips(args.length, args.sources.split(","), args.events, split=args.split, size=size, cache=args.cache)
    found = right(*parts, quiz)
    for (source, family), row in by_family(quiz, found).items():
        told = ", ".join(f"{name} {value:.3f}" for name, value in row.items() if name != "n")
        print(f"{source:<10} {family:<20} n {row['n']:<5} {told}")
    lines = rows_of(quiz, found, args.split)
    for line in lines:
        print(json.dumps({k: line[k] for k in ("dataset", "value", "ci95", "n", "baseline")}))
    if args.out:
        families = {f"{source}, {family}": row for (source, family), row in by_family(quiz, found).items()}
        append(args.out, {"benchmark": "diorama_vlm", "families": families, "evaluation": lines, **environment()})


if __name__ == "__main__":
    main()
