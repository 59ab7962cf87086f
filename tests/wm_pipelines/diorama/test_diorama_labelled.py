"""Pictures of one solid, labelled by a word: the judge reads the word off most of them."""

import pytest
import torch

from wm_pipelines import embedded
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.labelled import WORDS, labelled_solids
from wm_pipelines.diorama.metrics import look


@pytest.mark.parametrize("word", WORDS)
def test_each_picture_shows_its_word(word):
    pictures, labels = labelled_solids(word, 3, seed=2)
    assert labels == [label for label in WORDS[word] for _ in range(3)] and len(pictures) == len(labels)
    seen = look(DioramaJudge.from_pretrained(embedded("diorama-judge")).eval(), pictures)
    right = [bool(found) and getattr(found[0], word) == label for found, label in zip(seen, labels, strict=True)]
    assert sum(right) >= 0.9 * len(right)


def test_more_pictures_begin_with_the_same_ones_and_another_seed_with_others():
    few, more, other = (labelled_solids("shape", n, 32, seed)[0] for n, seed in ((1, 0), (2, 0), (1, 1)))
    assert torch.equal(few, more[::2]) and not torch.equal(few, other)


@pytest.mark.parametrize(("word", "count"), [("size", 1), ("colour", 0), ("colour", True)])
def test_other_words_and_counts_are_refused(word, count):
    with pytest.raises(ValueError, match="`word` must be|`count` must be"):
        labelled_solids(word, count)
