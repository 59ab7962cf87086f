"""Discffusion from the command line: pictures and captions to scores and maps, or a benchmark to accuracies."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME, WMConfig
from wm_pipelines.discffusion import evaluate
from wm_pipelines.discffusion.data import read_benchmark
from wm_pipelines.discffusion.overlay import draw_words
from wm_pipelines.discffusion.pipeline import DiscffusionPipeline
from wm_pipelines.media.pictures import load_image, save_image
from wm_pipelines.pipeline import MODEL_INDEX, AutoWMPipeline
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.devices import machine, on_accelerator
from wm_pipelines.runtime.reports import report_folder


def load(model: str) -> DiscffusionPipeline:
    """An adapter on its base, or a plain base, zero-shot.

    Args:
        model: embedded name, folder or Hub id.

    Raises:
        ValueError: a name that leads nowhere, altered or truncated files, or a base that can't judge.
    """
    folder = hub.resolve(model)
    config = WMConfig.load(folder) if (folder / CONFIG_NAME).is_file() else None
    if config is not None and config.method == "discffusion":
        return AutoWMPipeline.from_pretrained(folder)
    if not (folder / MODEL_INDEX).is_file():
        what = "is no pipeline" if config is None else f"is a checkpoint of {config.method}"
        raise ValueError(f"`model` {model!r} {what}; give a Discffusion adapter or a text-to-image base")
    hub.check_weights(folder)
    return DiscffusionPipeline.from_pretrained(str(folder))


@holding("out")
def run(
    out: str | os.PathLike,
    images: Sequence[str | os.PathLike] = (),
    texts: Sequence[str] = (),
    model: str = "diorama-sd",
    benchmark: str | None = None,
    root: str | os.PathLike | None = None,
    clip: str | None = None,
    limit: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Scores every picture with every caption, or runs a benchmark; writes `report.json` and maps to `out`.

    Args:
        model: as `load`.
        benchmark, root: comvg, refcocog, vqa, winoground or pairs, and its folder, in the place of images and texts.
        clip: a CLIP checkpoint beside it, in a benchmark. limit: the first so many examples.
        options: of `DiscffusionPipeline.__call__`; what is None is taken from the adapter's record, or is the default.

    Returns:
        The report that was written. The files move to `out` together when all are written.

    Raises:
        ValueError: before any pass; nothing is written then.
    """
    if bool(benchmark) == bool(images or texts):
        raise ValueError("give either `benchmark` with `root`, or `images` and `texts`")
    if benchmark and root is None:
        raise ValueError(f"`benchmark` {benchmark!r} needs `root`, the folder that holds it")
    if not benchmark and not (images and texts):
        raise ValueError("`images` and `texts` belong together; give at least one of each")
    for name, value in {"root": root, "clip": clip, "limit": limit}.items():
        if not benchmark and value is not None:
            raise ValueError(f"`{name}` belongs to a `benchmark`; leave it out with `images` and `texts`")
    if benchmark and options.get("score") is not None:
        raise ValueError("`score` is for `images` and `texts`; a benchmark reports lse, dc and lse+dc side by side")
    options = {name: value for name, value in options.items() if value is not None}
    examples = read_benchmark(benchmark, root, limit) if benchmark else []
    pictures = [load_image(path) for path in images]
    pipeline = load(model)
    similarity = evaluate.clip_similarity(hub.resolve(clip)) if clip else None
    on_accelerator(pipeline)
    began = time.perf_counter()
    if benchmark:
        pipeline.set_progress_bar_config(disable=True)
        rows, failed = evaluate.score_examples(pipeline, examples, similarity, **options)
        report = {"benchmark": benchmark, **evaluate.summarise(examples, rows), "failed": failed}
        report["note"] = "superiority over Diffusion Classifier without training is disputed (arXiv 2505.17955)"
    else:
        output = pipeline(pictures, list(texts), pairwise=False, maps=True, **options)
        report = _pairs(images, texts, output)
    report |= {"model": model, "options": options, "seconds": round(time.perf_counter() - began, 3)}
    report["machine"] = machine()
    with report_folder(out, report) as folder:
        for n, row in enumerate(report.get("pairs", ())):
            picture = pictures[row["image"]]
            save_image(draw_words(picture, output.maps[n], pipeline.words(row["text"])), folder / row["maps"])
    return report


def _pairs(images: Sequence[str | os.PathLike], texts: Sequence[str], output: Any) -> dict[str, Any]:
    rows = []
    for i, image in enumerate(images):
        for t, text in enumerate(texts):
            row = {"image": i, "file": Path(image).name, "text": text, "maps": f"maps_{i}_{t}.png"}
            for name in ("score", "lse", "dc", "standard_error", "difference"):
                values = output[name] if name in output else None
                row[name] = None if values is None or values[i, t].isnan() else round(float(values[i, t]), 6)
            interval = output.difference_ci95
            row["difference_ci95"] = None
            if interval is not None and not interval[i, t].isnan().any():
                row["difference_ci95"] = [round(float(end), 6) for end in interval[i, t]]
            rows.append(row)
    return {"pairs": rows, "timesteps": output.timesteps, "forwards": output.forwards}
