"""Rows of a shard as the bytes of one file: JSON Lines, or Parquet where their columns have types."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_pipelines.runtime.readers import MAX_DEPTH, MAX_INT, parse_json

if TYPE_CHECKING:
    import pyarrow

INTEGERS = {f"int{n}": (-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (8, 16, 32, 64)}
INTEGERS |= {f"uint{n}": (0, 2**n - 1) for n in (8, 16, 32, 64)}
FLOATS = {"float32": (24, (2 - 2**-23) * 2.0**127), "float64": (53, math.inf)}  # bits of an exact integer, largest
TYPES = ("bool", *INTEGERS, *FLOATS, "string", "binary")
"""Types of Parquet columns, as Arrow names them; "list<T>" of one of them is the other kind."""

Columns = dict[str, str]


def rows_name(columns: Columns | None) -> str:
    """Name of the file that the rows of a shard lie in."""
    return "rows.parquet" if columns else "rows.jsonl"


def check_columns(columns: Any) -> None:
    """Refuse what is no mapping of names to `TYPES`, and Parquet where pyarrow is missing.

    Raises:
        ValueError: says which column, or what to install.
    """
    if columns is None:
        return
    if not isinstance(columns, dict) or not columns:
        raise ValueError(f"`columns` must be a dict of names to types, or None for JSON Lines; got {columns!r}")
    for name, kind in columns.items():
        inner = kind.removeprefix("list<").removesuffix(">") if isinstance(kind, str) else kind
        if not isinstance(name, str) or inner not in TYPES or kind not in (inner, f"list<{inner}>"):
            known = ", ".join(TYPES)
            raise ValueError(f"`columns` gives {name!r} the type {kind!r}; types are {known} and list<T> of them")
    arrow_schema(columns)


def encode(rows: Iterable[Any], columns: Columns | None) -> tuple[bytes, list[tuple[int, str]]]:
    """The bytes of a file that holds `rows`, and (index, reason) of those that can't be written and are not in it.

    Equal rows give equal bytes, with one version of pyarrow. A row is taken as it is when it comes.
    """
    refused, good = [], []
    for i, row in enumerate(rows):
        try:
            good.append(_line(row) if columns is None else _typed(row, columns))
        except (ValueError, TypeError) as error:
            refused.append((i, str(error)))
    return (b"".join(good) if columns is None else _parquet(good, columns)), refused


def count(data: bytes, columns: Columns | None) -> int:
    """How many rows a file's bytes hold.

    Raises:
        ValueError: it is no Parquet file where it should be one.
    """
    if columns is None:
        return data.count(b"\n")
    import pyarrow
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(pyarrow.BufferReader(data)).num_rows  # ArrowInvalid is a ValueError


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a shard's file, in their order; ".parquet" is Parquet, anything else JSON Lines.

    Raises:
        ValueError: it can't be read, or a line is not what was written; names the file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            return pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
        return [parse_json(line) for line in data.decode("utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise ValueError(f"can't read {path}: {error}") from None


def check_plain(value: Any, where: str, depth: int = 1) -> None:
    """Refuse what JSON would change or what a reader of it would refuse.

    Raises:
        ValueError: names the place, such as `config.sizes[2]`.
    """
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) >= MAX_INT:
            raise ValueError(f"`{where}` is an integer out of range")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"`{where}` is {value}, which JSON can't hold")
    elif depth > MAX_DEPTH:
        raise ValueError(f"`{where}` is more than {MAX_DEPTH} levels deep")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            check_plain(inner, f"{where}[{i}]", depth + 1)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"`{where}` has the key {key!r}; keys are strings")
            check_plain(inner, f"{where}.{key}", depth + 1)
    else:
        raise ValueError(f"`{where}` is of type {type(value).__name__}; plain values of JSON are allowed")


def _line(row: Any) -> bytes:
    if not isinstance(row, dict):
        raise ValueError(f"a row must be a dict, got {type(row).__name__}")
    check_plain(row, "row")
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8")


def _typed(row: Any, columns: Columns) -> dict[str, Any]:
    if not isinstance(row, dict) or row.keys() != columns.keys():
        had = ", ".join(map(str, row)) if isinstance(row, dict) else f"of type {type(row).__name__}"
        raise ValueError(f"the row is {had}; its columns must be {', '.join(columns)}")
    for name, kind in columns.items():
        if row[name] is not None and not _fits(row[name], kind):
            raise ValueError(f"`{name}` must be {kind} or None, got {row[name]!r:.80}")
    return {name: list(row[name]) if isinstance(row[name], list | tuple) else row[name] for name in columns}


def _fits(value: Any, kind: str) -> bool:
    """Whether a value is of a type as it stands: pyarrow itself cuts 1.5 to 1 and takes text for bytes."""
    if kind.startswith("list<"):
        return isinstance(value, list | tuple) and all(_fits(inner, kind[5:-1]) for inner in value)
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        return isinstance(value, int) and low <= value <= high
    if kind in FLOATS:
        bits, largest = FLOATS[kind]
        if isinstance(value, int):
            return abs(value) <= 2**bits
        return isinstance(value, float) and (not math.isfinite(value) or abs(value) <= largest)
    if kind == "binary":
        return isinstance(value, bytes)
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _parquet(rows: list[dict[str, Any]], columns: Columns) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist(rows, arrow_schema(columns))
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def arrow_schema(columns: Columns) -> "pyarrow.Schema":
    """The columns as pyarrow has them."""
    try:
        import pyarrow
    except ImportError:
        raise ValueError('`columns` need Parquet, which needs pyarrow: pip install "wm-pipelines[scale]"') from None

    def arrow(kind: str) -> "pyarrow.DataType":
        inner = pyarrow.type_for_alias(kind.removeprefix("list<").removesuffix(">"))
        return pyarrow.list_(inner) if kind.startswith("list<") else inner

    return pyarrow.schema([(name, arrow(kind)) for name, kind in columns.items()])
