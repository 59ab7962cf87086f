"""Pictures, class names and labels, as a person gives them to a classifier: in memory, or as folders of files."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_pipelines.media.pictures import Picture

Pictures = Picture | Sequence[Picture]
Source = str | os.PathLike


def list_pictures(images: Pictures) -> list[Picture]:
    """Single pictures: a batch in one tensor or array is taken apart.

    Raises:
        ValueError: there is none.
    """
    if isinstance(images, torch.Tensor | np.ndarray):
        pictures = list(images) if images.ndim == 4 else [images]
    else:
        pictures = list(images) if isinstance(images, list | tuple) else [images]
    if not pictures:
        raise ValueError("images is empty; give at least one picture")
    return pictures


def read_classes(labels: Any, class_names: Sequence[str] | None) -> list[str]:
    """The names of the classes: those given, else the sorted names among the labels.

    Raises:
        ValueError: no label, no names though the labels are numbers, or names that are empty or repeated.
    """
    values = listed(labels)
    if not values:
        raise ValueError("labels is empty; every picture needs one")
    if class_names is None:
        if not all(isinstance(value, str) for value in values):
            raise ValueError("class_names must be given where labels are numbers: the method reads the names")
        return sorted(set(values))
    names = [class_names] if isinstance(class_names, str) else list(class_names)
    return check_names(names)


def check_names(names: Sequence[str]) -> list[str]:
    """Refuses names that are empty or repeated.

    Raises:
        ValueError: says which.
    """
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"class_names must be non-empty strings, got {name!r}")
    if len(set(names)) != len(names):
        raise ValueError(f"class_names has {next(n for n in names if names.count(n) > 1)!r} more than once")
    return list(names)


def read_labels(labels: Any, names: Sequence[str], pictures: int, what: str = "labels") -> list[int]:
    """One class index per picture.

    Raises:
        ValueError: another number of labels than of pictures, a number out of range, or an unknown name.
    """
    values = listed(labels)
    if len(values) != pictures:
        raise ValueError(f"{what} has {len(values)} entries for {pictures} pictures; give one for each")
    index = {name: i for i, name in enumerate(names)}
    found = []
    for value in values:
        if isinstance(value, str):
            if value not in index:
                near = difflib.get_close_matches(value, names, n=1, cutoff=0.0)[0]
                raise ValueError(f"{what} has the class {value!r}, which is unknown; the nearest is {near!r}")
            found.append(index[value])
        elif type(value) is int:
            if not 0 <= value < len(names):
                raise ValueError(f"{what}: label {value} outside [0,{len(names)})")
            found.append(value)
        else:
            raise ValueError(f"{what} has {value!r}; a label is an int or a str")
    return found


def listed(labels: Any) -> list:
    """Labels as a list of Python values; arrays and tensors are read out."""
    if isinstance(labels, str):
        raise ValueError(f"labels must be a sequence, got the string {labels!r}")
    return labels.tolist() if hasattr(labels, "tolist") else list(labels)


def class_folders(folder: Source) -> tuple[list[Path], list[str]]:
    """Pictures and the name of each one's class: the sub-folder it lies in. Names that start with a dot are left out.

    Raises:
        ValueError: no such folder, fewer than two sub-folders, an empty one, or one that holds folders.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is not a folder; name one with a sub-folder of pictures for each class")
    classes = [path for path in _entries(folder) if path.is_dir()]
    if len(classes) < 2:
        raise ValueError(f"{str(folder)!r} has {len(classes)} sub-folders; a classifier needs at least 2 classes")
    paths, names = [], []
    for own in classes:
        found = picture_files([own])
        paths += found
        names += [own.name] * len(found)
    return paths, names


def picture_files(sources: Sequence[Source]) -> list[Path]:
    """The files named, and all files directly in the folders named, in the order of their names.

    Raises:
        ValueError: nothing of that name, an empty folder, or one that holds folders.
    """
    found = []
    for source in map(Path, sources):
        if not source.is_dir():
            found.append(source)
            continue
        entries = _entries(source)
        inner = [path for path in entries if path.is_dir()]
        if inner or not entries:
            what = f"the folder {inner[0].name!r}" if inner else "no picture"
            raise ValueError(f"{str(source)!r} holds {what}; a folder of pictures holds files only")
        found += entries
    return found


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
