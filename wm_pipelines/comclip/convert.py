"""The authors' pickled Flickr30k table as JSON, once and offline, without pandas and without running what it holds.

    wm convert flickr30k flickr30k_test.pkl flickr30k_test.json

A pickle can run any code when it is loaded. It is read as text is read here (`runtime.pickles`): nothing that it names
is looked up or called, and names beside those of a pandas table are refused.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from wm_pipelines.runtime.claims import claimed_new_file
from wm_pipelines.runtime.files import write_atomic
from wm_pipelines.runtime.pickles import ARRAY_NAMES, Made, read_pickle, to_array, to_number

FRAME = "pandas.core.frame.DataFrame"
MANAGER = "pandas.core.internals.managers.BlockManager"
BLOCK = "pandas._libs.internals._unpickle_block"
INDEX = "pandas.core.indexes.base._new_Index"
SLICE = "builtins.slice"
NAMES = ARRAY_NAMES | {FRAME, MANAGER, BLOCK, INDEX, SLICE} | {
    "pandas.core.indexes.base.Index", "pandas.core.indexes.range.RangeIndex",
}  # fmt: skip
MOST_VALUES = 5_000_000
"""Values that a table may hold; a small pickle can name one list a great many times."""
DEEPEST = 16


def read_pickled_table(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Rows of a pickled `DataFrame`, with plain Python values.

    Raises:
        ValueError: no such file, no pickle, a name beside those of a pandas table, or another content.
    """
    try:
        frame = read_pickle(Path(path).read_bytes(), NAMES)
    except (OSError, ValueError) as error:
        what = "only the parts of a pandas table are read"
        raise ValueError(f"{path} can't be read as a pickled table: {error}: {what}") from None
    manager = frame.state.get("_mgr") if _is(frame, FRAME) and isinstance(frame.state, dict) else None
    if not _is(manager, MANAGER):
        kind = frame.name if isinstance(frame, Made) else type(frame).__name__
        raise ValueError(f"{path} holds no pandas table of the known layout, but {kind}")
    try:
        return _rows(*blocks_and_axes(manager))
    except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{path} holds no whole pandas table: {type(error).__name__}: {error}") from None


def _is(value: Any, name: str) -> bool:
    return isinstance(value, Made) and value.name == name


def _rows(blocks: Any, axes: Any) -> list[dict[str, Any]]:
    names = [str(name) for name in to_array(axes[0].args[1]["data"])]
    columns: dict[str, list[Any]] = {}
    budget = [MOST_VALUES]
    for block in blocks:
        values, placement = block.args[0], block.args[1]
        if _is(placement, SLICE):
            places = range(len(names))[slice(*placement.args)]
        else:
            places = to_array(placement)
        for place, column in zip(places, columns_of(values, len(places)), strict=True):
            columns[names[place]] = [_plain(value, budget) for value in column]
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]


def columns_of(values: Any, count: int) -> list[Any]:
    """The columns of a block, whose values stand column by column."""
    found = to_array(values)
    if isinstance(found, np.ndarray):
        return list(found)
    length, rest = divmod(len(found), count) if count else (0, len(found))
    if rest:
        raise ValueError(f"{len(found)} values in {count} columns")
    return [found[n * length : (n + 1) * length] for n in range(count)]


def blocks_and_axes(manager: Made) -> tuple[Any, Any]:
    """Blocks and axes, which pandas gives as arguments since 1.3; older ones kept them in a state and are refused."""
    if len(manager.args) >= 2:
        return manager.args[0], manager.args[1]
    raise ValueError("the table was pickled by a pandas older than 1.3; open it there and pickle it again")


def _plain(value: Any, budget: list[int], depth: int = 0) -> Any:
    """Lists, strings and numbers as JSON has them.

    Args:
        budget: how many more values may come; counted down in place.
    """
    budget[0] -= 1
    if budget[0] < 0 or depth > DEEPEST:
        raise ValueError(f"it holds more than {MOST_VALUES} values, or lists more than {DEEPEST} deep")
    if isinstance(value, list | tuple):
        return [_plain(item, budget, depth + 1) for item in value]
    if isinstance(value, Made):
        made = to_number(value) if value.name.endswith("multiarray.scalar") else to_array(value)
        return _plain(made.tolist() if isinstance(made, np.ndarray) else made, budget, depth + 1)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"a cell holds a {type(value).__name__}")


def convert(source: str | os.PathLike, target: str | os.PathLike) -> int:
    """Writes the rows of a pickled table to a JSON file, whole or not at all; returns their number.

    Raises:
        ValueError: as `read_pickled_table`, or a target that is there or can't be written.
    """
    with claimed_new_file(target) as path:
        rows = read_pickled_table(source)
        write_atomic(path, json.dumps(rows, ensure_ascii=False, indent=0) + "\n")
    return len(rows)
