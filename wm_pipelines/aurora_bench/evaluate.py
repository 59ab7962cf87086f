"""Models measured with files: rows as they come, so that a run goes on where it was killed, a report and a page."""

import json
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from wm_pipelines.aurora_bench.editors import load_editor
from wm_pipelines.aurora_bench.embeddings import load_embedders
from wm_pipelines.aurora_bench.items import EditItem
from wm_pipelines.aurora_bench.judge import EditJudge, calibrate
from wm_pipelines.aurora_bench.pipeline import AuroraBenchPipeline, check_items
from wm_pipelines.aurora_bench.summary import compare, summarise
from wm_pipelines.media.pages import write_page
from wm_pipelines.media.pictures import load_image, save_image, to_tensor
from wm_pipelines.record import explain
from wm_pipelines.runtime.claims import check_folder
from wm_pipelines.runtime.devices import on_accelerator
from wm_pipelines.runtime.files import create
from wm_pipelines.runtime.readers import decode_text, located, parse_json, read_json
from wm_pipelines.runtime.reports import write_json


class _Row(BaseModel):
    """Of a row, what tells it from others."""

    model_config = ConfigDict(extra="allow", strict=True)
    item: str
    step: int


_ROWS = TypeAdapter(Annotated[list[_Row], Field(min_length=1)])
SETTINGS, ROWS, REPORT = "settings.json", "rows.jsonl", "report.json"
SHOWN = 4  # worst and best items of a model on the page
GAP = 4  # pixels between the pictures of a strip


def evaluate(
    models: Sequence[str],
    items: Sequence[EditItem],
    out: str | os.PathLike,
    seed: int = 0,
    clip: str | None = None,
    dino: str | None = None,
    judge: EditJudge | None = None,
    judge_name: str = "",
    num_candidates: int = 1,
    verifier: str | None = None,
) -> dict[str, Any]:
    """Measures models on the same items and writes `report.json` and `index.html` to `out`.

    `out/<number>/rows.jsonl` has a line for each item of a model, written when it is done, and its pictures lie
    beside; called again after a kill with the same arguments it goes on.

    Args:
        models: names for `editors.load_editor`. clip, dino: by name, for CLIP-I, CLIP-T and DINO.
        judge: asked for every edit; on items with a truth it is calibrated first. judge_name: for the report.
        num_candidates, verifier: of world models.

    Returns:
        The report.

    Raises:
        ValueError: a model named twice or none, bad items, or a folder of another evaluation.
    """
    out, models = Path(out), list(models)
    if not models or len(set(models)) < len(models):
        raise ValueError(f"`models` is {models!r}; name one or more, each once")
    check_items(items)
    names = sha256(json.dumps([[item.name, item.task, item.instructions] for item in items]).encode()).hexdigest()
    settings = {
        "models": models, "items": names, "count": len(items), "seed": seed, "clip": clip, "dino": dino,
        "judge": judge_name, "runs": judge.runs if judge else 0, "num_candidates": num_candidates,
        "verifier": verifier,
    }  # fmt: skip
    _open(out, settings)
    parts = load_embedders(clip, dino)
    rows = {}
    for n, model in enumerate(models):
        rows[model] = _measured(model, items, out / str(n), parts, settings=settings, judge=judge)
    report = {
        "settings": settings,
        "tasks": list(dict.fromkeys(item.task for item in items)),
        "models": [{"name": model, "summary": summarise(found)} for model, found in rows.items()],
        "comparisons": [
            {"first": a, "second": b, "tasks": compare(rows[a], rows[b])}
            for n, a in enumerate(models)
            for b in models[n + 1 :]
        ],
        "calibration": _calibration(judge, items, out),
        "shown": [
            {"model": model, "items": _strips(found, {item.name: item for item in items}, out, n)}
            for n, (model, found) in enumerate(rows.items())
        ],
    }
    write_json(out / REPORT, report)
    write_page("wm_pipelines.aurora_bench", "aurora.html", out, report)
    return report


def _open(out: Path, settings: dict[str, Any]) -> None:
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    if not create(out / SETTINGS, (json.dumps(settings, indent=2) + "\n").encode()):
        found = read_json(out / SETTINGS)
        if not isinstance(found, dict):
            raise ValueError(f"{out / SETTINGS} holds {type(found).__name__}; it must be an object")
        changed = sorted(key for key in settings.keys() | found.keys() if settings.get(key) != found.get(key))
        if changed:
            raise ValueError(f"{out} holds another evaluation ({', '.join(changed)} differ); start a new folder")


def _measured(
    model: str,
    items: Sequence[EditItem],
    folder: Path,
    parts: dict[str, Any],
    settings: dict[str, Any],
    judge: EditJudge | None,
) -> list[dict[str, Any]]:
    done = read_done(folder / ROWS)
    left = [item for item in items if item.name not in done]
    if left:
        draw = load_editor(model, settings["num_candidates"], settings["verifier"])
        pipeline = AuroraBenchPipeline(draw, **parts)
        on_accelerator(pipeline)
        numbers = {item.name: n for n, item in enumerate(items)}
        (folder / "pictures").mkdir(parents=True, exist_ok=True)

        def keep(item: EditItem, states: list, edits: list[torch.Tensor], rows: list[dict[str, Any]]) -> None:
            for step, edited in enumerate(edits):
                save_image(edited, folder / "pictures" / f"{numbers[item.name]}-{step}.png")
            with open(folder / ROWS, "a", encoding="utf-8") as file:
                file.write(json.dumps(rows) + "\n")
                file.flush()
                os.fsync(file.fileno())
            done[item.name] = rows

        pipeline(left, seed=settings["seed"], judge=judge, on_item=keep)
    return [row for item in items for row in done[item.name]]


def read_done(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Item -> its rows; a last line that a kill cut short is taken off the file."""
    if not path.is_file():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    found: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        with located(path, number):
            rows = parse_json(decode_text(line))
            try:
                _ROWS.validate_python(rows)
            except ValidationError as error:
                raise ValueError(f"they are no rows of an item: {explain(error)}") from None
            found[rows[0]["item"]] = rows
    return found


def _calibration(judge: EditJudge | None, items: Sequence[EditItem], out: Path) -> dict[str, Any] | None:
    path = out / "calibration.json"
    if path.is_file():
        return read_json(path)
    known = [item for item in items if len(item.states()) > 1] if judge else []
    if judge is None or len(known) < 2:
        return None
    found = calibrate(judge, known)
    write_json(path, found)
    return found


def _strips(rows: list[dict[str, Any]], items: dict[str, EditItem], out: Path, number: int) -> list[dict[str, Any]]:
    """The worst and the best items of a model as strips: source, then each edit, with the truth below."""
    last = {row["item"]: row for row in rows}

    def quality(name: str) -> float:
        found = last[name]["measures"]
        return min(found["change"] or 0.0, found["preserve"]) if found["l1"] is not None else found["change"]

    order = sorted(last, key=lambda name: (quality(name), name))
    places = {name: n for n, name in enumerate(items)}
    chosen = [("worst", name) for name in order[:SHOWN]]
    chosen += [("best", name) for name in reversed(order[-SHOWN:]) if name not in order[:SHOWN]]
    found = []
    for kind, name in chosen:
        item = items[name]
        states = item.states()
        files = [out / str(number) / "pictures" / f"{places[name]}-{n}.png" for n in range(len(item.instructions))]
        edits = [to_tensor(load_image(file)) for file in files]
        path = out / "shown" / f"{number}-{places[name]}.png"
        path.parent.mkdir(exist_ok=True)
        save_image(_grid([[states[0], *edits], states if len(states) > 1 else []]), path)
        found.append({"kind": kind, "row": last[name], "words": item.instructions, "file": str(path.relative_to(out))})
    return found


def _grid(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    """Rows of pictures of one size on white."""
    rows = [row for row in rows if row]
    _, height, width = rows[0][0].shape
    columns = max(map(len, rows))
    sheet = torch.ones(3, len(rows) * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = y * (height + GAP), x * (width + GAP)
            sheet[:, top : top + height, left : left + width] = picture
    return sheet
