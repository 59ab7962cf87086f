"""CPL on diorama-clip: the protocol of seen and new classes on the miniature world, and the embedded checkpoint `cpl`.

    python benchmarks/cpl_embedded.py                   # figures only: results/cpl_embedded.jsonl
    python benchmarks/cpl_embedded.py --checkpoint      # also writes wm_pipelines/embedded/cpl and model_cards/cpl

Seen classes are the colour x shape pairs that the base was trained on, new ones those that it never saw together. The
prompt is fitted to 8 pictures of each seen class; the tests are scenes of one object that neither fit nor base saw.
Zero-shot CLIP and CoCoOp (lambda 0) stand beside CPL. Three seeds; the checkpoint is that of seed 1. There is one
base, so the intervals tell of shots and pictures, not of other bases: cpl_micro.py trains one for each seed.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from records import RESULTS, environment, figure_text, summary, write

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME, EvaluationRecord
from wm_pipelines.cpl.metrics import harmonic
from wm_pipelines.cpl.pipeline import CPLPipeline
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, HELD_OUT, SHAPES
from wm_pipelines.hub.cards import write_card
from wm_pipelines.runtime.files import write_atomic

COMMAND = "python benchmarks/cpl_embedded.py"
SEEN = [f"{c} {s}" for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT]
NEW = [f"{c} {s}" for c in COLOURS for s in SHAPES if (c, s) in HELD_OUT]
SHIPPED = 1
"""The seed whose prompt becomes the checkpoint."""


def pictures_of(names: list[str], each: int, **options: Any) -> tuple[torch.Tensor, list[int]]:
    """Renders of scenes with one object, the first `each` of every class that the data set gives, and their labels."""
    data = DioramaDataset(num_objects=1, length=1 << 20, **options)
    left, scenes, labels, index = dict.fromkeys(names, each), [], [], 0
    while any(left.values()):
        scene = data.scene(index)
        index += 1
        name = f"{scene.objects[0].colour} {scene.objects[0].shape}"
        if left.get(name):
            left[name] -= 1
            scenes.append(scene)
            labels.append(names.index(name))
    parts = [render(scenes[i : i + 64], maps=("rgb",)).rgb[:, 0] for i in range(0, len(scenes), 64)]
    return torch.cat(parts), labels


def fitted(base: str, seed: int, shots: int, epochs: int, lambda_cf: float | None) -> CPLPipeline:
    """A prompt of `seed`; plain CLIP's words where `lambda_cf` is None."""
    pipeline = CPLPipeline.from_clip(base, seed=seed)
    pipeline.set_progress_bar_config(disable=True)
    if lambda_cf is None:  # a silent net leaves the words as they are
        with torch.no_grad():
            pipeline.prompt_learner.meta_net.linear2.weight.zero_()
            pipeline.prompt_learner.meta_net.linear2.bias.zero_()
        return pipeline
    pictures, labels = pictures_of(SEEN, shots, split="train", name=f"cpl-shots-{seed}")
    return pipeline.fit(
        pictures, labels, SEEN, lambda_cf=lambda_cf, epochs=epochs, batch_size=4, seed=seed, augment=False
    )


def right(pipeline: CPLPipeline, pictures: torch.Tensor, labels: list[int], names: list[str]) -> np.ndarray:
    """100 for each picture whose class is found among `names`, else 0."""
    found = pipeline(pictures, names, batch_size=64).logits.argmax(1)
    return 100 * (found == torch.tensor(labels)).numpy().astype(float)


def ship(pipeline: CPLPipeline, rows: list[dict[str, Any]]) -> None:
    """Write the checkpoint, its card, and its page under model_cards/."""
    entries = [EvaluationRecord(**entry) for row in rows if row["method"] == "CPL" for entry in row["evaluation"]]
    pipeline.wm_config = pipeline.wm_config.model_copy(update={"evaluation": entries})
    out, page = hub.EMBEDDED_ROOT / "cpl", Path(__file__).parents[1] / "model_cards" / "cpl"
    pipeline.save_adapter(out, dtype=torch.float16)
    write_card(out)
    page.mkdir(parents=True, exist_ok=True)
    for name in ("README.md", CONFIG_NAME):
        write_atomic(page / name, (out / name).read_text(encoding="utf-8"))
    write_atomic(page / "recipe.yaml", yaml.safe_dump(pipeline.wm_config.training.recipe, sort_keys=False))
    write(page / "log.jsonl", [{"epoch": n + 1, **row} for n, row in enumerate(pipeline.history)])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "cpl_embedded.jsonl")
    parser.add_argument("--base", default="diorama-clip")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--test", type=int, default=20, help="test pictures a class")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--draws", type=int, default=10_000, help="bootstrap draws")
    parser.add_argument("--checkpoint", action="store_true", help="write the embedded checkpoint and its page")
    args = parser.parse_args(argv)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    if args.checkpoint and SHIPPED not in seeds:
        parser.error(f"--checkpoint needs seed {SHIPPED} among --seeds")
    tests = {
        "seen": (*pictures_of(SEEN, args.test, split="test", name="cpl-test"), SEEN),
        "new": (*pictures_of(NEW, args.test, split="test", composition="held_out", name="cpl-test"), NEW),
    }
    rows, kept, found = [], None, {}
    for method, weight in (("zero-shot", None), ("CoCoOp", 0.0), ("CPL", 1.0)):
        for seed in seeds[:1] if weight is None else seeds:
            pipeline = fitted(args.base, seed, args.shots, args.epochs, weight)
            for half, test in tests.items():
                found.setdefault((method, half), []).append(right(pipeline, *test))
            if method == "CPL" and seed == SHIPPED:
                kept = pipeline
        figures = {half: summary(np.stack(found[method, half]), args.draws) for half in tests}
        own = seeds[:1] if weight is None else seeds
        rows.append({
            "benchmark": "cpl_embedded", "method": method, "shots": args.shots, "seeds": own, **figures,
            "H": harmonic(figures["seen"]["value"], figures["new"]["value"]),
            "evaluation": [
                {
                    "task": "few-shot classification", "dataset": f"Diorama, one object, {half} colour x shape pairs",
                    "metric": f"accuracy among {len(tests[half][2])} {half} classes, per cent",
                    "value": round(f["value"], 2), "ci95": [round(f["low"], 2), round(f["high"], 2)],
                    "n": len(tests[half][1]), "seeds": own, "command": COMMAND,
                }
                for half, f in figures.items()
            ],
        } | environment())  # fmt: skip
        words = "  ".join(f"{half} {figure_text(f)}" for half, f in figures.items())
        print(f"{method:<12}{words}  H {rows[-1]['H']:.2f}", flush=True)
    for half in tests:
        gap = summary(np.stack(found["CPL", half]) - np.stack(found["CoCoOp", half]), args.draws)
        print(f"CPL - CoCoOp, {half}: {figure_text(gap)}")
        rows.append({"benchmark": "cpl_embedded", "method": "CPL - CoCoOp", half: gap} | environment())
    for entry, plain in zip(rows[2]["evaluation"], rows[0]["evaluation"], strict=True):
        entry["baseline"] = plain["value"]  # zero-shot
    write(args.out, rows)
    if args.checkpoint:
        ship(kept, rows[:3])
    return 0


if __name__ == "__main__":
    sys.exit(main())
