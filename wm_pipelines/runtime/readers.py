"""Strict readers of text, JSON, JSONL, CSV, YAML and array files: one for each kind, used by all.

A byte-order mark says how a file is encoded (UTF-8 without one) and never becomes text. Whatever is wrong is a
`ValueError` that says so; readers that take a path put the file, and the line where there is one, before it.
"""

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ContextDecorator
from typing import IO, TYPE_CHECKING, Any

from wm_pipelines.runtime.limits import limit

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = limit("TEXT_BYTES", 256 * 2**20)
"""Bytes that a text file may have; Karpathy's table of Flickr30k has 38 million."""

MAX_DEPTH = 64
"""Levels of lists and objects within one another that JSON and YAML may have."""

MAX_INT = 2**63
"""Integers of JSON and YAML lie below this, either way."""

# The longer mark of two that begin alike comes first.
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)

Source = str | os.PathLike


MAX_SAID = 1000
"""Characters of a message about a file; what came is quoted in it, and may be as long as the file."""


class concise(ContextDecorator):
    """Cuts what a ValueError says to `MAX_SAID`, for readers of text that quote what came; also a decorator."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError) and len(str(error)) > 2 * MAX_SAID:
            raise ValueError(_cut(str(error))) from None


def _cut(said: str) -> str:
    return said if len(said) <= MAX_SAID else f"{said[: MAX_SAID * 3 // 4]} ... {said[-MAX_SAID // 4 :]}"


class located:
    """Puts the file, and the line if there is one, before the message of a ValueError, and cuts it to `MAX_SAID`."""

    def __init__(self, path: Source, line: int | None = None):
        self.file, self.where = f"{path}", f"{path}" if line is None else f"{path}, line {line}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, ValueError):
            return
        said, known = str(error), str(error).startswith(("can't read", self.file))
        if not known or len(said) > 2 * MAX_SAID:
            raise ValueError(_cut(said) if known else f"{self.where}: {_cut(said)}") from None


def decode_text(data: bytes) -> str:
    """The text of a file's bytes, without its byte-order mark; line breaks stay as they are.

    Raises:
        ValueError: bytes that are no text, or a NUL, which UTF-16 without its mark is full of.
    """
    mark, encoding = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text of {encoding.upper()}: {error.reason} at byte {error.start}") from None
    if "\0" in text:
        raise ValueError("it is no text: it holds a NUL character; save it as UTF-8")
    return text


def read_text(path: Source, newline: str | None = None) -> str:
    r"""The text of a file.

    Args:
        newline: as in `open`: None makes "\r\n" and "\r" to "\n", "" leaves them.

    Raises:
        ValueError: it is not there, has more than `MAX_BYTES`, or holds something else.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"can't read {path}: {error}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"can't read {path}: it has more than {MAX_BYTES} bytes")
    try:
        text = decode_text(data)
    except ValueError as error:
        raise ValueError(f"can't read {path}: {error}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n") if newline is None else text


def read_lines(path: Source) -> list[tuple[int, str]]:
    r"""(number from 1, line) of every line that is not blank. A line ends at "\n", "\r\n" or "\r" and nowhere else.

    Raises:
        ValueError: as `read_text`.
    """
    return [(n, line) for n, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]


def parse_json(text: str, most: int = MAX_INT) -> Any:
    """The value of a JSON text.

    Args:
        most: integers lie below it, either way.

    Raises:
        ValueError: no JSON, NaN or infinity, a number out of range, a name twice in one object, or more than
            `MAX_DEPTH` levels.
    """
    try:
        data = json.loads(text.removeprefix("\ufeff"), parse_constant=_no_number, object_pairs_hook=_named_once)
    except RecursionError:
        raise ValueError(f"it has more than {MAX_DEPTH} levels") from None
    _check_values(data, most)
    return data


def read_json(path: Source) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: as `read_text` and `parse_json`; names the file.
    """
    with located(path):
        return parse_json(read_text(path))


def read_jsonl(path: Source) -> list[tuple[int, Any]]:
    r"""(number of the line from 1, value) of a file with a JSON value on each line. A line ends at "\n" only.

    Raises:
        ValueError: no such file, one without a value, or a line that `parse_json` refuses; names it.
    """
    found = []
    for number, line in enumerate(read_text(path, newline="").split("\n"), 1):
        if line.strip():
            with located(path, number):
                found.append((number, parse_json(line)))
    if not found:
        raise ValueError(f"{path} holds no line")
    return found


def read_csv(path: Source, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(line where it begins, {column: value}) of each row of a CSV file with a header; a quoted value may hold lines.

    Args:
        columns: what the header must name and each row must have a value for; others may be there.

    Raises:
        ValueError: no such file or row, columns that are missing or there twice, a row with too few or too many
            values or a broken quote; names the line.
    """
    csv.field_size_limit(MAX_BYTES)
    reader = csv.reader(io.StringIO(read_text(path, newline=""), newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    begins = 1
    try:
        for row in reader:
            if any(value.strip() for value in row):
                rows.append((begins, row))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {begins}: {error}") from None
    header = rows[0][1] if rows else []
    absent = [name for name in columns if name not in header]
    if absent:
        raise ValueError(f"{path} lacks the column(s) {', '.join(absent)}; it has {', '.join(header)[:500]}")
    twice = next((name for name, times in Counter(header).items() if times > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has the column {twice!r:.200} twice")
    if len(rows) == 1:
        raise ValueError(f"{path} holds no row")
    found = []
    for line, row in rows[1:]:
        if len(row) > len(header):
            raise ValueError(f"{path}, line {line}: {len(row)} values for {len(header)} columns; quote those with ','")
        named = dict(zip(header, row, strict=False))
        short = [name for name in columns if not named.get(name, "").strip()]
        if short:
            raise ValueError(f"{path}, line {line}: no value for {', '.join(short)}")
        found.append((line, named))
    return found


def parse_yaml(text: str, loader: Any = None) -> Any:
    """The value of a YAML text, by a safe loader.

    Args:
        loader: a class under `yaml.SafeLoader`, which it is by default.

    Raises:
        ValueError: no YAML, an alias (a few bytes of them stand for any number of values), a name twice in one
            mapping or one that is no text, a number out of range, or more than `MAX_DEPTH` levels.
    """
    import yaml

    class Strict(loader or yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it holds an alias (*name); write the value out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _check_once(keys)
            found = super().construct_mapping(node, deep)
            other = next((name for name in found if not isinstance(name, str)), "")
            if other != "":
                raise ValueError(f"the name {other!r:.200} is no text; write it in quotes")
            return found

    try:
        data = yaml.load(text.removeprefix("\ufeff"), Strict)
    except RecursionError:
        raise ValueError(f"it has more than {MAX_DEPTH} levels") from None
    except (yaml.YAMLError, AttributeError, TypeError) as error:  # the latter of tags that don't fit their values
        raise ValueError(f"it is no YAML: {' '.join(str(error).split())}") from None
    _check_values(data)
    return data


def read_yaml(path: Source, loader: Any = None) -> Any:
    """The value of a YAML file; `loader` as for `parse_yaml`.

    Raises:
        ValueError: as `read_text` and `parse_yaml`; names the file.
    """
    with located(path):
        return parse_yaml(read_text(path), loader)


def read_array(path: Source) -> "np.ndarray":
    """The array of a .npy file, whose size is checked before it is given memory; pickled ones are never read.

    Raises:
        ValueError: no such file, none of that format, objects, or more or fewer values than it says.
    """
    import numpy as np

    try:
        with open(path, "rb") as file:
            shape, _, dtype = read_array_header(file)
            if dtype.hasobject:
                raise ValueError("it holds objects, which only unpickling could read")
            wanted, there = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - file.tell()
            if wanted != there:
                raise ValueError(f"its {shape} of {dtype} take {wanted} bytes; it has {there}")
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"can't read {path}: {error}") from None


def read_array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype"]:
    """(shape, whether columns come first, dtype) of an open .npy file, which then stands at its values.

    Raises:
        ValueError: none of that format, or of another version than 1.0 and 2.0.
    """
    import numpy as np

    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in headers:
        raise ValueError(f"its version is {version}; 1.0 and 2.0 are read")
    try:
        return headers[version](file)
    except Exception as error:  # the header is Python text, and fails in as many ways
        raise ValueError(f"it has no header that can be read: {str(error)[:200]}") from None


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _check_once([name for name, _ in pairs])
    return found


def _check_once(names: Sequence[Any]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the name {name!r:.200} is there twice")
        seen.add(name)


def _check_values(data: Any, most: int = MAX_INT) -> None:
    """Level by level, so that nothing here is as deep as what it looks at."""
    level, depth = [data], 0
    while level:
        depth, inner = depth + 1, []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, float) and not math.isfinite(value) or type(value) is int and abs(value) >= most:
                raise ValueError("a number is out of range")
        if depth > MAX_DEPTH and any(isinstance(value, dict | list) for value in level):
            raise ValueError(f"it has more than {MAX_DEPTH} levels")
        level = inner
