"""Class names and sentences, as a person gives them."""

from collections.abc import Sequence
from typing import Any

from wm_pipelines.data import class_folders


def read_classes(labels: Any, class_names: Sequence[str] | None) -> list[str]:
    """The names of the classes: those given, else the sorted names, or 0 to the largest number, of the labels.

    Raises:
        ValueError: no label, labels that are neither all numbers nor all names, names that are empty or repeated, or
            fewer than two classes.
    """
    values = class_folders.listed(labels)
    kinds = {type(value) for value in values}
    if kinds not in (set(), {int}, {str}):
        raise ValueError(f"labels must be all int or all str, got {', '.join(sorted(k.__name__ for k in kinds))}")
    if kinds == {int} and class_names is None:
        class_names = [str(i) for i in range(max(values) + 1)]
    names = class_folders.read_classes(values, class_names)
    if len(names) < 2:
        raise ValueError(f"class_names has {len(names)} entry; a classifier needs at least 2 classes")
    return names


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
