"""Pairs of pictures with the action between them, from files: AURORA's JSON layout, or a folder of one's own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from wm_pipelines.data.tables import check_inside, read_json
from wm_pipelines.media.pictures import load_image, to_tensor
from wm_pipelines.runtime.readers import located, read_jsonl

PAIRS = "pairs.jsonl"


@dataclass(frozen=True)
class Pair:
    """Two pictures, read when asked for, and wordings of the action between them (none: not labelled).

    `read()` gives `(3, H, W)` before and after, in [0, 1]. `name` tells the pair from all others. `kind` is what
    stratification goes by, such as the video's class.
    """

    name: str
    read: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    actions: tuple[str, ...] = ()
    kind: str = ""
    caption: str = ""


def _reader(before: Path, after: Path) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    return lambda: (to_tensor(load_image(before)), to_tensor(load_image(after)))


def _file(root: Path, name: object) -> Path:
    path = root / check_inside(name)
    if not path.is_file():
        raise ValueError(f"the picture {name!r} is missing")
    return path


def _sentence(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r}; it must be a sentence")
    return value.strip()


def read_aurora(path: str | Path, root: str | Path | None = None) -> list[Pair]:
    """AURORA's layout (Krojer et al., arXiv 2407.03471): a list of {instruction, input, output}; its benchmark's rows
    have a `task` too, and those without an `output` are left out.

    Args:
        root: folder that the pictures' names are relative to; that of `path` by default.

    Raises:
        ValueError: another layout, an empty instruction, or a missing picture; names the row.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold a list of rows with instruction, input and output")
    found = []
    for n, row in enumerate(rows):
        with located(f"{path}, row {n}"):
            if not isinstance(row, dict):
                raise ValueError(f"it is a {type(row).__name__}, not an object")
            if row.get("output") is None and "task" in row:
                continue
            words = _sentence(row.get("instruction"), "instruction")
            before, after = _file(root, row.get("input")), _file(root, row.get("output"))
        found.append(Pair(f"{n}:{row['input']}", _reader(before, after), (words,), str(row.get("task", ""))))
    if not found:
        raise ValueError(f"{path} has no row with an output")
    return found


def read_folder(folder: str | Path) -> list[Pair]:
    """A folder with `pairs.jsonl`: {"source": file, "target": file, "action": sentence, "kind": word} on each line.

    Without an `action` a pair isn't labelled. `kind` may be left out.

    Raises:
        ValueError: no such file, another layout, or a missing picture; names the line.
    """
    folder = Path(folder)
    if not (folder / PAIRS).is_file():
        raise ValueError(f"options.data: {str(folder)!r} has no {PAIRS}")
    found = []
    for number, row in read_jsonl(folder / PAIRS):
        with located(f"{folder / PAIRS}, line {number}"):
            if not isinstance(row, dict) or not {"source", "target"} <= set(row):
                raise ValueError("it must be an object with source and target")
            extra = sorted(set(row) - {"source", "target", "action", "kind"})
            if extra:
                raise ValueError(f"unknown {extra[0]!r}; allowed: source, target, action, kind")
            words = () if row.get("action") is None else (_sentence(row["action"], "action"),)
            before, after = _file(folder, row["source"]), _file(folder, row["target"])
        found.append(Pair(f"{number}:{row['source']}", _reader(before, after), words, str(row.get("kind", ""))))
    return found
