"""The authors' pickled Flickr30k table as JSON, once and offline, without pandas and without running what it holds.

    python -m wm_pipelines.comclip.convert flickr30k_test.pkl flickr30k_test.json

A pickle can run any code when it is loaded. The reader here knows the few constructors of a pandas table, gives inert
stand-ins for pandas' own, and refuses every other name.
"""

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wm_pipelines.runtime.files import write_atomic


class _Held:
    """Keeps what pandas' class would have been given."""

    def __init__(self, *args: Any):
        self.args, self.state = args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Frame(_Held):
    pass


class _Manager(_Held):
    pass


def _held(*args: Any) -> _Held:
    return _Held(*args)


_STAND_INS = {
    ("pandas.core.frame", "DataFrame"): _Frame,
    ("pandas.core.internals.managers", "BlockManager"): _Manager,
    ("pandas._libs.internals", "_unpickle_block"): _held,
    ("pandas.core.indexes.base", "_new_Index"): _held,
    ("pandas.core.indexes.base", "Index"): _Held,
    ("pandas.core.indexes.range", "RangeIndex"): _Held,
    ("builtins", "slice"): slice,
}
_NUMPY = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("multiarray", "_reconstruct"), ("multiarray", "scalar"),
    ("numeric", "_frombuffer"),
}  # fmt: skip


class _TableUnpickler(pickle.Unpickler):
    """Finds the constructors of a pandas table and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        root = module.split(".")[0]
        if root == "numpy" and (module.split(".")[-1], name) in _NUMPY:
            if module == "numpy":
                return getattr(np, name)
            parts = __import__("numpy._core" if hasattr(np, "_core") else "numpy.core", fromlist=["multiarray"])
            return getattr(getattr(parts, module.split(".")[-1]), name)
        raise ValueError(f"refusing a pickle that asks for {module}.{name}: only the parts of a pandas table are read")


def read_pickled_table(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Rows of a pickled `DataFrame`, with plain Python values.

    Raises:
        ValueError: no such file, no pickle, a name beside those of a pandas table, or another content.
    """
    try:
        with open(path, "rb") as file:
            frame = _TableUnpickler(file).load()
    except (OSError, EOFError, pickle.UnpicklingError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise ValueError(f"{path} can't be read as a pickled table: {error}") from None
    manager = frame.state.get("_mgr") if isinstance(frame, _Frame) and isinstance(frame.state, dict) else None
    if not isinstance(manager, _Manager):
        raise ValueError(f"{path} holds no pandas table of the known layout, but {type(frame).__name__}")
    blocks, axes = _blocks_and_axes(manager)
    try:
        return _rows(blocks, axes)
    except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{path} holds no whole pandas table: {type(error).__name__}: {error}") from None


def _rows(blocks: Any, axes: Any) -> list[dict[str, Any]]:
    names = [str(name) for name in axes[0].args[1]["data"]]
    columns: dict[str, list[Any]] = {}
    for block in blocks:
        values, placement = block.args[0], block.args[1]
        places = range(len(names))[placement] if isinstance(placement, slice) else placement
        for place, column in zip(places, values, strict=True):
            columns[names[place]] = [_plain(value) for value in column]
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]


def _blocks_and_axes(manager: _Manager) -> tuple[Any, Any]:
    """Blocks and axes, which pandas gives as arguments since 1.3; older ones kept them in a state and are refused."""
    if len(manager.args) >= 2:
        return manager.args[0], manager.args[1]
    raise ValueError("the table was pickled by a pandas older than 1.3; open it there and pickle it again")


def _plain(value: Any) -> Any:
    """Lists, strings and numbers as JSON has them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def convert(source: str | os.PathLike, target: str | os.PathLike) -> int:
    """Writes the rows of a pickled table to a JSON file, whole or not at all; returns their number."""
    rows = read_pickled_table(source)
    write_atomic(Path(target), json.dumps(rows, ensure_ascii=False, indent=0) + "\n")
    return len(rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m wm_pipelines.comclip.convert IN.pkl OUT.json")
    try:
        print(f"{convert(sys.argv[1], sys.argv[2])} rows in {sys.argv[2]}")
    except ValueError as problem:
        sys.exit(f"error: {problem}")
