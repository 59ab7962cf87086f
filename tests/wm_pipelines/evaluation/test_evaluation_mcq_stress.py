"""What text alone gives away: a planted cue is found, where there is none nothing is, and equal calls agree."""

import numpy as np
import pytest

from wm_pipelines.evaluation.mcq.item_files import read_items, write_items
from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.stress import stress
from wm_pipelines.runtime.random import keyed

THINGS = ["car", "bus", "dog", "cat", "ball", "kite"]
SIDES = ["left", "right", "up", "down"]


def items(count, cue, seed=0):
    """`cue`: how often "left" is right; else any."""
    rng = keyed("stress test", seed, count, cue)
    found = []
    for i in range(count):
        order = rng.permutation(SIDES).tolist()
        gold = "left" if rng.random() < cue else SIDES[rng.integers(4)]
        found.append(
            Item(
                source="s",
                subset="t",
                id=str(i),
                question=f"Where does the {THINGS[rng.integers(6)]} go?",
                options=dict(zip("ABCD", order, strict=True)),
                answer="ABCD"[order.index(gold)],
                cluster=f"v{i // 3}",
            )
        )
    return found


def right(found):
    return float(np.mean([bias.correct for bias in found]))


def test_a_planted_cue_is_found():
    found = stress(items(240, 0.8))
    assert right(found) > 0.75 and np.mean([bias.score for bias in found]) > 0.6


def test_where_there_is_no_cue_nothing_is_found():
    """Four runs of 240: chance is 0.25 with a standard error of 0.014."""
    assert abs(np.mean([right(stress(items(240, 0.0, seed))) for seed in range(4)]) - 0.25) < 0.06


def test_a_cue_in_the_question():
    some = items(240, 0.0)
    told = [
        Item(
            source="s",
            subset="t",
            id=item.id,
            question=f"{item.question} It is a {word}.",
            options=item.options,
            answer=item.answer,
            cluster=item.cluster,
        )
        for item, word in (
            (item, {"left": "red", "right": "blue", "up": "green", "down": "grey"}[item.options[item.answer]])
            for item in some
        )
    ]
    assert right(stress(told)) > 0.95


def test_the_letter_is_no_cue():
    rng = keyed("letters")
    words = [f"w{i}" for i in range(800)]
    some = [
        Item(
            source="s",
            subset="t",
            id=str(i),
            question="Which?",
            answer="C",
            options=dict(zip("ABCD", rng.choice(words, 4, replace=False).tolist(), strict=True)),
        )
        for i in range(120)
    ]
    assert right(stress(some, folds=5)) < 0.5


def test_equal_calls_agree_and_the_order_does_not_matter():
    some = items(90, 0.6)
    first = stress(some, folds=5)
    assert first == stress(some, folds=5)
    back = {bias.uid: bias for bias in stress(some[::-1], folds=5)}
    assert all(back[bias.uid].score == pytest.approx(bias.score, abs=1e-3) for bias in first)
    assert [bias.uid for bias in first] == [item.uid for item in some]


def test_a_video_is_never_in_two_folds():
    found = stress(items(90, 0.5), folds=7)
    folds = {}
    for bias in found:
        assert folds.setdefault(bias.cluster, bias.fold) == bias.fold
    assert len(set(folds.values())) == 7


def test_two_to_five_options_and_two_right_ones():
    some = (
        items(40, 0.5)
        + [
            Item(source="s", subset="u", id=str(i), question="Is it?", options={"A": "yes", "B": "no"}, answer="A")
            for i in range(10)
        ]
        + [
            Item(
                source="s",
                subset="w",
                id=str(i),
                question="Why?",
                answer="D",
                also_right=("E",),
                options={"A": "a", "B": "b", "C": "c", "D": "d", "E": "d"},
            )
            for i in range(10)
        ]
    )
    found = stress(some, folds=4)
    assert {bias.chance for bias in found} == {0.25, 0.5, 0.4}
    assert all(0 <= bias.score <= 1 for bias in found) and right(found[40:]) == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"folds": 1}, "`folds`"),
        ({"folds": 99}, "only 10 videos"),
        ({"folds": 2.0}, "`folds`"),
        ({"penalty": 0}, "`penalty`"),
        ({"penalty": float("nan")}, "`penalty`"),
    ],
)
def test_bad_arguments(more, said):
    with pytest.raises(ValueError, match=said):
        stress(items(30, 0.5), **more)


def test_items_as_lines_of_json(tmp_path):
    some = items(5, 0.5)
    path = write_items(tmp_path / "items.jsonl", some)
    assert [vars(item) for item in read_items(path)] == [vars(item) for item in some]
    (tmp_path / "bad.jsonl").write_text(path.read_text().splitlines()[0].replace('"answer": "', '"answer": "Z') + "\n")
    with pytest.raises(ValueError, match="line 1"):
        read_items(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"source": "s", "colour": 1}\n')
    with pytest.raises(ValueError, match="'colour'"):
        read_items(tmp_path / "bad.jsonl")
    frames = Item(
        source="s",
        subset="t",
        id="1",
        question="?",
        options={"A": "x", "B": "y"},
        answer="A",
        video=np.zeros((2, 4, 4, 3), np.uint8),
    )
    with pytest.raises(ValueError, match="`video`"):
        write_items(tmp_path / "frames.jsonl", [frames])
    assert not (tmp_path / "frames.jsonl").exists()
