"""The dynamics model from the command line: pairs of pictures to actions, or to scores of given ones."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wm_pipelines.dynamics.pictures import check_actions
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
from wm_pipelines.media.pictures import load_image
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.devices import on_accelerator
from wm_pipelines.runtime.reports import report_folder


def load(model: str, base: str | None = None) -> DynamicsModelPipeline:
    """A dynamics model, on the accelerator if there is one.

    Raises:
        ValueError: a name that leads nowhere, altered files, or a checkpoint of something else.
    """
    pipeline = AutoWMPipeline.from_pretrained(model, base=base)
    if not isinstance(pipeline, DynamicsModelPipeline):
        raise ValueError(f"model {model!r} is a {type(pipeline).__name__}; it must be a dynamics model")
    return on_accelerator(pipeline)


@holding("out")
def run(
    sources: Sequence[str | os.PathLike],
    targets: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    model: str,
    actions: Sequence[str] | None = None,
    base: str | None = None,
    resize: str | None = None,
    max_new_tokens: int = 48,
) -> dict[str, Any]:
    """Says or scores the action of each pair and writes `report.json` to `out`.

    Args:
        actions: to be scored, one for each pair or one for all; None asks for the likeliest.

    Raises:
        ValueError: before any pass; nothing is written then.
    """
    if len(sources) != len(targets):
        raise ValueError(f"source names {len(sources)} pictures and target {len(targets)}; give one for each")
    before, after = ([load_image(path) for path in paths] for paths in (sources, targets))
    given = None
    if actions:
        given = check_actions(actions[0] if len(actions) == 1 else list(actions), len(before))
    pipeline = load(model, base)
    if given is None:
        result = pipeline(before, after, max_new_tokens=max_new_tokens, resize=resize)
        said, scores = result.actions, result.scores
    else:
        said, scores = given, pipeline.score(before, after, given, resize=resize)
    rows = zip(sources, targets, said, scores.tolist(), strict=True)
    pairs = [
        {"source": Path(a).name, "target": Path(b).name, "action": words, "score": round(score, 6)}
        for a, b, words, score in rows
    ]
    report = {"model": model, "given": given is not None, "pairs": pairs}
    with report_folder(out, report):
        pass
    return report
