"""Items as lines of JSON, for other programs and for our own commands; videos stay files."""

import json
import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.mcq.items import Item, check_items
from wm_pipelines.record import check_values
from wm_pipelines.runtime.files import write_atomic
from wm_pipelines.runtime.readers import located, read_jsonl

_LEFT_OUT = ("decides",)  # a function


def item_record(item: Item) -> dict[str, Any]:
    """Plain values of JSON; the video as a path.

    Raises:
        ValueError: the video is frames or a function: write it to a file first.
    """
    if item.video is not None and not isinstance(item.video, Path):
        raise item.error("video", type(item.video).__name__, "a path or None, to be written as JSON")
    found = {f.name: getattr(item, f.name) for f in fields(item) if f.name not in _LEFT_OUT}
    found["options"] = dict(item.options)
    return {**found, "also_right": list(item.also_right), "video": None if item.video is None else str(item.video)}


def write_items(path: str | os.PathLike, items: Iterable[Item]) -> Path:
    """Write items as lines of JSON, atomically.

    Raises:
        ValueError: as `item_record`.
    """
    lines = [json.dumps(item_record(item), ensure_ascii=False) + "\n" for item in items]
    return write_atomic(Path(path), "".join(lines))


def read_items(path: str | os.PathLike) -> list[Item]:
    """The items of a file of `write_items`; other fields of an item than those needed may be left out.

    Raises:
        ValueError: no such file, a line that is no item or has unknown fields, or a uid twice; names the line.
    """
    known = {f.name for f in fields(Item)} - set(_LEFT_OUT)
    items = []
    for number, record in read_jsonl(path):
        with located(path, number):
            if not isinstance(record, dict):
                raise ValueError(f"an item is {type(record).__name__}; it must be an object")
            unknown = sorted(set(record) - known)
            lacking = [n for n in ("source", "subset", "id", "question", "options", "answer") if n not in record]
            if unknown or lacking:
                what = f"has the unknown field {unknown[0]!r}" if unknown else f"lacks the field {lacking[0]!r}"
                raise ValueError(f"an item {what}; it has {', '.join(sorted(known))}")
            items.append(_item(record))
    return check_items(items)


def _item(record: dict[str, Any]) -> Item:
    check_values(Item, record)
    return Item(**{**record, "also_right": tuple(record.get("also_right", ()))})
