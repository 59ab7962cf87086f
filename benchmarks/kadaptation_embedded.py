"""The embedded checkpoint kadaptation: how many objects are there? Sixteen pictures of each count are enough to teach
diorama-clip what no caption ever told it. Zero-shot, linear probe and KAdaptation on the same pictures.

    python benchmarks/kadaptation_embedded.py --out benchmarks/results/kadaptation_embedded.jsonl --checkpoint DIR
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from records import append, environment, mean_interval, summary

from wm_pipelines import hub
from wm_pipelines.config import EvaluationRecord
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.render import render
from wm_pipelines.hub.cards import write_card
from wm_pipelines.kadaptation.pipeline import KAdaptationPipeline
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.runtime.files import write_atomic

NAMES = ["one", "two", "three", "four"]
TEMPLATES = ("a photo of {} objects.",)
CHANCE = 0.25
APART = 10_000  # scenes between the draws of two seeds: they share none
# options of `fit` per arm; nothing is chosen by looking at pictures, so the probe has two learning rates
ARMS = {
    "zero-shot": {"epochs": 0, "probe": True},
    "linear probe": {"probe": True},
    "linear probe, ten times the rate": {"probe": True, "head_learning_rate": 1e-2},
    "KAdaptation": {},
}
COMMAND = "python benchmarks/kadaptation_embedded.py"


def draw(split: str, per_class: int, start: int) -> tuple[torch.Tensor, list[str]]:
    """Pictures (N, 3, 64, 64) of scenes of one to four objects, equally many of each, and how many objects they show.

    Args:
        start: index of the first scene that is looked at.
    """
    data = DioramaDataset(split=split, length=10**9, num_objects=(1, 2, 3, 4), name="kadaptation")
    found: dict[str, list] = {name: [] for name in NAMES}
    index = start
    while min(map(len, found.values())) < per_class:
        scene = data.scene(index)
        own = found[NAMES[len(scene.objects) - 1]]
        if len(own) < per_class:
            own.append(scene)
        index += 1
    scenes = [scene for own in found.values() for scene in own]
    rgb = [render(scenes[i : i + 64], maps=("rgb",)).rgb[:, 0] for i in range(0, len(scenes), 64)]
    return torch.cat(rgb), [name for name, own in found.items() for _ in own]


def right(pipe: KAdaptationPipeline, pictures: torch.Tensor, labels: list[str]) -> np.ndarray:
    """Per picture, whether its label is found."""
    return np.array([found == label for found, label in zip(pipe(pictures).labels, labels, strict=True)], float)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="diorama-clip", help="embedded name, folder or Hub id")
    parser.add_argument("--shots", type=int, default=16, help="pictures of each class")
    parser.add_argument("--test", type=int, default=100, help="test pictures of each class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="folder for the classifier of seed 0")
    parser.add_argument("--page", type=Path, help="folder for its card, record, recipe and log")
    args = parser.parse_args(argv)
    pipe = KAdaptationPipeline.from_clip(args.clip)
    pipe.set_progress_bar_config(disable=True)
    test = draw("test", args.test, 0)

    results: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
    seconds = []
    for seed in range(args.seeds):
        shots = draw("val", args.shots, APART * seed)
        for arm, options in ARMS.items():
            began = time.process_time()
            options = {"epochs": args.epochs, **options}
            pipe.fit(*shots, class_names=NAMES, templates=TEMPLATES, seed=seed, **options)
            if arm == "KAdaptation":
                seconds.append(time.process_time() - began)
                if seed == 0 and args.checkpoint:
                    pipe.save_adapter(args.checkpoint, dtype=torch.float16)
                    history = pipe.history
            results[arm].append(right(pipe, *test))
            print(seed, arm, results[arm][-1].mean(), flush=True)
    table = {arm: summary(np.stack(rows), 10_000) for arm, rows in results.items()}
    better = np.stack(results["KAdaptation"]) - np.stack(results["linear probe"])
    data = f"Diorama test, how many objects, {args.shots} shots of each count"
    for arm, figure in table.items():
        row = {"benchmark": "kadaptation_embedded", "arm": arm, "data": data, **figure}
        if arm == "KAdaptation":
            row |= {"over probe": summary(better, 10_000), "fit, processor seconds": float(np.median(seconds))}
        print(json.dumps(row), flush=True)
        if args.out:
            append(args.out, row | environment())
    if args.checkpoint:
        evaluation = [
            EvaluationRecord(
                task="few-shot classification, mean over draws of the shots", dataset=data, metric=f"accuracy, {arm}",
                value=round(figure["value"], 4), ci95=(round(figure["low"], 4), round(figure["high"], 4)),
                n=len(test[1]), seeds=list(range(args.seeds)), baseline=CHANCE,
                command=f"{COMMAND} --seeds {args.seeds}",
            )
            for arm, figure in table.items()
        ]  # fmt: skip
        seal(args.checkpoint, args.page, test, data, float(results["zero-shot"][0].mean()), evaluation, history)


def seal(folder: Path, page: Path | None, test: tuple, data: str, baseline: float, evaluation: list, history) -> None:
    """Measures the checkpoint as it was saved, and writes its record and card."""
    loaded = AutoWMPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    values = right(loaded, *test)
    own = EvaluationRecord(
        task="few-shot classification, this checkpoint", dataset=data, metric="accuracy, baseline zero-shot",
        value=round(float(values.mean()), 4), ci95=tuple(mean_interval(values)), n=len(values), seeds=[0],
        baseline=round(baseline, 4), command=f"{COMMAND} --seeds 1",
    )  # fmt: skip
    config = hub.seal(folder, loaded.wm_config.model_copy(update={"evaluation": [own, *evaluation]}))
    write_card(folder)
    print(json.dumps(own.model_dump()))
    if page is not None:
        page.mkdir(parents=True, exist_ok=True)
        for name in ("README.md", "wm_config.json"):
            write_atomic(page / name, (folder / name).read_text(encoding="utf-8"))
        write_atomic(page / "recipe.yaml", yaml.safe_dump(config.training.recipe, sort_keys=False))
        write_atomic(page / "log.jsonl", "".join(json.dumps(row) + "\n" for row in history))


if __name__ == "__main__":
    main()
