"""ComCLIP from the command line: pictures and captions, to scores, sub-images, a report and a page that shows them."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wm_pipelines import hub
from wm_pipelines.comclip.benchmark import measure, read_benchmark
from wm_pipelines.comclip.components import Component
from wm_pipelines.comclip.data import read_dense_captions
from wm_pipelines.comclip.fusion import Rule
from wm_pipelines.comclip.grounders import PhraseDetector
from wm_pipelines.comclip.pipeline import ComCLIPPipeline
from wm_pipelines.config import CONFIG_NAME
from wm_pipelines.media.pages import write_page
from wm_pipelines.media.pictures import load_image, save_image
from wm_pipelines.pipeline import MODEL_INDEX, AutoWMPipeline
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.devices import machine, on_accelerator
from wm_pipelines.runtime.reports import report_folder
from wm_pipelines.text.parsers import make_parser


def load(base: str) -> ComCLIPPipeline:
    """A pipeline from a ComCLIP checkpoint, or on a plain checkpoint of CLIP, SigLIP or BLIP-2.

    Args:
        base: embedded name, folder or Hub id.

    Raises:
        ValueError: a name that leads nowhere, altered or truncated files, or another model.
    """
    folder = hub.resolve(base)
    config = hub.verify(folder) if (folder / CONFIG_NAME).is_file() else None
    if config is not None and config.method == "comclip":
        return AutoWMPipeline.from_pretrained(folder)
    if (folder / MODEL_INDEX).is_file():
        hub.check_weights(folder)
        return ComCLIPPipeline.from_pretrained(folder, use_safetensors=True)
    return ComCLIPPipeline.from_matcher(base)


@holding("out")
def run(
    images: Sequence[str | os.PathLike],
    texts: Sequence[str],
    out: str | os.PathLike,
    base: str = "diorama-clip",
    boxes: Sequence[str | os.PathLike] = (),
    detector: str | None = None,
    parser: str = "rules",
    fit: str | None = None,
    strict: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Scores pictures with captions and writes sub-images, `report.json` and `index.html` to `out`.

    Args:
        images, texts: one to one, or one of either with all of the other.
        base: as `load`.
        boxes: JSON files `{label: [[x0, y0, x1, y1], ..]}`, one for each image, or none.
        detector: folder or Hub id of Grounding DINO or OWLv2, asked for images without boxes.
        parser: "rules", "spacy:MODEL" or "factual:FOLDER_OR_HUB_ID", what reads the captions.
        fit, options: of `ComCLIPPipeline.__call__` (`fusion`, `missing`, `embed`, `clamp`); what is None is taken from
            the checkpoint's record, or is the default.

    Returns:
        The report that was written. The files move to `out` together when all are written.

    Raises:
        ValueError: before any pass; nothing is written then.
    """
    if boxes and len(boxes) != len(images):
        raise ValueError(f"boxes names {len(boxes)} files for {len(images)} images; give one for each image")
    pictures = [load_image(path) for path in images]
    grounding = [read_dense_captions(path) for path in boxes] or None
    pipeline, settings = _prepared(base, detector, parser, {**options, "fit": fit})
    began = time.perf_counter()
    result = pipeline(pictures, list(texts), grounding, strict=strict, **settings)
    seconds = time.perf_counter() - began
    report = {
        "base": base,
        "parser": parser,
        "settings": settings,
        "seconds": round(seconds, 3),
        "machine": machine(),
        "passes": result.passes._asdict(),
        "failures": [vars(failure) for failure in result.failures],
        "pairs": [],
    }
    with report_folder(out, report) as folder:
        for n, parts in enumerate(result.components):
            name = Path(images[n if len(images) > 1 else 0]).name
            whole = f"pair_{n}.png"
            save_image(pictures[n if len(images) > 1 else 0], folder / whole)
            entry = {
                "image": name,
                "file": whole,
                "text": texts[n if len(texts) > 1 else 0],
                **{key: round(float(result[key][n]), 6) for key in ("score", "baseline", "detector")},
                "components": [_component(part, n, folder) for part in parts],
            }
            report["pairs"].append(entry)
        write_page(__package__, "comclip.html", folder, report)
    return report


@holding("out")
def run_benchmark(
    benchmark: str,
    data: str | os.PathLike,
    out: str | os.PathLike,
    base: str = "diorama-clip",
    detector: str | None = None,
    parser: str = "rules",
    fit: str | None = None,
    limit: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measures a benchmark from a local copy and writes its figures to `report.json` in `out`.

    Args:
        benchmark, data, limit: as `benchmark.read_benchmark`; the folder may also hold boxes, matches and parses.
        base, detector, parser, fit, options: as `run`.

    Returns:
        The report that was written.

    Raises:
        ValueError: before any pass; or not one picture is there; nothing is written then.
    """
    folder = Path(data)
    read = read_benchmark(benchmark, folder, limit)
    pipeline, settings = _prepared(base, detector, parser, {**options, "fit": fit})
    began = time.perf_counter()
    rule = Rule(**{name: value for name, value in settings.items() if name != "fit"})
    report = {
        "benchmark": benchmark,
        "base": base,
        "parser": parser,
        "settings": settings,
        **measure(pipeline, benchmark, folder, read=read, rule=rule, fit=settings.get("fit", "pad")),
        "seconds": round(time.perf_counter() - began, 3),
        "machine": machine(),
    }
    with report_folder(out, report):
        pass
    return report


def _prepared(
    base: str, detector: str | None, parser: str, given: dict[str, Any]
) -> tuple[ComCLIPPipeline, dict[str, Any]]:
    """The pipeline, and how to score: what is given, and for the rest what the checkpoint's record says."""
    given = {name: value for name, value in given.items() if value is not None}
    Rule(**{name: value for name, value in given.items() if name != "fit"})
    reader = make_parser(parser)
    pipeline = load(base)
    pipeline.parser = reader
    if detector is not None:
        pipeline.grounder = PhraseDetector.from_pretrained(detector)
    recorded = getattr(pipeline.wm_config, "method_config", None) if pipeline.wm_config else None
    settings = recorded.model_dump() if recorded is not None and pipeline.wm_config.method == "comclip" else {}
    return on_accelerator(pipeline), settings | given


def _component(part: Component, pair: int, folder: Path) -> dict[str, Any]:
    file = f"pair_{pair}_{part.id}.png"
    save_image(part.subimage, folder / file)
    return {
        "id": part.id,
        "text": part.text,
        "kind": part.kind,
        "weight": round(part.weight, 6),
        "boxes": [list(box) for box in part.boxes],
        "missing": part.missing,
        "file": file,
    }
