"""Runs a benchmark of `data`: every example is scored by the rule, by plain similarity and by boxes alone.

An example that can't be scored (a missing or broken picture, a refused caption) is counted as failed and as wrong.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from wm_pipelines.comclip import metrics
from wm_pipelines.comclip.components import Linker
from wm_pipelines.comclip.data import Query
from wm_pipelines.comclip.fusion import Rule
from wm_pipelines.comclip.pipeline import ComCLIPPipeline
from wm_pipelines.data.caption_pairs import Example
from wm_pipelines.media.boxes import Boxes
from wm_pipelines.media.pictures import load_image

Grounding = Callable[[Example, int], Boxes | None]
Linking = Callable[[Example, int, int], Linker | None]
CONTROLS = ("score", "baseline", "detector")
AT_A_TIME = 32  # pictures held open


def score_examples(
    pipeline: ComCLIPPipeline,
    examples: Sequence[Example],
    rule: Rule | None = None,
    grounding: Grounding | None = None,
    linking: Linking | None = None,
    fit: str = "pad",
) -> dict[str, Any]:
    """Scores of all images with all captions of each example.

    Args:
        grounding: (example, image) -> boxes of that image; the pipeline's grounder is asked where it gives None.
        linking: (example, image, caption) -> linker; the pipeline's own where it gives None.

    Returns:
        `score`, `baseline`, `detector` (arrays `(N, images, captions)`, NaN where the example failed), `failures`
        (kind -> count, of what scores had to work around), `failed` (row -> id and why; ids may repeat).

    Raises:
        ValueError: no example, examples of different forms, or not one picture is where the examples say.
    """
    if not examples or len({(len(e.images), len(e.captions)) for e in examples}) > 1:
        raise ValueError("examples must be given, all with the same numbers of images and captions")
    if not any(path.is_file() for example in examples for path in example.images):
        raise ValueError(f"not one image is there, for example {examples[0].images[0]}; check the folder")
    shape = (len(examples), len(examples[0].images), len(examples[0].captions))
    found: dict[str, Any] = {name: np.full(shape, np.nan) for name in CONTROLS}
    failures: Counter[str] = Counter()
    failed: dict[int, str] = {}
    for n, example in enumerate(tqdm(examples, desc="examples")):
        try:
            pictures = [load_image(path) for path in example.images]
            rows, kinds = _score_one(pipeline, example, pictures, rule or Rule(), grounding, linking, fit)
        except ValueError as error:
            failed[n] = f"{example.id}: {error}"
            continue
        for name in CONTROLS:
            found[name][n] = rows[name]
        failures.update(kinds)
    return {**found, "failures": dict(failures), "failed": failed}


def _score_one(
    pipeline: ComCLIPPipeline,
    example: Example,
    pictures: Sequence[Any],
    rule: Rule,
    grounding: Grounding | None,
    linking: Linking | None,
    fit: str,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Score and controls `(images, captions)` of one example, and the kinds of its failures."""
    import warnings

    rows = {name: np.empty((len(pictures), len(example.captions))) for name in CONTROLS}
    kinds = []
    for i, picture in enumerate(pictures):
        boxes = grounding(example, i) if grounding else None
        for c, caption in enumerate(example.captions):
            with warnings.catch_warnings(action="ignore"):  # they are counted
                out = pipeline(
                    picture, caption, None if boxes is None else [boxes], example.parsed[c],
                    fusion=rule.fusion, missing=rule.missing, embed=rule.embed, clamp=rule.clamp,
                    min_weight_sum=rule.min_weight_sum, fit=fit,
                    linker=linking(example, i, c) if linking else None,
                )  # fmt: skip
            for name in CONTROLS:
                rows[name][i, c] = float(out[name])
            kinds += [failure.kind for failure in out.failures]
    return rows, kinds


def summarise(examples: Sequence[Example], scores: dict[str, Any]) -> dict[str, Any]:
    """Accuracies of the rule, of plain similarity and of boxes alone, by kind, with what failed.

    Two images and one caption are an image choice, one image and two captions a text choice, two of both Winoground.
    """
    kinds = [example.kind for example in examples]
    report: dict[str, Any] = {"n": len(examples), "failed": len(scores["failed"]), "failures": scores["failures"]}
    for name in CONTROLS:
        values = scores[name]
        if values.shape[1:] == (2, 2):
            report[name] = {k: metrics.by_kind(v, kinds) for k, v in metrics.winoground(values).items()}
        else:
            pairs = values.reshape(len(values), 2)
            report[name] = {
                **metrics.by_kind(metrics.choose(pairs), kinds), "ties": metrics.ties(pairs),
            }  # fmt: skip
    return report


def rerank(
    pipeline: ComCLIPPipeline,
    queries: Sequence[Query],
    images: Sequence[Path],
    rule: Rule | None = None,
    boxes: Callable[[Path], Boxes | None] | None = None,
    fit: str = "pad",
    top_k: int = 10,
) -> dict[str, Any]:
    """Recall of each caption's candidates in the order of plain similarity, and scored anew by the rule.

    Args:
        boxes: path -> boxes of that image; the pipeline's grounder is asked where it gives None.
        top_k: how many candidates a query gets that brings none: the nearest of all images by plain similarity.

    Returns:
        `score` and `baseline` (R@1, R@5, R@10) over all queries, `n`, `failed` (query -> why: it keeps the plain
        order, or none), `unread` (image -> why: it is nobody's candidate, unless the query says so).

    Raises:
        ValueError: `top_k` below 1, or not one image can be read.
    """
    if type(top_k) is not int or top_k < 1:
        raise ValueError(f"top_k must be an integer of at least 1, got {top_k!r}")
    unread, failed = {}, {}
    open_ones = [query for query in queries if query.order is None]
    found = {}
    if open_ones:
        found, unread, failed = _nearest(pipeline, open_ones, images, fit, top_k)
    given = [found.get(query.id, ()) if query.order is None else query.order for query in queries]
    rule, order = rule or Rule(), []
    for query, plain in zip(tqdm(queries, desc="captions"), given, strict=True):
        paths = [images[i] for i in plain]
        example = Example(query.id, "query", tuple(paths), (query.caption,), (None,))
        known = (lambda e, i: boxes(e.images[i])) if boxes else None
        if query.id in failed:
            order.append(plain)
            continue
        try:
            pictures = [load_image(path) for path in paths]
            rows, _ = _score_one(pipeline, example, pictures, rule, known, None, fit)
        except ValueError as error:
            failed[query.id] = str(error)
            order.append(plain)
            continue
        best = np.argsort(-rows["score"][:, 0], kind="stable")
        order.append(tuple(plain[i] for i in best))
    truth = [query.truth for query in queries]
    return {
        "score": metrics.recall(order, truth),
        "baseline": metrics.recall(given, truth),
        "n": len(queries),
        "failed": failed,
        "unread": unread,
    }


def _nearest(
    pipeline: ComCLIPPipeline, queries: Sequence[Query], images: Sequence[Path], fit: str, top_k: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, str], dict[str, str]]:
    """({query: its `top_k` nearest images, best first}, {image: why it can't be read}, {query: why it is refused}).

    A few images are open at a time; their embeddings stay in the pipeline's cache for the second pass.
    """
    columns, places, unread, failed, asked = [], [], {}, {}, None
    for start in tqdm(range(0, len(images), AT_A_TIME), desc="images"):
        shown = []
        for i in range(start, min(start + AT_A_TIME, len(images))):
            try:
                shown.append(load_image(images[i]))
                places.append(i)
            except ValueError as error:
                unread[str(images[i])] = str(error)
        if not shown:
            continue
        if asked is None:  # each caption by itself, so that one that is refused does not take the others with it
            asked = []
            for query in queries:
                try:
                    pipeline.similarity(shown[0], query.caption, fit=fit)
                    asked.append(query)
                except ValueError as error:
                    failed[query.id] = str(error)
            if not asked:
                return {}, unread, failed
        columns.append(pipeline.similarity(shown, [query.caption for query in asked], fit=fit))
    if asked is None:
        raise ValueError(f"not one image can be read, for example {images[0]}; check the folder")
    scores = torch.cat(columns).T  # (queries, images)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :top_k].tolist()
    near = {query.id: tuple(places[i] for i in row) for query, row in zip(asked, best, strict=True)}
    return near, unread, failed
