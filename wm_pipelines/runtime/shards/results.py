"""What is done: rows of a shard and its marker, which come with one rename, and the dead letters.

    <plan>/shards/<shard>/rows.jsonl or rows.parquet      <plan>/failed/<shard>.jsonl   dead letters of a shard
    <plan>/shards/<shard>/marker.json                     <plan>/failed/<shard>.json    that of one that failed whole

A shard's folder is written aside, forced to disk and renamed: it is there whole or not at all, and the first of two
that make the same shard wins.
"""

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wm_pipelines.runtime.files import sync
from wm_pipelines.runtime.readers import read_json
from wm_pipelines.runtime.shards.leases import Lease, take
from wm_pipelines.runtime.shards.plan import Plan
from wm_pipelines.runtime.shards.rows import count, read_rows, rows_name
from wm_pipelines.runtime.shards.stages import Made

MARKER = "marker.json"


class _Marker(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    plan: str
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str
    letters: int = Field(ge=0)
    letters_sha256: str


class Damaged(ValueError):
    """A marker, rows or dead letters that are not what was written."""


@dataclass(frozen=True)
class Report:
    """How a plan stands.

    Args:
        shards: of the plan. done: of these, those whose rows are there. failed: names of those that failed whole.
        rows: of all that are done. failures: dead letters, one for each row, file or shard that failed.
        skipped: shards that were done before this run. damaged: names of those that were altered and made again.
    """

    shards: int
    done: int
    failed: tuple[str, ...]
    rows: int
    failures: int
    skipped: int = 0
    damaged: tuple[str, ...] = ()


def is_settled(plan: Plan, name: str) -> bool:
    """Whether a shard is done, or has failed whole."""
    return _folder(plan, name).exists() or _whole_letter(plan, name).exists()


def count_settled(plan: Plan) -> int:
    """How many shards are done or have failed whole."""
    return len(os.listdir(plan.folder / "shards")) + len(list((plan.folder / "failed").glob("*.json")))


def commit(plan: Plan, name: str, made: Made, lease: Lease) -> None:
    """Make what came of a shard permanent; nothing happens where the lease is another's by now.

    Raises:
        OSError: the disk is full, say; nothing of the shard is left.
    """
    aside = plan.folder / "tmp" / f"{name}.{lease.token}"
    try:
        aside.mkdir(parents=True)
        letters = "".join(json.dumps(letter) + "\n" for letter in made.letters).encode()
        _write(aside / "letters", letters)
        if made.data is None:
            if lease.ours():
                _move(aside / "letters", _whole_letter(plan, name))
            return
        marker = {
            "plan": plan.identity,
            "rows": made.rows,
            "bytes": len(made.data),
            "sha256": _digest(made.data),
            "letters": len(made.letters),
            "letters_sha256": _digest(letters),
        }
        folder = aside / name
        folder.mkdir()
        _write(folder / rows_name(plan.columns), made.data)
        _write(folder / MARKER, (json.dumps(marker) + "\n").encode())
        sync(folder)
        if not lease.ours():
            return
        if made.letters:
            _move(aside / "letters", _letters(plan, name))
        else:
            _letters(plan, name).unlink(missing_ok=True)
        _whole_letter(plan, name).unlink(missing_ok=True)
        _move(folder, _folder(plan, name))
    except OSError as error:
        was_first = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
        cleared = error.errno == errno.ENOENT and not lease.ours()  # by one that thought us dead
        if not was_first and not cleared:
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def clear(plan: Plan, name: str) -> None:
    """Remove what workers that died left of a shard; for the holder of its lease."""
    for path in (plan.folder / "tmp").glob(f"{name}.*"):
        shutil.rmtree(path, ignore_errors=True)


def set_aside_damaged(plan: Plan, names: Iterable[str], run: str, lease_s: float) -> tuple[list[str], list[str]]:
    """Read what is done of some shards, and remove what was altered since, so that it is made again, with a warning.

    Returns names of those that are done and whole, and of those that were damaged.

    Raises:
        ValueError: a shard's rows were made for another plan.
    """
    whole, damaged = [], []
    for name in names:
        if not _folder(plan, name).exists():
            continue
        problem = check(plan, name)
        if problem is None:
            whole.append(name)
        elif (lease := take(plan.folder / "leases", name, run, lease_s)) is not None:
            with lease:
                if check(plan, name) is None:  # another has made it again
                    continue
                doomed = plan.folder / "tmp" / f"{name}.{lease.token}"
                doomed.parent.mkdir(exist_ok=True)
                os.rename(_folder(plan, name), doomed)
                shutil.rmtree(doomed, ignore_errors=True)
                _letters(plan, name).unlink(missing_ok=True)
            warnings.warn(f"shard {name} of {plan.folder} is made again: {problem}", stacklevel=3)
            damaged.append(name)
    return whole, damaged


def check(plan: Plan, name: str) -> str | None:
    """What is wrong with a shard that was done, in words; None for nothing.

    Raises:
        ValueError: it was made for another plan.
    """
    rows, letters = _folder(plan, name) / rows_name(plan.columns), _letters(plan, name)
    try:
        marker = read_marker(plan, name)
        data = rows.read_bytes()
        failed = letters.read_bytes() if letters.exists() else b""
    except OSError as error:
        return f"{rows.name} can't be read ({error.strerror})"
    except Damaged as error:
        return str(error)
    if (len(data), _digest(data)) != (marker["bytes"], marker["sha256"]):
        return f"its rows were altered ({len(data)} bytes, written {marker['bytes']!r})"
    if count(data, plan.columns) != marker["rows"]:
        return f"it has {count(data, plan.columns)} rows, its marker says {marker['rows']!r}"
    if (failed.count(b"\n"), _digest(failed)) != (marker["letters"], marker["letters_sha256"]):
        return f"its dead letters were altered; its marker says {marker['letters']!r}"
    return None


def read_marker(plan: Plan, name: str) -> dict[str, Any]:
    """What a shard's marker says.

    Raises:
        ValueError: it is of another plan. Damaged: it is none.
    """
    path = _folder(plan, name) / MARKER
    try:
        marker = read_json(path)
    except ValueError as error:
        raise Damaged(f"its marker is damaged: {error}") from None
    try:
        _Marker.model_validate(marker)
    except ValidationError as error:
        raise Damaged(f"its marker is damaged: {error.errors()[0]['msg']}") from None
    if marker["plan"] != plan.identity:
        raise ValueError(f"{path} belongs to another plan, {marker['plan']!r:.99}; its folder holds {plan.identity!r}")
    return marker


def dead_letters(plan: Plan) -> list[dict[str, Any]]:
    """All dead letters of a plan, {"shard", "key", "reason"}; the key is None where the whole shard failed."""
    paths = sorted((plan.folder / "failed").glob("*.json*"))
    return [letter for path in paths for letter in read_rows(path)]


def report(plan: Plan, skipped: int = 0, damaged: Iterable[str] = ()) -> Report:
    """Count what the markers say."""
    done = [name for name in plan.shards if _folder(plan, name).exists()]
    failed = [name for name in sorted(plan.shards.keys() - done) if _whole_letter(plan, name).exists()]
    markers = [read_marker(plan, name) for name in done]
    return Report(
        shards=len(plan.shards),
        done=len(done),
        failed=tuple(failed),
        rows=sum(marker["rows"] for marker in markers),
        failures=sum(marker["letters"] for marker in markers) + len(failed),
        skipped=skipped,
        damaged=tuple(damaged),
    )


def outputs(plan: Plan, skip_failed: bool = False) -> list[Path]:
    """The files of rows, absolute, in the order of the shards: the inputs of a next plan under this one's folder.

    Raises:
        ValueError: a shard isn't done, or has failed whole and `skip_failed` is not set.
    """
    found = []
    for name in plan.shards:
        path = _folder(plan, name).absolute() / rows_name(plan.columns)
        if path.is_file():
            found.append(path)
        elif not _whole_letter(plan, name).exists():
            raise ValueError(f"shard {name} of {plan.folder} is not done yet; run the stage again")
        elif not skip_failed:
            raise ValueError(f"shard {name} of {plan.folder} failed; run the stage again or set `skip_failed=True`")
    return found


def plan_rows(plan: Plan, skip_failed: bool = False) -> Iterator[dict[str, Any]]:
    """All rows in the order of the shards, each shard checked against its marker first.

    Raises:
        ValueError: as `outputs`, or a shard was altered.
    """
    for path in outputs(plan, skip_failed):
        problem = check(plan, path.parent.name)
        if problem:
            raise ValueError(f"shard {path.parent.name} of {plan.folder}: {problem}; run the stage again")
        yield from read_rows(path)


def forget_failed(plan: Plan) -> None:
    """Take back that shards failed whole, so that they are tried again."""
    for path in (plan.folder / "failed").glob("*.json"):
        path.unlink(missing_ok=True)


def _folder(plan: Plan, name: str) -> Path:
    return plan.folder / "shards" / name


def _letters(plan: Plan, name: str) -> Path:
    return plan.folder / "failed" / f"{name}.jsonl"


def _whole_letter(plan: Plan, name: str) -> Path:
    return plan.folder / "failed" / f"{name}.json"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    os.rename(source, target)
    sync(target.parent)
