"""What is asked of an editor: a picture, instructions and, where it is known, the picture after each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wm_pipelines.data.tables import check_inside, read_json
from wm_pipelines.media.pictures import load_image, to_tensor
from wm_pipelines.runtime.readers import located

MISSING = ("error", "skip")
TASKS = ("magicbrush", "ag", "something", "kubric", "whatsup", "clevr", "emu", "epic")
"""Of the published benchmark, 50 rows each; the last three have no output."""


@dataclass(frozen=True)
class EditItem:
    """One or several edits in a row.

    Args:
        name: unique. task: its family. instructions: one for each step.
        read: gives the states `(3, H, W)` in [0, 1]: the source, then the truth after each instruction; the source
            alone where there is no truth.
        against: gives a picture that the last instruction does not lead to, such as a thing that fell upwards.
    """

    name: str
    task: str
    instructions: tuple[str, ...]
    read: Callable[[], Sequence[torch.Tensor]]
    against: Callable[[], torch.Tensor] | None = None

    def states(self) -> list[torch.Tensor]:
        """What `read` gives, checked.

        Raises:
            ValueError: pictures of several sizes, or neither one state nor one more than there are instructions.
        """
        found = list(self.read())
        sizes = sorted({f"{state.shape[1]}x{state.shape[2]}" for state in found})
        if len(sizes) > 1:
            raise ValueError(f"item {self.name!r} has pictures of {' and '.join(sizes)}; give `side` to make them one")
        if len(found) not in (1, 1 + len(self.instructions)):
            raise ValueError(f"item {self.name!r} has {len(found)} states for {len(self.instructions)} instructions")
        return found


def read_bench(
    path: str | Path,
    root: str | Path | None = None,
    tasks: Sequence[str] | None = None,
    side: int | None = None,
    on_missing: str = "error",
) -> list[EditItem]:
    """The published layout, a JSON list of {input, output, instruction, task}; rows without an output have no truth.

    Args:
        root: folder that the pictures' names are relative to; that of `path` by default.
        tasks: those to take; None takes all.
        side: makes every picture `side` x `side`, stretched with Lanczos as the authors' scripts do; None leaves them.
        on_missing: "skip" leaves out rows of which a picture is missing.

    Raises:
        ValueError: another layout, a task that no row has, or missing pictures: names one and counts the others.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    if on_missing not in MISSING:
        raise ValueError(f"`on_missing` is {on_missing!r}; allowed: {', '.join(MISSING)}")
    check_side(side)
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold a list of rows with input, output, instruction and task")
    found, missing = [], []
    for n, row in enumerate(rows):
        with located(f"{path}, row {n}"):
            item, lacking = _item(n, row, root, side)
        if tasks is not None and item.task not in tasks:
            continue
        missing += lacking
        if not lacking:
            found.append(item)
    if missing and on_missing == "error":
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ValueError(f"the picture {missing[0]!r}{others} of {path} are missing under {root}")
    known = {str(row.get("task")) for row in rows}
    unknown = [task for task in tasks or () if task not in known]
    if unknown:
        raise ValueError(f"`tasks` has {unknown[0]!r}; {path} has {', '.join(sorted(known))}")
    if not found:
        raise ValueError(f"{path} has no row whose pictures are there")
    return found


def check_side(side: Any) -> None:
    """ValueError unless it is None or a number of pixels."""
    if side is not None and (isinstance(side, bool) or not isinstance(side, int) or side < 8):
        raise ValueError(f"`side` is {side!r}; it must be an integer of at least 8, or None")


def picture(path: Path, side: int | None) -> torch.Tensor:
    """A file as `(3, H, W)`, stretched to `side` if there is one."""
    image = load_image(path)
    return to_tensor(image if side is None else image.resize((side, side), Image.Resampling.LANCZOS))


def sentence(row: dict[str, Any], name: str) -> str:
    """A field that must hold words."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r}; it must be a sentence")
    return value.strip()


def _item(n: int, row: Any, root: Path, side: int | None) -> tuple[EditItem, list[str]]:
    if not isinstance(row, dict):
        raise ValueError(f"it is a {type(row).__name__}, not an object")
    words, task = sentence(row, "instruction"), sentence(row, "task")
    names = [check_inside(row.get("input"))]
    if row.get("output") not in (None, ""):
        names.append(check_inside(row["output"]))
    paths = [root / name for name in names]
    lacking = [name for name, path in zip(names, paths, strict=True) if not path.is_file()]

    def read() -> list[torch.Tensor]:
        return [picture(path, side) for path in paths]

    return EditItem(f"{n}:{names[0]}", task, (words,), read), lacking
