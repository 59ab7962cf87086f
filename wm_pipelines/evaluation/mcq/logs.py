"""Rows of what others logged: samples of lmms-eval, tables of VLMEvalKit; `extract_answer` reads the replies.

A log says nothing about frames and prompts, so its rows can only be compared with such by `allow_mismatch`.
"""

import ast
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from wm_pipelines.evaluation.mcq.extract import extract_answer
from wm_pipelines.evaluation.mcq.items import LETTERS, Item, clean
from wm_pipelines.evaluation.mcq.rows import SHOWN, Row
from wm_pipelines.evaluation.mcq.sheets import read_sheet
from wm_pipelines.record import explain
from wm_pipelines.runtime.readers import located, read_jsonl

FAILED = ("Failed to obtain answer via API.", "Failed to obtain answer")
"""What VLMEvalKit writes where a model gave no reply: not answered, which is not wrong."""

_OPTION_LINE = re.compile(r"^[^\S\n]*+\(?([A-F])\s*+[.):]\s*+(.*\S)[^\S\n]*$", re.MULTILINE)
_END = re.compile(r"[.!?)\]}\"'”*$`]\s*$")


def logged_row(
    item: Item,
    reply: str | None,
    *,
    model: str,
    protocol: str,
    control: str = "full",
    shift: int = 0,
    right: Sequence[str] | None = None,
    annotations: Mapping[str, Any] | None = None,
) -> Row:
    """The row of a reply to an item.

    A reply that names no option and does not end as a sentence does is taken to be cut off (`truncated`); the log
    does not say.

    Args:
        reply: None where there was none.
        shift: places by which the options were moved on when they were shown.
        right: letters that are right, where a control changes them.
        annotations: further ones.
    """
    letters = list(item.options)
    shown = {letters[(i + shift) % len(letters)]: text for i, text in enumerate(item.options.values())}
    found = extract_answer(reply, dict(sorted(shown.items()))) if reply is not None else None
    letter = (
        None
        if found is None or found.letter is None
        else letters[(letters.index(found.letter) - shift) % len(letters)]
    )
    return Row(
        uid=item.uid, cluster=item.cluster, model=model, protocol=protocol, control=control, options=len(letters),
        right=tuple(item.right if right is None else right), letter=letter, source=item.source, subset=item.subset,
        facet=item.facet, family=item.family, annotations={**item.annotations, **(annotations or {})}, shift=shift,
        stage="" if found is None else found.stage or "", raw=reply, error="not answered" if reply is None else None,
        truncated=reply is not None and letter is None and bool(reply.strip()) and not _END.search(reply),
    )  # fmt: skip


def lmms_eval_rows(
    path: str | os.PathLike, items: Sequence[Item] | None = None, model: str | None = None
) -> list[Row]:
    """Rows of `{date}_samples_{task}.jsonl`, as lmms-eval 0.7 writes it with `--log_samples`.

    A sample of our own tasks names its item. Others are found among `items` by question and options, which must stand
    in the sample's input; without `items` both are read from the input, where an option is a line such as "A. left".

    Args:
        model: its name; the name of the folder by default, as lmms-eval has it.

    Raises:
        ValueError: no such file, or a sample that is none or that belongs to no or to several items; names the line.
    """
    path = Path(path)
    with located(path):
        return _samples(path, items, model)


def _samples(path: Path, items: Sequence[Item] | None, model: str | None) -> list[Row]:
    task = path.stem.partition("_samples_")[2] or path.stem
    book = _Book(items)
    rows = []
    for number, sample in read_jsonl(path):
        where = f"{path}, line {number}"
        if not isinstance(sample, dict) or "doc_id" not in sample or not {"resps", "filtered_resps"} & set(sample):
            raise ValueError(f"{where}: it is no sample of lmms-eval: it must have `doc_id` and `filtered_resps`")
        ours = next((v for v in sample.values() if isinstance(v, dict) and "uid" in v and "control" in v), None)
        text = sample.get("input") if isinstance(sample.get("input"), str) else ""
        for reply in _replies(sample):
            if ours is not None:
                rows.append(_own_row(where, ours, reply, model or path.parent.name))
                continue
            item = book.find(where, text) or _item_of_text(where, task, sample, text)
            rows.append(logged_row(item, reply, model=model or path.parent.name, protocol=_protocol(task)))
    return rows


def vlmevalkit_rows(
    path: str | os.PathLike, items: Sequence[Item] | None = None, model: str | None = None
) -> list[Row]:
    """Rows of a prediction table of VLMEvalKit (.xlsx, .tsv or .csv), with `question` and `prediction` in its columns.

    Options are the columns A to E, or a list in the column `candidates` or `options`; `answer` is a letter or a text.
    Items are found by `uid`, or by question, options and video; without `items` the table must have them itself.

    Args:
        model: its name; the file's up to the first "_" by default, as VLMEvalKit has it.

    Raises:
        ValueError: as `read_sheet`, a column that is missing, or a row that belongs to no or to several items.
    """
    path = Path(path)
    with located(path):
        return _predictions(path, items, model)


def _predictions(path: Path, items: Sequence[Item] | None, model: str | None) -> list[Row]:
    name, _, data = path.stem.partition("_")
    table = read_sheet(path)
    lacking = [column for column in ("question", "prediction") if column not in table[0]]
    if lacking:
        raise ValueError(f"{path} lacks the column {lacking[0]!r}; it has {', '.join(table[0])}")
    book = _Book(items)
    rows = []
    for number, record in enumerate(table, 1):
        where = f"{path}, row {number}"
        options = _table_options(where, record)
        text = "\n".join([record["question"], *options.values()])
        item = book.named(record.get("uid", "")) or book.find(where, text, record.get("video", ""))
        if item is None:
            place = (record.get("index") or str(number - 1)).strip()
            item = _item(where, data or name, place, record["question"], options, record.get("answer", ""),
                         record.get("video", ""))  # fmt: skip
        reply = record["prediction"]
        answered = not any(marker in reply for marker in FAILED)
        rows.append(logged_row(item, reply if answered else None, model=model or name, protocol=_protocol(path.stem)))
    return rows


class _OwnSample(BaseModel):
    """Of what our tasks log for a question, what a row needs."""

    source: str
    subset: str
    id: str
    question: str
    options: dict[str, str]
    right: list[str] = Field(min_length=1)
    shift: int = Field(ge=0)
    video_id: str
    facet: str
    family: str
    annotations: dict[str, str | bool | int | float | None]
    protocol: str
    control: str


class _Book:
    """Items to look up by uid, or by a text that holds question and options."""

    def __init__(self, items: Sequence[Item] | None):
        self.items = items
        self.by_uid = {item.uid: item for item in items or ()}
        self.by_question: dict[str, list[Item]] = {}
        for item in items or ():
            self.by_question.setdefault(_flat(item.question), []).append(item)

    def named(self, uid: str) -> Item | None:
        return self.by_uid.get(uid.strip())

    def find(self, where: str, text: str, video: str = "") -> Item | None:
        """None where there are no items to look among; ValueError where none or several fit."""
        if self.items is None:
            return None
        flat = _flat(text)
        lines = {_flat(line) for line in text.split("\n")}
        asked = [q for q in lines if q in self.by_question] or [q for q in self.by_question if q in flat]
        longest = [q for q in asked if not any(q != other and q in other for other in asked)]
        fits = [item for q in longest for item in self.by_question[q] if _offered(item, flat)]
        if len(fits) > 1 and video:
            fits = [item for item in fits if Path(item.cluster).stem == Path(video).stem] or fits
        if len(fits) != 1:
            said = f"{text[:80]!r} ..."
            raise ValueError(f"{where}: {len(fits) or 'none'} of the {len(self.items):,} items fit {said}; one must")
        return fits[0]


def _offered(item: Item, flat: str) -> bool:
    return all(_flat(option) in flat for option in item.options.values())


def _flat(text: str) -> str:
    return " ".join(text.lower().split())


def _replies(sample: Mapping[str, Any]) -> list[str | None]:
    """The replies of a sample: one, or as many as the task repeats. A nested list of one is that one."""
    found = sample["filtered_resps"] if "filtered_resps" in sample else sample["resps"]
    while isinstance(found, list) and len(found) == 1:
        found = found[0]
    return [x[0] if isinstance(x, list) and x else x for x in found] if isinstance(found, list) else [found]


def _own_row(where: str, logged: Mapping[str, Any], reply: Any, model: str) -> Row:
    """The row of a sample of our own tasks, which log the options as they were shown and what is right."""
    with located(where):
        try:
            said = _OwnSample.model_validate(logged)
        except ValidationError as error:
            raise ValueError(f"it is no sample of our tasks: {explain(error)}") from None
        item = Item(
            source=said.source, subset=said.subset, id=said.id, question=said.question, options=said.options,
            answer=said.right[0], also_right=tuple(said.right[1:]), cluster=said.video_id, facet=said.facet,
            family=said.family, annotations=said.annotations,
        )  # fmt: skip
        return logged_row(item, reply, model=model, protocol=said.protocol, control=said.control, shift=said.shift)


def _item_of_text(where: str, task: str, sample: Mapping[str, Any], text: str) -> Item:
    options = {}
    for letter, option in _OPTION_LINE.findall(text):
        if letter == LETTERS[len(options) : len(options) + 1]:
            options[letter] = option
    if len(options) < 2:
        raise ValueError(f"{where}: its input has no lines of options such as 'A. left'; pass the data set")
    question = text.split("\n")[0] if text.strip() else task
    video = next((str(v["video_id"]) for v in sample.values() if isinstance(v, dict) and "video_id" in v), "")
    return _item(where, task, str(sample["doc_id"]), question, options, str(sample.get("target", "")), video)


def _item(
    where: str, source: str, place: str, question: str, options: Mapping[str, str], answer: str, video: str
) -> Item:
    """An item that is known from a log alone."""
    said = clean(answer)
    letter = re.fullmatch(r"\(?([A-Fa-f])[).:]?", said)
    right = [letter[1].upper()] if letter else [key for key, text in options.items() if clean(text) == said]
    if not right or right[0] not in options:
        raise ValueError(f"{where}: the answer is {answer!r}; it must be one of the options, {dict(options)}")
    equal = [key for key, text in options.items() if key not in right and text == options[right[0]]]
    return Item(
        source=source, subset="log", id=place, question=question, options=options, answer=right[0],
        also_right=(*right[1:], *equal), cluster=video,
    )  # fmt: skip


def _table_options(where: str, record: Mapping[str, str]) -> dict[str, str]:
    columns = {letter: record[letter] for letter in SHOWN if record.get(letter, "").strip() not in ("", "nan")}
    if columns:
        return columns
    for name in ("candidates", "options", "choices"):
        text = record.get(name, "").strip()
        if not text:
            continue
        try:
            values = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # of what nests too deep
            raise ValueError(f"{where}: `{name}` is {text[:60]!r}; it must be a list of options") from None
        values = list(values.values()) if isinstance(values, dict) else values
        if not isinstance(values, list | tuple):
            raise ValueError(f"{where}: `{name}` is {text[:60]!r}; it must be a list of options")
        bare = [re.sub(r"^\(?[A-F][.):]\s*", "", str(value)) for value in values]
        return dict(zip(SHOWN, bare, strict=False))
    return {}


def _protocol(name: str) -> str:
    """What a file's name says of the protocol."""
    low = name.lower()
    return "cot" if re.search(r"(?:^|[_-])cot", low) else "direct" if "direct" in low else "logged"
