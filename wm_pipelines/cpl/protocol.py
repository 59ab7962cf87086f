"""The protocols on one data set: base to new (fit on the first half of the classes, test on both), and retrieval.

    python -m wm_pipelines.cpl.protocol caltech101 ~/data --base openai/clip-vit-base-patch16 --out rows.jsonl
    python -m wm_pipelines.cpl.protocol folders ~/data/mine --shots 4
    python -m wm_pipelines.cpl.protocol flickr30k ~/data --shots 145

`wm run cpl --benchmark caltech101 --root ~/data` does the same for one seed. Every row also gives the usual baselines
on the same pictures and, unless it is switched off, CoCoOp (lambda 0). See `retrieval.py` for Flickr30k.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from wm_pipelines.clip.towers import encode_images
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
from wm_pipelines.cpl.pipeline import CPLPipeline
from wm_pipelines.cpl.retrieval import FLICKR_SHOTS, read_retrieval, retrieval
from wm_pipelines.media.pictures import load_image
from wm_pipelines.runtime.devices import on_accelerator
from wm_pipelines.runtime.files import atomic

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
        pipeline.renew(seed)
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


def run_protocol(
    dataset: str,
    root: str | os.PathLike,
    base: str | os.PathLike,
    shots: int | None = None,
    seeds: Sequence[int] = SEEDS,
    say: Callable[[str], None] = print,
    **settings: Any,
) -> list[Row]:
    """The rows of all seeds on one of the user's local data sets; on the accelerator if there is one.

    Args:
        dataset: a name of `DATASETS`, "folders" (train/<class>/, test/<class>/), or "flickr30k" (retrieval).
        root: the folder that holds the data set's own; of "folders", itself.
        base: embedded name, folder or Hub id of a CLIP.
        shots: pictures a class, 16 when None; of "flickr30k", pictures in all, 145 when None.
        settings: of the fit, see `CPLSettings`.

    Raises:
        ValueError: an unknown data set, files that are not there, or bad settings.
    """
    flickr = dataset == "flickr30k"
    if flickr:
        parts = read_retrieval(root)
    else:
        data = read_folders(root) if dataset == "folders" else read_dataset(dataset, root)
    pipeline = CPLPipeline.from_clip(base)
    on_accelerator(pipeline)
    rows = []
    for seed in seeds:
        if flickr:
            rows += retrieval(pipeline, *parts, FLICKR_SHOTS[0] if shots is None else shots, seed, say=say, **settings)
        else:
            rows += base_to_new(pipeline, data, SHOTS[-1] if shots is None else shots, seed, say=say, **settings)
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The rows as JSON Lines, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description="A few-shot protocol on a local data set.")
    names = f"{', '.join(DATASETS)}, folders (train/<class>/, test/<class>/), or flickr30k (retrieval)"
    parser.add_argument("dataset", help=names)
    parser.add_argument("root", type=Path, help="the folder that holds the data set's own")
    parser.add_argument("--base", default="openai/clip-vit-base-patch16", help="embedded name, folder or Hub id")
    usual = f"usual: {', '.join(map(str, SHOTS))}; of flickr30k {', '.join(map(str, FLICKR_SHOTS))}"
    parser.add_argument("--shots", type=int, help=usual)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--variant", default="released", help="released or paper")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON Lines file of all rows")
    args = parser.parse_args(argv)
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")]
        options = {"variant": args.variant, "epochs": args.epochs}
        rows = run_protocol(args.dataset, args.root, args.base, args.shots, seeds, **options)
        if args.out:
            write_rows(args.out, rows)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
