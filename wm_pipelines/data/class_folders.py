"""Pictures, class names and labels, as a person gives them to a classifier: in memory, or as folders of files."""

import difflib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_pipelines.media.pictures import PICTURE_SUFFIXES, Picture
from wm_pipelines.runtime.files import visible
from wm_pipelines.runtime.readers import Source

Pictures = Picture | Sequence[Picture]

# What may be a picture and is not read as one: never left out without a word.
_UNREADABLE = (
    "", ".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".svg", ".psd", ".exr",
    ".tga", ".ico", ".icns", ".pcx", ".dds", ".xcf", ".hdr", ".orf", ".raf", ".rw2",
)  # fmt: skip


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
        return check_names(sorted(set(values)))
    names = [class_names] if isinstance(class_names, str) else list(class_names)
    return check_names(names)


def check_names(names: Sequence[str]) -> list[str]:
    """Refuses names that are empty or repeated; names that differ by spaces, by "_" for a space or by
    how an accent is coded are one.

    Raises:
        ValueError: says which.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"class_names must be non-empty strings, got {name!r}")
        first = seen.setdefault(" ".join(unicodedata.normalize("NFC", name).replace("_", " ").split()), name)
        if first != name:
            raise ValueError(f"class_names has {first!r} and {name!r}, which are one name")
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


def classes_in(folder: Source) -> dict[str, Path]:
    """The class folders in a folder, by name; what systems leave there is none (`runtime.files.visible`).

    Raises:
        ValueError: no such folder, two classes of one name, or a picture beside the classes, which would be of none.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{str(folder)!r} is not a folder; name one with a sub-folder of pictures for each class")
    entries = visible(folder)
    folders = [path for path in entries if path.is_dir()]
    pictures = (*PICTURE_SUFFIXES, *_UNREADABLE[1:])
    loose = next((path for path in entries if path.is_file() and path.suffix.lower() in pictures), None)
    if folders and loose is not None:
        raise ValueError(f"{str(folder)!r} holds the picture {loose.name!r} beside its classes; move it into one")
    try:
        check_names([path.name for path in folders])
    except ValueError as error:
        raise ValueError(f"{str(folder)!r}: {error}") from None
    return {path.name: path for path in folders}


def pictures_in(folder: Source) -> list[Path]:
    """The pictures directly in a folder, by name: the files with one of `PICTURE_SUFFIXES`.

    Raises:
        ValueError: there is none, a picture of a kind that is not read or without an ending, or a folder.
    """
    entries = visible(folder)
    others = [path for path in entries if path.suffix.lower() not in PICTURE_SUFFIXES]
    inner = next((path for path in others if path.is_dir()), None)
    if inner is not None:
        raise ValueError(f"{str(folder)!r} holds the folder {inner.name!r}; a folder of pictures holds files only")
    unread = next((path for path in others if path.suffix.lower() in _UNREADABLE), None)
    if unread is not None:
        raise ValueError(f"{str(folder)!r} holds {unread.name!r}, which is not read; make it a .png or a .jpg")
    found = [path for path in entries if path.suffix.lower() in PICTURE_SUFFIXES]
    if not found:
        raise ValueError(f"{str(folder)!r} holds no picture; their names end in {', '.join(PICTURE_SUFFIXES)}")
    return found


def class_folders(folder: Source) -> tuple[list[Path], list[str]]:
    """Pictures and the name of each one's class: the sub-folder it lies in, as `classes_in` and `pictures_in`.

    Raises:
        ValueError: no such folder, fewer than two sub-folders, an empty one, or one that holds folders.
    """
    classes = classes_in(folder)
    if len(classes) < 2:
        raise ValueError(f"{str(folder)!r} has {len(classes)} sub-folders; a classifier needs at least 2 classes")
    paths, names = [], []
    for name, own in classes.items():
        found = pictures_in(own)
        paths += found
        names += [name] * len(found)
    return paths, names


def picture_files(sources: Sequence[Source]) -> list[Path]:
    """The files named, and the pictures directly in the folders named, in the order of their names.

    Raises:
        ValueError: as `pictures_in`.
    """
    return [file for source in map(Path, sources) for file in (pictures_in(source) if source.is_dir() else [source])]
