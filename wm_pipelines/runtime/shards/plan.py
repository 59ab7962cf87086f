"""The plan of a run: which files each shard has, by content, and under which configuration; written once.

`<folder>/plan.json` never changes after it was written. Everything else in the folder is told apart by its SHA-256,
which each finished shard names.
"""

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict

from wm_pipelines.runtime.files import create, sha256, visible
from wm_pipelines.runtime.readers import MAX_BYTES, decode_text, located, parse_json
from wm_pipelines.runtime.shards.rows import Columns, check_columns, check_plain

FORMAT = 1
NAME = "plan.json"


class Input(BaseModel):
    """A file of a shard: its path under the root, with "/", its size and its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    bytes: int
    sha256: str


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    format: int
    config: dict[str, Any]
    config_sha256: str
    columns: Columns | None
    shards: dict[str, list[Input]]


@dataclass(frozen=True)
class Shard:
    """What a stage is given: the name of a shard, its files, and the plan's configuration, a copy of its own.

    Args:
        keys: paths of the files under the root, with "/", the same on every machine; rows should name these.
        paths: the same files, to be opened.
    """

    name: str
    keys: tuple[str, ...]
    paths: tuple[Path, ...]
    config: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A plan as `make_plan` and `read_plan` give it.

    Args:
        folder: where `plan.json` and the results lie. root: where the inputs lie.
        config: what decides the rows. columns: types of Parquet columns; None for JSON Lines.
        shards: name -> inputs, in their order.
        identity: SHA-256 of `plan.json`.
    """

    folder: Path
    root: Path
    config: dict[str, Any]
    columns: Columns | None
    shards: dict[str, list[Input]]
    identity: str

    def shard(self, name: str) -> Shard:
        """What the stage is given for a shard.

        Raises:
            ValueError: an input is missing or has other content than when the plan was made; names it.
        """
        inputs = self.shards[name]
        changed = [f for i in inputs if (f := _change(i, self.root, content=True))]
        if changed:
            raise ValueError(
                f"inputs of shard {name} changed since the plan in {self.folder} was made: {_some(changed)}; restore "
                "them, or make a new plan in a new folder"
            )
        keys = tuple(i.path for i in inputs)
        return Shard(name, keys, tuple(self.root / key for key in keys), copy.deepcopy(self.config))


def divide(files: Iterable[str | os.PathLike], size: int) -> list[list[Path]]:
    """Files in their order, as shards of `size` files; the last may have fewer."""
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"`size` must be an integer of at least 1, got {size!r}")
    paths = [Path(file) for file in files]
    return [paths[i : i + size] for i in range(0, len(paths), size)]


def make_plan(
    folder: str | os.PathLike,
    shards: Sequence[Sequence[str | os.PathLike]],
    *,
    root: str | os.PathLike,
    config: dict[str, Any],
    columns: Columns | None = None,
) -> Plan:
    """Write the plan of a folder, or open it if it is the same; reads every input once to hash it.

    Args:
        folder: where the plan and the results go; a new or empty one, or one that holds this plan. Its file system
            must have hard links and renames that are atomic, as local ones and NFS do.
        shards: the files of each shard, absolute or relative to `root`. A shard is done whole or not at all, and
            its rows are held in memory.
        root: folder that all inputs lie under. It may lie elsewhere on another machine.
        config: plain values of JSON that, with the inputs, decide every row: settings, seeds, the model and its
            revision, and a version of the stage's own code.
        columns: {name: type} for Parquet; None for JSON Lines.

    Raises:
        ValueError: nothing to do; an input that is missing, twice or outside of `root`; a folder that holds another
            plan or something else. Says which, and what changed.
    """
    folder, root = Path(folder), Path(root)
    check_columns(columns)
    names = _names(shards, root)
    if not isinstance(config, dict):
        raise ValueError(f"`config` must be a dict, got {type(config).__name__}")
    check_plain(config, "config")
    config = parse_json(json.dumps(config))
    if not (folder / NAME).exists():
        _check_free(folder)
        hashed = {name: [_hashed(root, path) for path in paths] for name, paths in names.items()}
        data = _encode(config, columns, hashed)
        if len(data) > MAX_BYTES:
            raise ValueError(f"`shards` make a plan of {len(data)} bytes, at most {MAX_BYTES} are read: make several")
        if create(folder / NAME, data):
            return read_plan(folder, root)
    found = read_plan(folder, root)
    changes = _changes(found, config, columns, names)
    if changes:
        raise ValueError(f"the plan in {folder} is another one: {changes}; start a new folder")
    return found


def read_plan(folder: str | os.PathLike, root: str | os.PathLike) -> Plan:
    """The plan of a folder; its inputs are looked at when their shard's turn comes.

    Raises:
        ValueError: there is none, or it was changed after it was written.
    """
    path = Path(folder) / NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"can't read {path}: {error}") from None
    with located(path):
        value = parse_json(decode_text(data))
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError(f"it is no plan of format {FORMAT}, the one that this version reads")
        file = _File.model_validate(value)
        if _digest(file.config) != file.config_sha256:
            raise ValueError("its configuration was changed after it was written")
        for name, inputs in file.shards.items():
            if not name.isdecimal() or not inputs:
                raise ValueError(f"its shard {name!r} is none that was planned")
            for i in inputs:
                if PurePosixPath(i.path).is_absolute() or ".." in PurePosixPath(i.path).parts:
                    raise ValueError(f"it names {i.path!r}, which lies outside of its root")
        if not file.shards:
            raise ValueError("it has no shards")
    identity = hashlib.sha256(data).hexdigest()
    return Plan(Path(folder), Path(root), file.config, file.columns, file.shards, identity)


def _names(shards: Any, root: Path) -> dict[str, list[str]]:
    """Shard -> paths of its files under the root."""
    if not isinstance(shards, list | tuple) or not all(isinstance(files, list | tuple) for files in shards):
        raise ValueError("`shards` must be a list with a list of files for each shard; see `divide`")
    if not shards:
        raise ValueError("`shards` is empty: there is nothing to do")
    empty = [number for number, files in enumerate(shards) if not files]
    if empty:
        raise ValueError(f"`shards` has one without files, number {empty[0]}")
    if not root.is_dir():
        raise ValueError(f"`root` is no folder: {root}")
    whole = Path(os.path.abspath(root))
    digits = max(5, len(str(len(shards) - 1)))
    found: dict[str, list[str]] = {}
    outside, missing, seen, twice = [], [], set(), []
    for number, files in enumerate(shards):
        paths = found[f"{number:0{digits}}"] = []
        for file in files:
            path = Path(os.path.abspath(whole / file))
            if not path.is_relative_to(whole):
                outside.append(f"{file}")
                continue
            key = path.relative_to(whole).as_posix()
            if "\udc80" <= max(key) <= "\udcff":
                raise ValueError(f"`shards` names a file whose name is no UTF-8: {key!r}")
            if not path.is_file():
                missing.append(key)
            if key in seen:
                twice.append(key)
            seen.add(key)
            paths.append(key)
    if outside:
        raise ValueError(f"`shards` names files outside of `root`, {root}: {_some(outside)}")
    if missing:
        raise ValueError(f"`shards` names what is no file under {root}: {_some(missing)}")
    if twice:
        raise ValueError(f"`shards` names files twice: {_some(twice)}")
    return found


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`folder` is a file: {folder}")
    there = visible(folder) if folder.exists() else []
    if there:
        raise ValueError(f"{folder} holds no plan but other things, such as {there[0].name!r}; name a new folder")


def _hashed(root: Path, key: str) -> Input:
    path = root / key
    return Input(path=key, bytes=path.stat().st_size, sha256=sha256(path))


def _encode(config: dict[str, Any], columns: Columns | None, shards: dict[str, list[Input]]) -> bytes:
    listed = {name: [i.model_dump() for i in inputs] for name, inputs in shards.items()}
    file = {"format": FORMAT, "config": config, "config_sha256": _digest(config), "columns": columns, "shards": listed}
    return (json.dumps(file, ensure_ascii=False) + "\n").encode("utf-8")


def _digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _changes(plan: Plan, config: dict[str, Any], columns: Columns | None, names: dict[str, list[str]]) -> str:
    """What differs from a plan, in words; the cheap things are looked at first."""
    if _digest(config) != _digest(plan.config):
        return f"`config` differs: {_some(_differences(plan.config, config, ''))}"
    if columns != plan.columns:
        return f"`columns` were {plan.columns}, are {columns}"
    before = {i.path: i for inputs in plan.shards.values() for i in inputs}
    now = {key for keys in names.values() for key in keys}
    changed = [f"{key} is new" for key in sorted(now - before.keys())]
    changed += [f"{key} is gone" for key in sorted(before.keys() - now)]
    if changed:
        return f"`shards` differ: {_some(changed)}"
    if names != {name: [i.path for i in inputs] for name, inputs in plan.shards.items()}:
        return f"`shards` divide the same files otherwise, into {len(names)} (the plan has {len(plan.shards)})"
    for content in (False, True):
        changed = [found for i in before.values() if (found := _change(i, plan.root, content))]
        if changed:
            return f"inputs changed: {_some(changed)}"
    return ""


def _change(expected: Input, root: Path, content: bool) -> str | None:
    """How a file differs from what the plan says, in words."""
    path = root / expected.path
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            return f"{expected.path} has {size} bytes, had {expected.bytes}"
        if content and sha256(path) != expected.sha256:
            return f"{expected.path} has other content"
    except OSError as error:
        return f"{expected.path} can't be read ({error.strerror})"
    return None


def _differences(old: Any, new: Any, where: str) -> list[str]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if json.dumps(old) == json.dumps(new) else [f"{where} was {old!r}, is {new!r}"]
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        name = f"{where}.{key}" if where else key
        if key not in new:
            found.append(f"{name} was {old[key]!r}, is gone")
        elif key not in old:
            found.append(f"{name} is new, {new[key]!r}")
        else:
            found += _differences(old[key], new[key], name)
    return found


def _some(words: Sequence[str], most: int = 3) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
