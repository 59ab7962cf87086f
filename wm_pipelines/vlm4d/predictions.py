"""The prediction files of VLM4D (2508.02095), from its repository: raw replies with what a judge said of them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.mcq.items import Item, clean
from wm_pipelines.evaluation.mcq.logs import logged_row
from wm_pipelines.evaluation.mcq.rows import Row
from wm_pipelines.runtime.readers import located, read_json
from wm_pipelines.vlm4d.data import read_question

FIELDS = ("id", "question", "choices", "response", "ground_truth_answer")


def read_predictions(
    path: str | os.PathLike,
    items: Sequence[Item],
    model: str | None = None,
    protocol: str | None = None,
    judged: bool = False,
) -> list[Row]:
    """A row for each reply of a file, in its order.

    A file is about one subset: that with which more of its questions agree. Some files were made with an earlier
    wording of a few questions, options and answers included. Such a reply is held against what it was asked: its row
    has the annotation `asked_otherwise`. `judged_correct` is the judge's verdict, None where the file has none.

    Args:
        items: of `load_vlm4d`.
        model: its name; the file's by default, such as "gpt-4o_32frame".
        protocol: "cot" or "direct"; what the folder's name says by default, "logged" where it says nothing.
        judged: take the judge's verdict instead of reading the reply: where it says right, the right letter; where
            it says wrong, the letter that was read, or none where that is the right one.

    Raises:
        ValueError: no such file, a record of another form, one of no item, or one that is there twice; names it.
    """
    path = Path(path)
    with located(path):
        return _rows(path, items, model, protocol, judged)


def _rows(path: Path, items: Sequence[Item], model: str | None, protocol: str | None, judged: bool) -> list[Row]:
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path} holds {type(records).__name__}; it must be a list of predictions")
    for place, record in enumerate(records):
        _check(f"{path}, prediction {place}", record)
    by_id = _items_of_subset(path, records, items)
    protocol, model = protocol or _protocol(path.parent.name), model or path.stem
    rows, seen = [], set()
    for place, record in enumerate(records):
        where, name = f"{path}, prediction {place}", clean(record["id"])
        if name not in by_id:
            raise ValueError(f"{where}: {name!r} is no item of the data set")
        if name in seen:
            raise ValueError(f"{where}: a prediction for {by_id[name].uid} is there twice")
        seen.add(name)
        asked, otherwise = _asked(by_id[name], record)
        said = {"judged_correct": record.get("correct"), "asked_otherwise": otherwise}
        row = logged_row(asked, record["response"], model=model, protocol=protocol, annotations=said)
        rows.append(_as_judged(where, row) if judged else row)
    return rows


def _check(where: str, record: Any) -> None:
    lacking = [name for name in FIELDS if not isinstance(record, dict) or name not in record]
    if lacking:
        raise ValueError(f"{where}: it lacks {lacking[0]!r}; a prediction has {', '.join(FIELDS)}")
    for name, kind, text in (
        ("id", str, "text"), ("question", str, "text"), ("choices", dict, "an object"),
        ("response", str | None, "text, or null for no reply"), ("correct", bool | None, "true or false"),
    ):  # fmt: skip
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{where}: `{name}` is {record.get(name)!r}; it must be {text}")


def _items_of_subset(path: Path, records: Sequence[Mapping[str, Any]], items: Sequence[Item]) -> dict[str, Item]:
    """id -> item of the subset that most questions are from."""
    known = {(item.id, item.question): item.subset for item in items if item.source == "vlm4d"}
    fits = Counter(known.get((clean(r["id"]), clean(r["question"]))) for r in records)
    fits.pop(None, None)
    if not fits or max(fits.values()) < len(records) / 2:
        raise ValueError(f"{path}: {sum(fits.values())} of {len(records)} questions are of the data set; most must be")
    subset = max(fits, key=fits.get)
    return {item.id: item for item in items if item.source == "vlm4d" and item.subset == subset}


def _asked(item: Item, record: Mapping[str, Any]) -> tuple[Item, bool]:
    """The item as it was asked, and whether that is another wording."""
    options = {letter: clean(str(text)) for letter, text in record["choices"].items()}
    answer = clean(str(record["ground_truth_answer"]))
    same = (
        clean(record["question"]) == item.question and options == item.options and answer == item.options[item.answer]
    )
    if same:
        return item, False
    fresh = {
        "id": item.id,
        "video": item.cluster,
        "question": record["question"],
        "choices": options,
        "answer": answer,
    }
    return replace(read_question(item.subset, fresh), annotations=item.annotations), True


def _as_judged(where: str, row: Row) -> Row:
    verdict = row.annotations["judged_correct"]
    if verdict is None:
        raise ValueError(f"{where}: it has no `correct`, the judge's verdict")
    if verdict == row.correct:
        return row
    return replace(row, letter=row.right[0] if verdict else None, stage="judge")


def _protocol(folder: str) -> str:
    return "cot" if "cot" in folder else "direct" if "direct" in folder else "logged"
