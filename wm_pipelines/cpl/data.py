"""Few-shot data in CoOp's layout, and plain folders: pictures as files, class names, shots, base and new classes.

The layout is that of CoOp's DATASETS.md: below one root, a folder for each data set with its pictures and a
`split_zhou_*.json` of (file, label, class name) rows for train, val and test. FGVC-Aircraft has text lists instead and
ImageNet one folder per class. Nothing is downloaded; nothing pickled is read: the shots that CoOp kept in
`split_fewshot/*.pkl` are drawn anew, keyed by the seed, so they are other pictures than the published ones.
"""

import dataclasses
import math
import os
import warnings
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from wm_pipelines.data.class_folders import check_names, classes_in, pictures_in
from wm_pipelines.data.tables import check_inside
from wm_pipelines.runtime.random import keyed
from wm_pipelines.runtime.readers import located, read_json, read_lines

SHOTS = (1, 2, 4, 8, 16)
SEEDS = (1, 2, 3)
DEFAULT_TEMPLATE = "a photo of a {}."


class Layout(NamedTuple):
    """Where a data set lies below the root: its folder, its pictures, its split file (None: lists or folders)."""

    folder: str
    pictures: str
    split: str | None
    template: str = DEFAULT_TEMPLATE


# Folder names and templates are CoOp's.
DATASETS = {
    "imagenet": Layout("imagenet", "images", None),
    "caltech101": Layout("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "oxford_pets": Layout("oxford_pets", "images", "split_zhou_OxfordPets.json", "a photo of a {}, a type of pet."),
    "stanford_cars": Layout("stanford_cars", "", "split_zhou_StanfordCars.json"),
    "oxford_flowers": Layout(
        "oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", "a photo of a {}, a type of flower."
    ),
    "food101": Layout("food-101", "images", "split_zhou_Food101.json", "a photo of {}, a type of food."),
    "fgvc_aircraft": Layout("fgvc_aircraft", "images", None, "a photo of a {}, a type of aircraft."),
    "sun397": Layout("sun397", "SUN397", "split_zhou_SUN397.json"),
    "dtd": Layout("dtd", "images", "split_zhou_DescribableTextures.json", "{} texture."),
    "eurosat": Layout("eurosat", "2750", "split_zhou_EuroSAT.json", "a centered satellite photo of {}."),
    "ucf101": Layout("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json", "a photo of a person doing {}."),
}


class Item(NamedTuple):
    """One picture: its file, and the number of its class."""

    path: Path
    label: int


@dataclasses.dataclass(frozen=True)
class FewShotData:
    """A data set as lists of files. `class_names[label]` is the name; `template` is the sentence it is usually put in.

    Raises:
        ValueError: a label that is no integer, or outside the class names.
    """

    name: str
    class_names: tuple[str, ...]
    train: tuple[Item, ...]
    test: tuple[Item, ...]
    val: tuple[Item, ...] = ()
    template: str = DEFAULT_TEMPLATE

    def __post_init__(self) -> None:
        for part in (self.train, self.val, self.test):
            for item in part:
                if not isinstance(item.label, Integral) or isinstance(item.label, bool):
                    raise ValueError(f"{item.path}: label {item.label!r} is no integer")
                if not 0 <= item.label < len(self.class_names):
                    raise ValueError(f"{item.path}: label {item.label} outside [0,{len(self.class_names)})")

    def few_shot(self, shots: int, seed: int) -> "FewShotData":
        """`shots` training pictures of each class, or all of a class that has fewer; the draw is keyed by the seed.

        Raises:
            ValueError: `shots` below 1, or a class without a picture.
        """
        if type(shots) is not int or shots < 1:
            raise ValueError(f"shots must be an integer of at least 1 (usual: {SHOTS}), got {shots!r}")
        chosen: list[Item] = []
        for label, name in enumerate(self.class_names):
            own = sorted(item for item in self.train if item.label == label)
            if not own:
                raise ValueError(f"no training image for class {name!r}")
            order = keyed("cpl shots", seed, self.name, name).permutation(len(own))[:shots]
            chosen += [own[i] for i in sorted(order.tolist())]
        return dataclasses.replace(self, train=tuple(chosen))

    def half(self, which: str) -> "FewShotData":
        """The first ceil(C / 2) classes ("base") or the others ("new"), with labels from 0.

        Raises:
            ValueError: another word, or fewer than two classes.
        """
        if which not in ("base", "new"):
            raise ValueError(f"which must be 'base' or 'new', got {which!r}")
        if len(self.class_names) < 2:
            raise ValueError(f"{self.name} has {len(self.class_names)} class; base and new need at least 2")
        middle = math.ceil(len(self.class_names) / 2)
        first, last = (0, middle) if which == "base" else (middle, len(self.class_names))
        parts = {
            part: tuple(
                Item(item.path, item.label - first) for item in getattr(self, part) if first <= item.label < last
            )
            for part in ("train", "val", "test")
        }
        return dataclasses.replace(self, class_names=self.class_names[first:last], **parts)


def read_dataset(name: str, root: str | os.PathLike) -> FewShotData:
    """One of the eleven data sets, from the user's local copy.

    Args:
        name: a key of `DATASETS`. root: the folder that holds `caltech-101`, `imagenet` and so on.

    Raises:
        ValueError: an unknown name, no such folder or split file, or rows that are not (file, label, name).
    """
    if name not in DATASETS:
        raise ValueError(f"dataset {name!r} is unknown; there are {', '.join(DATASETS)}")
    layout = DATASETS[name]
    folder = Path(root) / layout.folder
    if not folder.is_dir():
        raise ValueError(f"{name}: no folder {folder}; root must hold {layout.folder!r}")
    if (folder / "split_fewshot").is_dir():
        warnings.warn(
            f"{folder / 'split_fewshot'} holds pickled draws, which are never read: the seed draws anew",
            stacklevel=2,
        )
    if layout.split is not None:
        return read_split(folder / layout.split, folder / layout.pictures, name, layout.template)
    return {"imagenet": _imagenet, "fgvc_aircraft": _aircraft}[name](folder, layout)


def read_split(
    path: str | os.PathLike, pictures: str | os.PathLike, name: str = "", template: str = DEFAULT_TEMPLATE
) -> FewShotData:
    """A `split_zhou_*.json`: {"train" | "val" | "test": [[file, label, class name], ...]}.

    Args:
        pictures: the folder that the files' paths start from.

    Raises:
        ValueError: a pickle, no such file, not such JSON, two names for one label, or one for two.
    """
    path = Path(path)
    refuse_pickle(path)
    if not path.is_file():
        raise ValueError(f"no split file {path}")
    data = read_json(path)
    parts = {part: _split_rows(path, data, part) for part in ("train", "test", "val")}
    names: dict[int, str] = {}
    for file, label, word in (row for rows in parts.values() for row in rows):
        try:
            check_inside(file)
        except ValueError:
            raise ValueError(f"{path} names {file!r}, which leaves the pictures' folder") from None
        if names.setdefault(label, word.strip()) != word.strip():
            raise ValueError(f"{path} gives label {label} two names, {names[label]!r} and {word!r}")
    if not names:
        raise ValueError(f"{path} holds no row")
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{path} has labels {sorted(names)[:3]}...; they must run from 0 without a gap")
    made = {k: tuple(Item(Path(pictures) / file, label) for file, label, _ in rows) for k, rows in parts.items()}
    listed = _named(path, [names[i] for i in range(len(names))])
    return FewShotData(name or path.stem, listed, template=template, **made)


def _split_rows(path: Path, data: Any, part: str) -> list[tuple[str, int, str]]:
    wanted = f"{path} is not a split of train, val and test rows [file, label, class name]"
    rows = data.get(part, [] if part == "val" else None) if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{wanted}: it has no list {part!r}")
    for n, row in enumerate(rows):
        if not isinstance(row, list) or [type(value) for value in row] != [str, int, str]:
            raise ValueError(f"{wanted}: row {n} of {part} is {row!r:.80}; a label is an integer")
    return [tuple(row) for row in rows]


def read_folders(root: str | os.PathLike, template: str = DEFAULT_TEMPLATE) -> FewShotData:
    """Any data set kept as `train/<class>/*` and `test/<class>/*`; the folders' names are the classes'.

    Raises:
        ValueError: no train or test folder, no class, a class without a picture or of another's name, or one of the
            test folder that has no training folder.
    """
    root = Path(root)
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise ValueError(f"no folder {root / part}; root must hold train/<class>/ and test/<class>/")
    classes = list(classes_in(root / "train"))
    if not classes:
        raise ValueError(f"{root / 'train'} has no class folder")
    unknown = set(classes_in(root / "test")) - set(classes)
    if unknown:
        raise ValueError(f"{root / 'test'} has the class {sorted(unknown)[0]!r}, which train lacks")
    parts = {part: _walk(root / part, classes) for part in ("train", "test")}
    names = _named(root / "train", [name.replace("_", " ").strip() for name in classes])
    return FewShotData(root.name, names, template=template, **parts)


def refuse_pickle(path: Path) -> None:
    """ValueError for a file of CoOp's that only unpickling could read."""
    if path.suffix in (".pkl", ".pickle"):
        raise ValueError(f"refusing pickled {path.name}; shots are drawn anew from the seed: few_shot(shots, seed)")


def _walk(root: Path, classes: Sequence[str]) -> tuple[Item, ...]:
    return tuple(
        Item(path, label)
        for label, name in enumerate(classes)
        for path in (pictures_in(root / name) if (root / name).is_dir() else ())
    )


def _imagenet(folder: Path, layout: Layout) -> FewShotData:
    """`classnames.txt` ("n01440764 tench") gives the names in order; val is the test set, as in CoOp.

    The published list has names twice (missile, sunglasses). They are left, for the figures in the papers have them.
    """
    path = folder / "classnames.txt"
    listed = [line.partition(" ") for line in _lines(path)]
    broken = next((id for id, _, name in listed if not name), None)
    if broken is not None:
        raise ValueError(f"{path} gives {broken!r} no name; a line is 'n01440764 tench'")
    with located(path):
        ids = [check_inside(id) for id in _named(path, [id for id, _, _ in listed])]
    names = tuple(name.strip() for _, _, name in listed)
    parts = {
        part: _walk(folder / layout.pictures / where, ids) for part, where in (("train", "train"), ("test", "val"))
    }
    return FewShotData("imagenet", names, template=layout.template, **parts)


def _aircraft(folder: Path, layout: Layout) -> FewShotData:
    """`variants.txt` gives the names in order; `images_variant_<part>.txt` rows are "1514522 707-320"."""
    names = _named(folder / "variants.txt", _lines(folder / "variants.txt"))
    place = {name: n for n, name in enumerate(names)}
    parts = {}
    for part in ("train", "val", "test"):
        path, items = folder / f"images_variant_{part}.txt", []
        for line in _lines(path):
            number, _, name = line.partition(" ")
            if name.strip() not in place:
                raise ValueError(f"{path} names the variant {name.strip()!r}, which variants.txt lacks")
            with located(path):
                items.append(Item(folder / layout.pictures / f"{check_inside(number)}.jpg", place[name.strip()]))
        parts[part] = tuple(items)
    return FewShotData("fgvc_aircraft", names, template=layout.template, **parts)


def _named(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    with located(path):
        return tuple(check_names(names))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    return [line.strip() for _, line in read_lines(path)]
