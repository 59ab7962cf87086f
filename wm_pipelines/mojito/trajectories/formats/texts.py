"""Texts of other tools as plain values: a byte-order mark is no content, nothing is too deep, and errors are one kind.

Every reader of a format goes through here, so that what is refused in one is refused in all.
"""

import json
import math
import re
from collections import Counter
from itertools import accumulate
from typing import Any

import yaml

from wm_pipelines.mojito.trajectories.values import brief

MOST_TEXT = 16 * 2**20
"""Characters of a text of tracks or boxes; the largest published set has one million."""

MOST_YAML = 2**20
"""Characters of YAML, which is slow to read."""

DEEPEST_YAML = 50
"""Brackets that may be open at once, which are slow to read too."""

_NUMBER = re.compile(r"[+-]?(\d++\.?\d*+|\.\d++)(e[+-]?\d++)?", re.ASCII | re.IGNORECASE)
_UNENDING = re.compile(r"[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)


def plain_text(text: Any, name: str, most: int = MOST_TEXT) -> str:
    """The text without its byte-order mark.

    Raises:
        ValueError: no text, bytes that are no UTF-8, or more than `most` characters.
    """
    if isinstance(text, bytes | bytearray):
        try:
            text = bytes(text).decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{name} is no text of UTF-8") from None
    if not isinstance(text, str):
        raise ValueError(f"{name} is a {type(text).__name__}; it must be text")
    if len(text) > most:
        raise ValueError(f"{name} has {len(text)} characters; it may have {most}")
    return text.removeprefix("\ufeff")


def lines_of(text: Any, name: str) -> list[tuple[int, str]]:
    """Number, from 1, and content of the lines that are not empty; only line feeds and carriage returns end one."""
    lines = re.split(r"\r\n|\n|\r", plain_text(text, name))
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def number(written: str) -> float:
    """A number as files have it; "1_0" and digits of other scripts, which Python reads, are none; NaN passes.

    Raises:
        ValueError: anything else.
    """
    written = written.strip()
    if not (_NUMBER.fullmatch(written) or _UNENDING.fullmatch(written)):
        raise ValueError(f"{brief(written)} is no number")
    return float(written)


def numbers(written: str, count: int) -> list[float]:
    """`count` numbers between commas.

    Raises:
        ValueError: another count, or something that is no number.
    """
    parts = written.split(",")
    if len(parts) != count:
        raise ValueError(f"{len(parts)} numbers; it must be {count}")
    return [number(part) for part in parts]


def finite(values: list[float]) -> bool:
    return all(math.isfinite(value) for value in values)


def json_of(text: Any, name: str, single_quotes: bool = False) -> Any:
    """What a JSON text says.

    Args:
        single_quotes: take Python's way to print lists and dicts too, which ComfyUI nodes pass on.

    Raises:
        ValueError: no JSON, lists too deep, a number too long, or one key twice in an object.
    """
    text = plain_text(text, name)
    try:
        return _loaded(text, name)
    except json.JSONDecodeError as error:
        failure = error
    if single_quotes:
        try:
            return _loaded(text.replace("'", '"'), name)
        except json.JSONDecodeError:
            pass
    at = f"line {failure.lineno}, column {failure.colno}"
    raise ValueError(f"{name} is not JSON: {failure.msg} at {at}") from None


def _loaded(text: str, name: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(f"{name} has {brief(twice)} twice in one object")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError(f"{name} is not JSON that can be read: its lists or objects are too deep") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        message = str(error)
        if "integer string conversion" in message:
            message = f"{name} holds a number of too many digits"
        raise ValueError(message) from None


class _Plain(yaml.SafeLoader):
    """Lists, dicts, texts and numbers; no merged dicts, which can be made to grow without end."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name, times in Counter(names).items() if times > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"it has {twice!r} twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "it merges dicts (<<)", node.start_mark)


def yaml_of(text: Any, name: str) -> Any:
    """What a YAML text says; nothing in it makes an object but lists, dicts, texts and numbers.

    Raises:
        ValueError: no YAML, or lists too deep.
    """
    text = plain_text(text, name, MOST_YAML)
    opened = accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", text))
    if max(opened, default=0) > DEEPEST_YAML:
        raise ValueError(f"{name} is not YAML that can be read: its lists or objects are too deep")
    try:
        return yaml.load(text, Loader=_Plain)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {str(error).splitlines()[0][:200]}") from None
    except RecursionError:
        raise ValueError(f"{name} is not YAML that can be read: its lists or objects are too deep") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # what PyYAML's own readers of dates and numbers raise on "!!timestamp x" and the like
        raise ValueError(f"{name} is not YAML that can be read: {brief(str(error))}") from None
