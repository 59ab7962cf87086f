"""What a model said about one item under one control: rows, and the file that they are appended to (our design).

Controls, statistics and reports read rows only: they carry all that results are grouped by. A row is a line of JSON.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from wm_pipelines.evaluation.mcq.items import LETTERS
from wm_pipelines.record import check_values
from wm_pipelines.runtime.readers import decode_text, located, parse_json

SHOWN = LETTERS + "F"
"""Letters of options as they are shown; a control may add one to those of the item."""

PROTOCOLS = ("direct", "cot", "loglik")


@dataclass(frozen=True)
class Row:
    """One question asked once.

    Args:
        uid, cluster, source, subset, facet, family, annotations: of the item.
        model: which model, with its revision.
        protocol: "direct", "cot" or "loglik".
        control: "full", or what was changed: "blind", "shuffle", ...
        options: how many were shown.
        right: letters that count as right, as the item has them (A is its first option), the answer first.
        letter: what the model chose, as the item has it; None where it named none.
        shift: places by which the options were moved on: the item's i-th was shown as the (i + shift)-th, cyclically.
        seed: of the draw, where the control or the sampling draws.
        decided: whether the frames shown decide the answer; None where nobody knows.
        correct: `letter` is among `right`.
        stage: of the extractor, which found the letter; "" for log-likelihood and where there is none.
        raw: the reply; None where there was none.
        truncated: the reply was cut off at the limit of tokens.
        error: why there is no reply: such a row is *not answered*, and counts neither as right nor as wrong.
        probabilities: of the options, in the item's order; sum 1. None where the model gives none.
        prompt_sha, frames_sha: SHA-256 of the text and of the frames that the model was given; None for no frames, or
            where nobody knows.
        frame_indices: which frames of the video, in the order shown; None where nobody knows.
        latency: seconds; None unless asked for, so that equal runs give equal rows.
        key: what the runner knows the question again by.

    Raises:
        ValueError: names the field, what came and what is allowed.
    """

    uid: str
    cluster: str
    model: str
    protocol: str
    control: str
    options: int
    right: tuple[str, ...]
    letter: str | None
    source: str = ""
    subset: str = ""
    facet: str = ""
    family: str = ""
    annotations: Mapping[str, str | bool | int | float | None] = field(default_factory=dict)
    shift: int = 0
    seed: int = 0
    decided: bool | None = None
    stage: str = ""
    raw: str | None = None
    truncated: bool = False
    error: str | None = None
    probabilities: tuple[float, ...] | None = None
    prompt_sha: str | None = None
    frames_sha: str | None = None
    frame_indices: tuple[int, ...] | None = None
    latency: float | None = None
    key: str = ""

    def __post_init__(self) -> None:
        for name in ("right", "probabilities", "frame_indices"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for name in ("uid", "cluster", "model", "protocol", "control"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise self._error(name, "text that is not empty")
        for name in ("shift", "seed"):
            if not _integer(getattr(self, name)) or getattr(self, name) < 0:
                raise self._error(name, "an integer of at least 0")
        if not _integer(self.options) or not 2 <= self.options <= len(SHOWN):
            raise self._error("options", f"an integer from 2 to {len(SHOWN)}")
        letters = SHOWN[: self.options]
        if not self.right or not isinstance(self.right, tuple) or not set(self.right) <= set(letters):
            raise self._error("right", f"letters among {letters}, at least one")
        if self.letter is not None and (not isinstance(self.letter, str) or self.letter not in tuple(letters)):
            raise self._error("letter", f"one of {letters}, or None")
        if self.error is not None and self.letter is not None:
            raise self._error("letter", "None where there is an `error`")
        if self.probabilities is not None and len(self.probabilities) != self.options:
            raise self._error("probabilities", f"{self.options} numbers, or None")

    @property
    def answered(self) -> bool:
        """Whether there is a reply at all."""
        return self.error is None

    @property
    def correct(self) -> bool:
        return self.letter in self.right

    @property
    def said(self) -> str | None:
        """The letter as it was shown."""
        return None if self.letter is None else self.shown(self.letter)

    def shown(self, letter: str) -> str:
        """The letter under which the item's option was shown."""
        return SHOWN[(SHOWN.index(letter) + self.shift) % self.options]

    def to_dict(self) -> dict[str, Any]:
        """Plain values of JSON, with `correct` among them."""
        return asdict(self) | {"correct": self.correct}

    @classmethod
    def from_dict(cls, data: Any) -> "Row":
        """The inverse of `to_dict`.

        Raises:
            ValueError: no object, a field that is unknown or missing, or a value that is not allowed.
        """
        if not isinstance(data, dict):
            raise ValueError(f"a row is {type(data).__name__}; it must be an object")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known - {"correct"})
        lacking = [n for n in ("uid", "cluster", "model", "protocol", "control", "options", "right", "letter")]
        lacking = [name for name in lacking if name not in data]
        if unknown or lacking:
            what = f"has the unknown field {unknown[0]!r}" if unknown else f"lacks the field {lacking[0]!r}"
            raise ValueError(f"a row {what}; it has {', '.join(sorted(known))}")
        check_values(cls, data)
        row = cls(**{name: value for name, value in data.items() if name != "correct"})
        if "correct" in data and data["correct"] != row.correct:
            raise ValueError(f"`correct` is {data['correct']!r}, but {row.letter!r} of {row.right} says otherwise")
        return row

    def _error(self, name: str, allowed: str) -> ValueError:
        return ValueError(f"row of {self.uid!r}: `{name}` is {getattr(self, name)!r}; it must be {allowed}")


def encode(row: Row) -> str:
    """A row as a line of JSON, the fields in their order."""
    return json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"


def read_rows(path: str | os.PathLike) -> list[Row]:
    """The rows of a file, without what a crash left half written at its end.

    Raises:
        ValueError: no such file, or a line that is no row; names it.
    """
    return _read(Path(path))[0]


def write_rows(path: str | os.PathLike, rows: Iterable[Row]) -> Path:
    """Write a whole file of rows, atomically."""
    from wm_pipelines.runtime.files import write_atomic

    return write_atomic(Path(path), "".join(map(encode, rows)))


class RowFile:
    """A file of rows that each `append` makes longer by a row that outlasts a kill; `rows` are those that were there.

    What a crash left half written at the end is cut off when it is opened.

    Raises:
        ValueError: a line before the last that is no row; names it.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows, whole = _read(self.path) if self.path.exists() else ([], 0)
        self._file = open(self.path, "ab")
        if self._file.tell() > whole:
            self._file.truncate(whole)

    def append(self, row: Row) -> None:
        """Write a row and force it to disk."""
        self.extend([row])

    def extend(self, rows: Sequence[Row]) -> None:
        """Write rows and force them to disk together."""
        self._file.write("".join(map(encode, rows)).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows += rows

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(path: Path) -> tuple[list[Row], int]:
    """The rows of a file, and how many bytes of it are whole lines."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"can't read {path}: {error}") from None
    whole = data.rfind(b"\n") + 1
    rows = []
    for number, line in enumerate(data[:whole].split(b"\n"), 1):
        if line.strip():
            with located(path, number):
                rows.append(Row.from_dict(parse_json(decode_text(line))))
    return rows, whole


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
