"""Data sets and logs of `wm eval` by what a path holds."""

from collections.abc import Sequence
from pathlib import Path

from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.rows import Row
from wm_pipelines.runtime.readers import read_json, read_jsonl

OURS = "rows.jsonl"


def data_items(
    path: Path, with_videos: bool = False, videos: Path | None = None, on_missing: str = "error"
) -> list[Item]:
    """A folder is VLM4D; a file MMWorld's questions, or items of ours as lines of JSON.

    Args:
        with_videos: look for the videos; those of MMWorld lie in `videos`. on_missing: as for the loaders.

    Raises:
        ValueError: there is none of these.
    """
    from wm_pipelines.evaluation.mcq.item_files import read_items
    from wm_pipelines.mmworld.data import load_mmworld
    from wm_pipelines.vlm4d.data import load_vlm4d

    if path.is_dir():
        return load_vlm4d(path, videos=with_videos, on_missing=on_missing)
    if path.suffix == ".jsonl" and "source" in _first(path):
        return read_items(path)
    return load_mmworld(path, videos=videos if with_videos else None, on_missing=on_missing)


def logged_rows(
    path: Path, items: Sequence[Item] | None, model: str | None, protocol: str | None, judged: bool = False
) -> list[Row]:
    """Rows of a file that another program logged, or of our own.

    Tables are VLMEvalKit's, lines of JSON lmms-eval's samples or our rows, a list of JSON VLM4D's predictions and an
    object MMWorld's submission.

    Raises:
        ValueError: none of these, or as its reader.
    """
    from dataclasses import replace

    from wm_pipelines.evaluation.mcq.logs import lmms_eval_rows, vlmevalkit_rows
    from wm_pipelines.evaluation.mcq.rows import read_rows
    from wm_pipelines.evaluation.mcq.sheets import SUFFIXES

    suffix = path.suffix.lower()
    if judged and suffix != ".json":
        raise ValueError(f"`--judged` takes the verdicts of VLM4D's prediction files, and {path.name} is none")
    if suffix in SUFFIXES:
        rows = vlmevalkit_rows(path, items, model)
    elif suffix == ".jsonl" and {"uid", "control", "right"} <= set(_first(path)):
        rows = read_rows(path)
    elif suffix == ".jsonl":
        rows = lmms_eval_rows(path, items, model)
    elif suffix == ".json":
        rows = _json_rows(path, items, model=model, protocol=protocol, judged=judged)
    else:
        raise ValueError(f"{path} is no log that is known: its suffix must be .json, .jsonl, {', '.join(SUFFIXES)}")
    return [replace(row, protocol=protocol) for row in rows] if protocol else rows


def run_rows(path: Path) -> list[Row]:
    """The rows of a run: a file of rows, or a folder with `rows.jsonl`."""
    from wm_pipelines.evaluation.mcq.rows import read_rows

    return read_rows(path / OURS if path.is_dir() else path)


def _json_rows(
    path: Path, items: Sequence[Item] | None, model: str | None, protocol: str | None, judged: bool
) -> list[Row]:
    from wm_pipelines.evaluation.mcq.logs import logged_row
    from wm_pipelines.mmworld.data import read_submission
    from wm_pipelines.vlm4d.predictions import read_predictions

    if items is None:
        raise ValueError(f"`--data` is needed for {path.name}: it does not say which videos its questions are about")
    if isinstance(read_json(path), list):
        return read_predictions(path, items, model=model, protocol=protocol, judged=judged)
    if judged:
        raise ValueError(f"`--judged` takes the verdicts of VLM4D's prediction files, and {path.name} is none")
    said = read_submission(path, items)
    named = {"model": model or path.stem, "protocol": protocol or "logged"}
    return [logged_row(item, said[item.uid], **named) for item in items]


def _first(path: Path) -> dict:
    found = read_jsonl(path)[0][1]
    return found if isinstance(found, dict) else {}
