"""Evaluate a model on items, with controls, intervals and a page (our design)."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.mcq.asking import Asker, BadVideo, by_key, unasked, video_name
from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.models import AnswersQuestions, as_model
from wm_pipelines.evaluation.mcq.rows import Row, RowFile, read_rows, write_rows
from wm_pipelines.evaluation.mcq.settings import Settings, Task, plan
from wm_pipelines.evaluation.mcq.summary import headline, summarise
from wm_pipelines.runtime.readers import read_json
from wm_pipelines.runtime.reports import write_json

ROWS, SETTINGS, REPORT = "rows.jsonl", "settings.json", "report.json"


@dataclass(frozen=True)
class Evaluation:
    """What came of it.

    Args:
        rows: one for each question. report: their figures, see `summary.summarise`.
        out: the folder with `rows.jsonl`, `report.json` and `index.html`; None where none was asked for.
    """

    rows: list[Row]
    report: dict[str, Any]
    out: Path | None

    @property
    def headline(self) -> str:
        """The score in one line with what would make it worthless."""
        return headline(self.report)


def evaluate(
    items: Sequence[Item],
    model: Any,
    *,
    out: str | os.PathLike | None = None,
    progress: bool = False,
    on_row: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Evaluation:
    """Ask a model about items, under controls.

    With `out`, every row is on disk before the next question is asked: the same call goes on where a killed one ended,
    and asks again only what was not answered.

    Args:
        items: with different `uid`s.
        model: a `VisionLanguageModel`, an `EndpointModel`, or a function as `FunctionModel` takes it.
        out: folder for rows, report and page; new, or one of an earlier run with the same model and settings.
        progress: show a bar. on_row: called with how many questions are done, and of how many.
        settings: of `Settings`: `protocol`, `controls`, `num_frames` and others.

    Raises:
        ValueError: settings, items and videos that don't fit, see `plan`; a folder of another run; a video that can't
            be read, where these are not skipped.
    """
    chosen, model = Settings(**settings), as_model(model)
    model.check(chosen.protocol)
    task = plan(items, chosen)
    if out is not None:
        open_folder(Path(out), run_record(chosen, model))
    asker = Asker(task, model, chosen)
    with RowFile(Path(out) / ROWS) if out is not None else nullcontext() as file:
        rows = _ask(asker, task, chosen, file, _teller(progress, on_row))
    return finish(task, rows, chosen, model.name, out)


def run_record(settings: Settings, model: AnswersQuestions) -> dict[str, Any]:
    """What two runs must have in common to lie in one folder; `weights` where the model knows what its are."""
    return settings.record(model.name) | {"weights": getattr(model, "weights", None)}


def open_folder(out: Path, record: dict[str, Any]) -> None:
    """Make the folder of a run, or open it.

    Raises:
        ValueError: it is one of a run with other settings, or of something else.
    """
    if not (out / SETTINGS).exists():
        if (out / ROWS).exists():
            raise ValueError(f"`out` {str(out)!r} holds rows of another origin; name another folder")
        write_json(out / SETTINGS, record)
    found = read_json(out / SETTINGS)
    if not isinstance(found, dict):
        raise ValueError(f"{out / SETTINGS} holds {type(found).__name__}; it must be an object")
    other = [name for name in record if found.get(name) != record[name]]
    if other:
        raise ValueError(
            f"`out` {str(out)!r} holds a run with another {other[0]}: {found.get(other[0])!r:.200}, not "
            f"{record[other[0]]!r}; name another folder"
        )


def finish(
    task: Task, rows: Sequence[Row], settings: Settings, model: str, out: str | os.PathLike | None
) -> Evaluation:
    """The report and the page of all rows of a task; those of questions that are not asked here stay in the file."""
    report = summarise(rows)
    report |= {"settings": settings.record(model), "skipped": task.skipped, "unfit": task.unfit}
    if out is None:
        return Evaluation(list(rows), report, None)
    from wm_pipelines.evaluation.mcq.page import write_report

    out = Path(out)
    asked = {order(row)[:3] for row in rows}
    kept = [row for row in by_key(read_rows(out / ROWS)).values() if order(row)[:3] not in asked] if _has(out) else []
    write_rows(out / ROWS, sorted([*rows, *kept], key=order))
    write_report(out, report, rows, task.items)
    write_json(out / REPORT, report)
    return Evaluation(list(rows), report, out)


def order(row: Row) -> tuple[str, str, int, str]:
    """The order of rows in a file that is whole."""
    return row.uid, row.control, row.shift, row.key


def _has(out: Path) -> bool:
    return (out / ROWS).exists()


def _ask(
    asker: Asker, task: Task, settings: Settings, file: RowFile | None, tell: Callable[[int, int], None]
) -> list[Row]:
    done = by_key(file.rows) if file is not None else {}
    questions = {item.uid: asker.questions(item) for item in task.items}
    total, count = sum(map(len, questions.values())), 0
    rows = []
    for item in sorted(task.items, key=video_name):  # a file is read once for all its questions
        asked, left = questions[item.uid], unasked(questions[item.uid], done)
        count += len(asked) - len(left)
        tell(count, total)
        try:
            for row in asker.rows(item, left):
                if file is not None:
                    file.append(row)
                done[row.key] = row
                count += 1
                tell(count, total)
        except BadVideo as error:
            skip(task, item, error, settings)
            count += sum(q[2] not in done for q in asked)
            continue
        rows += [done[key] for _, _, key in asked]
    if not rows:
        raise ValueError(f"no item is left: of {len(task.skipped)} the video can't be read")
    return sorted(rows, key=order)


def skip(task: Task, item: Item, error: BadVideo, settings: Settings) -> None:
    """Leave an item out whose video can't be read, if that was asked for.

    Raises:
        ValueError: it was not; says how many items have this video.
    """
    if settings.on_missing == "error":
        affected = sum(video_name(other) == video_name(item) for other in task.items)
        raise ValueError(
            f"{error}; `on_missing='skip'` leaves such out, this video has {affected:,} of {len(task.items):,} items"
        ) from None
    task.skipped[item.uid] = str(error)


def _teller(progress: bool, on_row: Callable[[int, int], None] | None) -> Callable[[int, int], None]:
    from tqdm import tqdm

    bar = tqdm(unit="question", disable=not progress)

    def tell(count: int, total: int) -> None:
        bar.total = total
        bar.update(count - bar.n)
        if count == total:
            bar.close()
        if on_row:
            on_row(count, total)

    return tell
