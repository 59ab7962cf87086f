"""Which labels an entity may be."""

import pytest

from wm_pipelines.comclip.linker import link
from wm_pipelines.text.parser import Entity

LABELS = ["a man in a blue shirt", "two dogs", "red circle", "blue circle", "woman", "motorbike"]


@pytest.mark.parametrize(
    ("name", "attributes", "found"),
    [
        ("man", (), ["a man in a blue shirt"]),
        ("person", (), ["a man in a blue shirt", "woman"]),
        ("man", ("young",), ["a man in a blue shirt"]),
        ("dog", (), ["two dogs"]),
        ("circle", ("red",), ["red circle"]),
        ("circle", (), ["red circle", "blue circle"]),
        ("circle", ("green",), []),
        ("motorcycle", (), ["motorbike"]),
        ("shirt", (), []),
        ("woman", (), ["woman"]),
        ("table", (), []),
    ],
)
def test_labels_of_an_entity(name, attributes, found):
    assert link(Entity("e0", name, attributes), LABELS) == found


def test_a_label_with_more_words_is_the_thing_meant():
    assert link(Entity("e0", "cube", ("red",)), ["small red cube", "large blue cube"]) == ["small red cube"]
