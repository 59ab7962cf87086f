"""Pictures, labels, class names and sentences, as a person gives them."""

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from wm_pipelines.media import Picture

Pictures = Picture | Sequence[Picture]


def read_classes(labels: Any, class_names: Sequence[str] | None) -> list[str]:
    """The names of the classes: those given, else the sorted names, or 0 to the largest number, of the labels.

    Raises:
        ValueError: no label, labels that are neither all numbers nor all names, names that are empty or repeated, or
            fewer than two classes.
    """
    values = _listed(labels)
    if not values:
        raise ValueError("labels is empty; every picture needs one")
    kinds = {type(value) for value in values}
    if kinds not in ({int}, {str}):
        raise ValueError(f"labels must be all int or all str, got {', '.join(sorted(k.__name__ for k in kinds))}")
    if class_names is not None:
        names = [class_names] if isinstance(class_names, str) else list(class_names)
    elif kinds == {str}:
        names = sorted(set(values))
    else:
        names = [str(i) for i in range(max(values) + 1)]
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"class_names must be non-empty strings, got {names}")
    if len(set(names)) != len(names):
        raise ValueError(f"class_names has {next(n for n in names if names.count(n) > 1)!r} more than once")
    if len(names) < 2:
        raise ValueError(f"class_names has {len(names)} entry; a classifier needs at least 2 classes")
    return names


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
                raise ValueError(f"{what} has {value}, outside [0, {len(names)})")
            found.append(value)
        else:
            raise ValueError(f"{what} has {value!r}; a label is an int or a str")
    return found


def _listed(labels: Any) -> list:
    """Labels as a list of Python values; arrays and tensors are read out."""
    if isinstance(labels, str):
        raise ValueError(f"labels must be a sequence, got the string {labels!r}")
    return labels.tolist() if hasattr(labels, "tolist") else list(labels)


def list_pictures(images: Pictures) -> list[Picture]:
    """Single pictures: a batch in one tensor or array is taken apart."""
    if isinstance(images, torch.Tensor | np.ndarray):
        pictures = list(images) if images.ndim == 4 else [images]
    else:
        pictures = list(images) if isinstance(images, list | tuple) else [images]
    if not pictures:
        raise ValueError("images is empty; give at least one picture")
    return pictures


def read_templates(templates: Sequence[str] | None) -> tuple[str, ...]:
    """Sentences with one {} for the class name; none for None.

    Raises:
        ValueError: an empty list, or something else than such a sentence.
    """
    given = (templates,) if isinstance(templates, str) else tuple(templates or ())
    if templates is not None and not given:
        raise ValueError("templates is empty; give at least one sentence, or None to start the head at zero")
    for template in given:
        if not isinstance(template, str) or template.count("{}") != 1 or template.count("{") != 1:
            raise ValueError(f"templates has {template!r}; a template is a sentence with one {{}} for the class name")
    return given
