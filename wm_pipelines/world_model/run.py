"""The world model from the command line: a picture and actions to candidates, the chosen ones, and a report."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wm_pipelines.dynamics.pictures import check_actions
from wm_pipelines.dynamics.run import load
from wm_pipelines.media.pictures import load_image, save_image
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.devices import on_accelerator
from wm_pipelines.runtime.reports import report_folder
from wm_pipelines.world_model.editing import EditorWorldModel
from wm_pipelines.world_model.editors import Editor
from wm_pipelines.world_model.loading import load_drawing
from wm_pipelines.world_model.outputs import WorldModelOutput
from wm_pipelines.world_model.pipeline import WorldModelPipeline
from wm_pipelines.world_model.selection import LIKELIHOOD


@holding("out")
def run(
    source: str | os.PathLike,
    actions: Sequence[str],
    out: str | os.PathLike,
    model: str,
    base: str | None = None,
    verifier: str | None = "likelihood",
    candidates: int = 4,
    temperature: float = 1.0,
    seed: int = 0,
    history: int = 0,
    resize: str | None = None,
) -> dict[str, Any]:
    """Carries the actions out one after another; writes every candidate and `report.json` to `out`.

    Args:
        model: a world model, or an editor of diffusers, which has no likelihood, temperature, history or size.
        verifier: a dynamics model, "likelihood", or None ("none") to rank nothing.

    Raises:
        ValueError: before any pass; nothing is written then.
    """
    picture, said = load_image(source), check_actions(list(actions), len(actions))
    pipeline = load_drawing(model, base)
    judge = None if verifier in (None, "none") else verifier if verifier == LIKELIHOOD else load(verifier)
    how = {"num_candidates": candidates, "verifier": judge, "generator": torch.Generator("cpu").manual_seed(seed)}
    own = {"temperature": temperature, "history": history, "resize": resize}
    if isinstance(pipeline, WorldModelPipeline):
        steps = on_accelerator(pipeline).rollout(picture, said, return_candidates=True, **own, **how)
    else:
        for name, usual in (("temperature", 1.0), ("history", 0), ("resize", None)):
            if own[name] != usual:
                raise ValueError(f"`{name}` is {own[name]!r}; {type(pipeline).__name__} has none")
        steps = EditorWorldModel(Editor(on_accelerator(pipeline))).rollout(picture, said, rescore_pixels=True, **how)
    report = {"model": model, "verifier": verifier, "seed": seed, "source": Path(source).name, "steps": []}
    with report_folder(out, report) as folder:
        for number, (action, step) in enumerate(zip(said, steps, strict=True), 1):
            report["steps"].append({"action": action, **_written(step, number, folder)})
    return report


def _written(step: WorldModelOutput, number: int, folder: Path) -> dict[str, Any]:
    names = [f"step_{number}_candidate_{n}.png" for n in range(1, len(step.images[0]) + 1)]
    for name, image in zip(names, step.images[0], strict=True):
        save_image(image, folder / name)
    return {
        "chosen": names[int(step.selected[0])],
        "accepted": bool(step.accepted[0]),
        "candidates": [
            {"file": name, "kept": bool(step.kept[0, n]), **_numbers(step, n)} for n, name in enumerate(names)
        ],
    }


def _numbers(step: WorldModelOutput, n: int) -> dict[str, float | None]:
    found = {"score": step.scores, "margin": step.margins, "logprob": step.logprobs}
    values = {name: float(tensor[0, n]) for name, tensor in found.items()}
    return {name: None if math.isnan(value) else round(value, 6) for name, value in values.items()}
