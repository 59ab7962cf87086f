"""A benchmark's examples, scored by Discffusion, by Diffusion Classifier from the same passes, and by plain CLIP.

A tie is wrong, and so is an example that can't be scored (a missing or broken picture, a caption too long).
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from wm_pipelines.data.caption_pairs import Example
from wm_pipelines.discffusion import inputs
from wm_pipelines.discffusion.pipeline import DiscffusionPipeline
from wm_pipelines.discffusion.reading import Rule
from wm_pipelines.discffusion.timesteps import read_timesteps
from wm_pipelines.evaluation.statistics import mcnemar, wilson
from wm_pipelines.media.pictures import load_image

ARMS = ("lse", "dc", "lse+dc", "diffusion classifier")
Similarity = Callable[[Sequence[Any], Sequence[str]], np.ndarray]


def clip_similarity(folder: Any) -> Similarity:
    """Cosines `(images, texts)` of a stock CLIP checkpoint."""
    from wm_pipelines.clip.parts import load_clip, preprocess
    from wm_pipelines.clip.towers import encode_images, encode_texts

    parts = load_clip(folder)

    @torch.no_grad()
    def similarity(pictures: Sequence[Any], texts: Sequence[str]) -> np.ndarray:
        seen = encode_images(parts["clip"], preprocess(parts["image_processor"], pictures))
        return (seen.double() @ encode_texts(parts["clip"], parts["tokenizer"], list(texts)).double().T).numpy()

    return similarity


def score_examples(
    pipeline: DiscffusionPipeline, examples: Sequence[Example], clip: Similarity | None = None, **options: Any
) -> tuple[list[dict[str, np.ndarray] | None], dict[str, str]]:
    """Scores `(images, captions)` of each example by each arm, None where it failed; and why, by example.

    Args:
        clip: similarities to compare with. options: of `DiscffusionPipeline.__call__`.

    Raises:
        ValueError: options that no example can be scored with, before any is; or all failed.
    """
    rows: list[dict[str, np.ndarray] | None] = []
    failed: dict[str, str] = {}
    rule = pipeline.rule(**{field.name: options[field.name] for field in fields(Rule) if field.name in options})
    steps = pipeline.recommended("timesteps", options.get("timesteps"), 30)
    read_timesteps(steps, pipeline.denoiser.train_steps)
    inputs.check_size(options.get("size"), pipeline.denoiser.multiple)
    for example in tqdm(examples, desc="examples"):
        try:
            pictures = [load_image(path) for path in example.images]
            out = pipeline(pictures, list(example.captions), "lse+dc", pairwise=False, **options)
            lse, dc, error = out.steps.double().mean(1).numpy()
            row = {"lse": lse, "dc": dc, "lse+dc": lse + rule.bias_weight * dc, "diffusion classifier": -error}
            rows.append(row | ({"clip": clip(pictures, example.captions)} if clip else {}))
        except (ValueError, FloatingPointError) as problem:
            failed[example.id] = str(problem)
            rows.append(None)
    if failed and not any(rows):
        raise ValueError(f"not one example could be scored; the first: {next(iter(failed.values()))}")
    return rows, failed


def decisions(scores: np.ndarray) -> dict[str, bool]:
    """What an example's scores `(images, captions)` get right, the first of both being true; a tie is wrong."""
    images, captions = scores.shape
    if (images, captions) == (2, 2):
        text = scores[0, 0] > scores[0, 1] and scores[1, 1] > scores[1, 0]
        image = scores[0, 0] > scores[1, 0] and scores[1, 1] > scores[0, 1]
        return {"text": bool(text), "image": bool(image), "group": bool(text and image)}
    ahead = int((scores.flatten()[1:] >= scores[0, 0]).sum())
    return {"R@1": ahead == 0} | ({"R@5": ahead < 5} if scores.size > 5 else {})


def summarise(examples: Sequence[Example], rows: Sequence[dict[str, np.ndarray] | None]) -> dict[str, Any]:
    """Accuracy of each arm by metric, with Wilson's interval, over all and by kind; McNemar's test of the arms."""
    scored = next((row for row in rows if row is not None), None)
    if scored is None:
        raise ValueError("not one example could be scored; see `failed` for the reasons")
    arms, metrics = list(scored), list(decisions(scored["lse"]))
    right = {
        metric: {
            arm: np.array([row is not None and decisions(row[arm]).get(metric, False) for row in rows]) for arm in arms
        }
        for metric in metrics
    }
    report: dict[str, Any] = {"n": len(rows)}
    for metric, by_arm in right.items():
        kinds = {"all": np.ones(len(rows), bool)}
        kinds |= {kind: np.array([e.kind == kind for e in examples]) for kind in sorted({e.kind for e in examples})}
        report[metric] = {
            kind: {arm: _share(values[chosen]) for arm, values in by_arm.items()} for kind, chosen in kinds.items()
        }
        pairs = [(a, b) for i, a in enumerate(arms) for b in arms[i + 1 :]]
        report[metric]["paired"] = {
            f"{a} against {b}": mcnemar(by_arm[a], by_arm[b])._asdict() for a, b in pairs
        }  # fmt: skip
    return report


def _share(values: np.ndarray) -> dict[str, Any]:
    hits = int(values.sum())
    return {"accuracy": hits / len(values), "ci95": list(wilson(hits, len(values))), "n": len(values)}
