"""CPL from the command line: folders of pictures fit a prompt, which then compares pictures with any class names."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wm_pipelines.cpl.pipeline import CPLPipeline
from wm_pipelines.cpl.protocol import run_protocol, write_rows
from wm_pipelines.data.class_folders import Source, check_names, class_folders, picture_files
from wm_pipelines.evaluation.results import prediction_rows, write_results
from wm_pipelines.media.pictures import load_image
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.devices import on_accelerator


@holding("out")
def run(
    pictures: Sequence[Source] = (),
    class_names: Sequence[str] = (),
    train: Source | None = None,
    out: Source = "outputs/cpl",
    base: Source = "diorama-clip",
    model: Source = "cpl",
    explain: Sequence[str] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Fits, classifies, explains; writes `report.json`, and `model/`, `predictions.csv`, `explanation.png` as asked.

    Runs on the accelerator if there is one. The files move to `out` together when all are written.

    Args:
        pictures: files and folders to classify.
        class_names: what to compare them with; those of `train` when there are none.
        train: folder with a sub-folder of pictures per class; without one, the fitted prompt `model` is used.
        base: what to fit on, an embedded name, folder or Hub id of a CLIP.
        explain: two texts "FILE=NAME": why is the first no picture of the second one's name?
        settings: of the fit, see `CPLSettings`.

    Returns:
        The report that was written.

    Raises:
        ValueError: before anything is fitted; nothing is written then.
    """
    if train is None and not pictures and not explain:
        raise ValueError("give train, pictures or explain; there is nothing to do")
    if pictures and not class_names and train is None:
        raise ValueError("class_names is empty; name what the pictures are compared with, or give train")
    check_names(class_names)
    pair = _pair(explain)
    paths, labels = class_folders(train) if train is not None else ([], [])
    asked = picture_files(pictures)
    images = {path: load_image(path) for path in [*paths, *asked, *(path for path, _ in pair)]}
    if train is not None:
        pipeline = CPLPipeline.from_clip(base)
    else:
        pipeline = AutoWMPipeline.from_pretrained(model)
        if not isinstance(pipeline, CPLPipeline):
            raise ValueError(f"model {str(model)!r} is a {type(pipeline).__name__}; name a CPL checkpoint")
    on_accelerator(pipeline)
    report: dict[str, Any] = {}
    if train is not None:
        pipeline.fit([images[path] for path in paths], labels, **settings)
        record = pipeline.wm_config.training
        report["fit"] = {"pictures": len(paths), "seconds": record.wall_time_s, "recipe": record.recipe}
        report["fit"] |= {"history": pipeline.history, "negatives": pipeline.negatives}
    names = list(class_names) or sorted(set(labels))
    report["predictions"] = []
    if asked:
        output = pipeline([images[path] for path in asked], names)
        report["predictions"] = prediction_rows(asked, names=names, labels=output.labels, probs=output.probs)
    shown = {}
    if pair:
        told = pipeline.explain(*(images[path] for path, _ in pair), *(name for _, name in pair))
        report["explanation"] = {
            "positive": explain[0], "negative": explain[1], "flipped": told.flipped, "sparsity": told.sparsity,
            "swapped": told.swapped,
        }  # fmt: skip
        shown["explanation.png"] = told.image
    write_results(out, report=report, names=names, fitted=pipeline if train is not None else None, pictures=shown)
    return report


@holding("out")
def run_benchmark(
    benchmark: str | None,
    root: Source | None,
    out: Source = "outputs/cpl",
    base: Source = "diorama-clip",
    shots: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Runs a protocol on a local data set and writes its rows to `out/benchmark.jsonl`.

    Args:
        benchmark, root, base, shots: `dataset` and the others of `protocol.run_protocol`. seed: the only one.
        say: gets each row in words.
        settings: of the fits, see `CPLSettings`.

    Raises:
        ValueError: before anything is fitted; nothing is written then.
    """
    if not benchmark or root is None:
        raise ValueError("benchmark and root belong together: name the data set and the folder that holds it")
    given = {name: value for name, value in settings.items() if value is not None}
    rows = run_protocol(benchmark, root=root, base=base, shots=shots, seeds=(seed,), say=say, **given)
    Path(out).mkdir(parents=True, exist_ok=True)
    write_rows(Path(out) / "benchmark.jsonl", rows)
    return rows


def _pair(explain: Sequence[str]) -> list[tuple[Path, str]]:
    """(file, name) of both parts of an explanation."""
    if len(explain) not in (0, 2):
        raise ValueError(f"explain needs two of FILE=NAME, got {len(explain)}")
    pair = []
    for text in explain:
        file, equals, name = text.rpartition("=")
        if not equals or not file or not name.strip():
            raise ValueError(f"explain {text!r} must have the form FILE=NAME")
        pair.append((Path(file), name.strip()))
    return pair
