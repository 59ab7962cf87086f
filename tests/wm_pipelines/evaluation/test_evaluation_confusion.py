"""Counts of answers by truth, in numbers, words and a picture."""

import numpy as np
import pytest

from wm_pipelines.evaluation.confusion import confusion
from wm_pipelines.evaluation.statistics import wilson

TRUTH = ["cat", "cat", "dog", "dog", "dog", "owl"]
SAID = ["cat", "dog", "dog", "fish", "cat", "owl"]


def test_rows_are_the_truth_and_unknown_answers_have_a_column():
    found = confusion(SAID, TRUTH)
    assert found.names == ("cat", "dog", "owl")
    assert found.counts.tolist() == [[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0]]
    assert found.accuracy == 0.5 and found.n == 6 and found.interval == wilson(3, 6)


def test_lines_say_each_class_and_each_confusion():
    lines = confusion(SAID, TRUTH).lines()
    assert lines[0].startswith("accuracy 50.0% [") and "cat: 1 of 2 found, 1 of 2 answers right" in lines
    assert set(lines[4:]) == {"dog taken for cat: 1", "dog taken for another answer: 1", "cat taken for dog: 1"}


def test_classes_may_be_given_with_one_that_is_not_shown():
    found = confusion(SAID, TRUTH, ["owl", "emu", "dog", "cat"])
    assert found.names[0] == "owl" and found.accuracy == 0.5
    assert "emu: none shown, never answered" in found.lines()


def test_a_random_table_adds_up():
    rng = np.random.default_rng(0)
    truth, said = (list(rng.choice(list("abcd"), 200)) for _ in range(2))
    found = confusion(said, truth)
    assert found.counts.sum() == 200
    assert found.accuracy == pytest.approx(np.mean([a == b for a, b in zip(said, truth, strict=True)]))


def test_the_picture_is_darker_where_more_is():
    picture = np.asarray(confusion(["a"] * 9 + ["b"], ["a"] * 9 + ["b"]).picture().convert("L"), float)
    middle = picture[picture.shape[0] // 2 - 40 : picture.shape[0] // 2, :]
    assert middle.min() < 60 and picture.max() == 255


@pytest.mark.parametrize(
    ("said", "truth", "names", "message"),
    [
        (["a"], ["a", "b"], None, "`predicted` has 1 names and `truth` 2"),
        ([], [], None, "must have one for each"),
        (["a"], ["a"], ["a", "a"], "'a' more than once"),
        (["a"], ["b"], ["a"], "`truth` has 'b', which is no class; there are a"),
    ],
)
def test_lists_that_do_not_go_together_are_refused(said, truth, names, message):
    with pytest.raises(ValueError, match=message):
        confusion(said, truth, names)
