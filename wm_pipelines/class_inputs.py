"""Pictures, class names and labels, as a person gives them to a classifier."""

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from wm_pipelines.media import Picture

Pictures = Picture | Sequence[Picture]


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
    values = _listed(labels)
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
    values = _listed(labels)
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


def _listed(labels: Any) -> list:
    """Labels as a list of Python values; arrays and tensors are read out."""
    if isinstance(labels, str):
        raise ValueError(f"labels must be a sequence, got the string {labels!r}")
    return labels.tolist() if hasattr(labels, "tolist") else list(labels)
