"""What a stage is: it makes the rows of a shard from its files, and says which of them it couldn't make."""

import copy
import errno
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_pipelines.runtime.shards.plan import Plan, Shard
from wm_pipelines.runtime.shards.rows import count, encode

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the disk that end a run: no shard fails because of them."""


@dataclass(frozen=True)
class Failed:
    """What a stage yields in the place of rows that it couldn't make; it becomes a dead letter.

    Args:
        key: what failed, such as a path of `Shard.keys` or the id of a row.
        reason: why, for a person to read.
    """

    key: str
    reason: str


Stage = Callable[[Shard], Iterable[dict[str, Any] | Failed]]
"""`stage(shard)` yields rows, dicts of plain values, and `Failed`. Equal shards must give equal rows in equal order on
any machine: nothing may depend on the worker, on the time or on what came before. A class of stages is made once in
each worker, `Class(plan.config)`, and may load a model there. What a stage raises fails its whole shard."""


@dataclass(frozen=True)
class EachFile:
    """The stage that calls `function(path, config)` for each file of a shard; a file for which it raises is a dead
    letter, the others go on.

    Args:
        function: gives the rows of one file, all of them or none; must be importable.
    """

    function: Callable[[Path, dict[str, Any]], Iterable[dict[str, Any]]]

    def __call__(self, shard: Shard) -> Iterable[dict[str, Any] | Failed]:
        for key, path in zip(shard.keys, shard.paths, strict=True):
            try:
                yield from [copy.deepcopy(row) for row in self.function(path, shard.config)]
            except Exception as error:  # whatever a decoder or a model throws at a broken file
                if is_full(error):
                    raise
                yield Failed(key, reason(error))


@dataclass(frozen=True)
class Made:
    """What came of a shard.

    Args:
        data: bytes of the file of its rows; None where the whole shard failed.
        letters: dead letters, {"shard", "key", "reason"}; the key is None for the whole shard.
    """

    data: bytes | None
    rows: int
    letters: list[dict[str, Any]]


def make(plan: Plan, name: str, stage: Stage) -> Made:
    """Run a stage on a shard.

    Raises:
        ValueError: an input changed since the plan was made. OSError: a disk is full.
    """
    shard = plan.shard(name)
    letters = []

    def rows() -> Iterator[Any]:
        for found in stage(shard):
            if isinstance(found, Failed):
                letters.append(letter(name, str(found.key), str(found.reason)))
            else:
                yield found

    try:
        data, refused = encode(rows(), plan.columns)
    except Exception as error:  # the shard fails, the run goes on
        if is_full(error):
            raise
        return Made(None, 0, [letter(name, None, reason(error))])
    letters += [letter(name, f"row {i}", why) for i, why in refused]
    return Made(data, count(data, plan.columns), letters)


def is_class(stage: Any) -> bool:
    """Whether a stage is to be made in each worker."""
    return inspect.isclass(stage)


def letter(name: str, key: str | None, why: str) -> dict[str, Any]:
    """A dead letter; of a long reason, the first 1000 characters."""
    return {"shard": name, "key": key, "reason": why[:1000]}


def reason(error: BaseException) -> str:
    """An error with where it came from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL
