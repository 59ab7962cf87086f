"""The base-to-new protocol on one data set: fit on the first half of the classes, test on both halves.

    python -m wm_pipelines.cpl.protocol caltech101 ~/data --base openai/clip-vit-base-patch16 --out rows.jsonl
    python -m wm_pipelines.cpl.protocol folders ~/data/mine --shots 4

Every row also gives the usual baselines on the same pictures and, unless it is switched off, CoCoOp (lambda 0).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from wm_pipelines.clip_text import encode_images
from wm_pipelines.cpl.data import DATASETS, SEEDS, SHOTS, FewShotData, Item, read_dataset, read_folders
from wm_pipelines.cpl.metrics import (
    ENSEMBLE,
    accuracy,
    harmonic,
    linear_probe,
    per_class_accuracy,
    probe_logits,
    tip_adapter_logits,
    zero_shot_weights,
)
from wm_pipelines.cpl.modeling import CPLPromptLearner
from wm_pipelines.cpl.pipeline import CPLPipeline
from wm_pipelines.files import atomic
from wm_pipelines.media import load_image

Row = dict[str, Any]


def base_to_new(
    pipeline: CPLPipeline,
    data: FewShotData,
    shots: int = 16,
    seed: int = 1,
    cocoop: bool = True,
    say: Callable[[str], None] = print,
    **settings: Any,
) -> list[Row]:
    """One row for each method: accuracy on base and new classes in per cent, H, and accuracy of each class.

    The linear probe and Tip-Adapter know only the base classes: their `new` is None.

    Args:
        pipeline: its prompt learner is replaced by a new one for each fit, from the same words.
        shots, seed: of the draw of training pictures; `seed` is also the fit's.
        settings: of the fit, see `CPLSettings`.

    Raises:
        ValueError: as `CPLPipeline.fit`, or no test picture.
    """
    base, new = data.half("base").few_shot(shots, seed), data.half("new")
    train = [load_image(item.path) for item in base.train]
    labels = [item.label for item in base.train]
    tests = [(half, torch.tensor([item.label for item in half.test])) for half in (base, new)]
    if not all(len(truth) for _, truth in tests):
        raise ValueError(f"{data.name} has no test picture for one half of its classes")
    rows = _baselines(pipeline, base, new, train, labels)
    for name, weight in ([("CoCoOp", 0.0)] if cocoop else []) + [("CPL", None)]:
        fresh = CPLPromptLearner.from_clip(
            pipeline.clip, pipeline.tokenizer, pipeline.prompt_learner.config.n_ctx,
            pipeline.prompt_learner.config.init, seed,
        )  # fmt: skip
        pipeline.register_modules(prompt_learner=fresh.eval())
        own = {**settings, "seed": seed} | ({"lambda_cf": weight} if weight is not None else {})
        pipeline.fit(train, labels, base.class_names, **own)
        logits = [_classify(pipeline, half.test, half.class_names) for half, _ in tests]
        rows.append(_row(name, logits, [truth for _, truth in tests]))
    for row in rows:
        row |= {"dataset": data.name, "shots": shots, "seed": seed}
        say(describe(row))
    return rows


def describe(row: Row) -> str:
    """One line: method, base, new, H; a dash where the method knows no new class."""
    figures = [f"{key} {row[key]:6.2f}" if row[key] is not None else f"{key}      -" for key in ("base", "new", "H")]
    return f"{row['dataset']} {row['shots']} shots seed {row['seed']}  {row['method']:<24}" + "  ".join(figures)


def _baselines(
    pipeline: CPLPipeline, base: FewShotData, new: FewShotData, train: Sequence[Any], labels: Sequence[int]
) -> list[Row]:
    keys, own = _features(pipeline, train), torch.tensor(labels)
    seen = [_features(pipeline, [load_image(item.path) for item in half.test]) for half in (base, new)]
    truth = [torch.tensor([item.label for item in half.test]) for half in (base, new)]
    clip, tokenizer, rows = pipeline.clip, pipeline.tokenizer, []
    weights = {}
    for name, templates in (("zero-shot, one template", base.template), ("zero-shot, ensemble", ENSEMBLE)):
        weights[name] = [zero_shot_weights(clip, tokenizer, half.class_names, templates).cpu() for half in (base, new)]
        rows.append(_row(name, [f @ w.T for f, w in zip(seen, weights[name], strict=True)], truth))
    probe = linear_probe(keys, own, len(base.class_names))
    rows.append(_row("linear probe", [probe_logits(probe, seen[0])], truth[:1]))
    cached = tip_adapter_logits(seen[0], keys, own, weights["zero-shot, one template"][0])
    rows.append(_row("Tip-Adapter", [cached], truth[:1]))
    return rows


def _row(method: str, logits: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]) -> Row:
    found = [accuracy(scores, labels) for scores, labels in zip(logits, truth, strict=True)]
    base, new = (*found, None)[:2]
    each = [per_class_accuracy(scores, labels) for scores, labels in zip(logits, truth, strict=True)]
    return {
        "method": method, "base": base, "new": new, "H": None if new is None else harmonic(base, new),
        "per_class": each,
    }  # fmt: skip


@torch.no_grad()
def _features(pipeline: CPLPipeline, pictures: Sequence[Any]) -> torch.Tensor:
    """Unit features (N, d) on the CPU."""
    parts = [pictures[start : start + 64] for start in range(0, len(pictures), 64)]
    return torch.cat([encode_images(pipeline.clip, pipeline.preprocess(part)).float().cpu() for part in parts])


def _classify(pipeline: CPLPipeline, items: Sequence[Item], names: Sequence[str]) -> torch.Tensor:
    """Logits (N, C) of the fitted prompt, the files opened a few at a time."""
    parts = [items[start : start + 64] for start in range(0, len(items), 64)]
    return torch.cat([pipeline([load_image(i.path) for i in part], names).logits for part in parts])


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description="Base-to-new few-shot protocol on a local data set.")
    parser.add_argument("dataset", help=f"{', '.join(DATASETS)}, or folders (train/<class>/, test/<class>/)")
    parser.add_argument("root", type=Path, help="the folder that holds the data set's own")
    parser.add_argument("--base", default="openai/clip-vit-base-patch16", help="embedded name, folder or Hub id")
    parser.add_argument("--shots", type=int, default=16, help=f"usual: {', '.join(map(str, SHOTS))}")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--variant", default="released", help="released or paper")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON Lines file of all rows")
    args = parser.parse_args(argv)
    try:
        read = read_folders(args.root) if args.dataset == "folders" else read_dataset(args.dataset, args.root)
        pipeline = CPLPipeline.from_clip(args.base)
        if torch.accelerator.is_available():
            pipeline.to(torch.accelerator.current_accelerator())
        options = {"variant": args.variant, "epochs": args.epochs}
        rows = [
            row
            for seed in map(int, args.seeds.split(","))
            for row in base_to_new(pipeline, read, args.shots, seed, **options)
        ]
        if args.out:
            with atomic(args.out) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
