"""KAdaptation from the command line: a folder of pictures per class makes a classifier, which reads more pictures."""

from collections.abc import Sequence
from typing import Any

from wm_pipelines.adapters.kronecker import KroneckerConfig
from wm_pipelines.data.class_folders import Source, class_folders, picture_files
from wm_pipelines.evaluation.results import prediction_rows, write_results
from wm_pipelines.kadaptation.adapter import TARGETS
from wm_pipelines.kadaptation.pipeline import TEMPLATES, KAdaptationPipeline
from wm_pipelines.media.pictures import load_image
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.devices import on_accelerator


@holding("out")
def run(
    train: Source | None = None,
    pictures: Sequence[Source] = (),
    out: Source = "outputs/kadaptation",
    base: Source = "diorama-clip",
    model: Source = "kadaptation",
    validation: Source | None = None,
    templates: Sequence[str] = TEMPLATES,
    n: int = 32,
    r: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Fits, classifies, or both; writes `predictions.csv`, `report.json` and, after a fit, the folder `model`.

    Runs on the accelerator if there is one. The files move to `out` together when all are written.

    Args:
        train: folder with a sub-folder of pictures per class; without one, `model` classifies.
        pictures: files and folders to classify.
        base: what to fit, an embedded name, folder or Hub id of a CLIP; `model`: what to use without a fit.
        validation: like `train`, with the same class names; chooses the epoch.
        n, r: of the adapter. options: passed to `KAdaptationPipeline.fit`.

    Returns:
        The report that was written.

    Raises:
        ValueError: before anything is fitted; nothing is written then.
    """
    if train is None and not pictures:
        raise ValueError("give train, pictures, or both; there is nothing to do")
    if validation is not None and train is None:
        raise ValueError("validation chooses an epoch of a fit; give train too")
    sets = {name: class_folders(folder) for name, folder in (("train", train), ("validation", validation)) if folder}
    asked = picture_files(pictures)
    images = {path: load_image(path) for path in [*asked, *(p for paths, _ in sets.values() for p in paths)]}
    report: dict[str, Any] = {}
    if train is None:
        pipeline = AutoWMPipeline.from_pretrained(model)
        if not isinstance(pipeline, KAdaptationPipeline):
            raise ValueError(f"model {str(model)!r} is a {type(pipeline).__name__}; name a KAdaptation checkpoint")
    else:
        pipeline = KAdaptationPipeline.from_clip(base)
    on_accelerator(pipeline)
    if train is not None:
        given = {name: ([images[path] for path in paths], labels) for name, (paths, labels) in sets.items()}
        config = KroneckerConfig(n=n, r=r, target_modules=list(TARGETS))
        pipeline.fit(
            *given["train"], templates=templates, validation=given.get("validation"), config=config, **options
        )
        record = pipeline.wm_config.training
        report["fit"] = {"pictures": len(given["train"][0]), "seconds": record.wall_time_s, "recipe": record.recipe}
        report["fit"]["history"] = pipeline.history
    report["classes"] = list(pipeline.head.config.class_names)
    report["predictions"] = []
    if asked:
        output = pipeline([images[path] for path in asked])
        report["predictions"] = prediction_rows(
            asked, names=report["classes"], labels=output.labels, probs=output.probs
        )
    write_results(out, report=report, names=report["classes"], fitted=pipeline if train is not None else None)
    return report
