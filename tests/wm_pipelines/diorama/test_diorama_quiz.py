"""Questions of the miniature world as items: truth for the frames shown, and for the twins."""

import ast
from pathlib import Path

import numpy as np
import pytest

from wm_pipelines.diorama.questions import FAMILIES, sample_question
from wm_pipelines.diorama.quiz import CLIPS, KNOWING, boxes_of, diorama_items, quiz_item
from wm_pipelines.evaluation.mcq.runner import evaluate


@pytest.fixture(scope="module")
def items():
    return diorama_items(2 * len(CLIPS), seed=3, size=24)


def test_items_are_the_same_on_every_machine_and_of_every_family(items):
    again = diorama_items(2 * len(CLIPS), seed=3, size=24)
    assert [i.uid for i in items] == [i.uid for i in again] and {i.family for i in items} == set(CLIPS)
    for one, other in zip(items, again, strict=True):
        assert (one.question, one.options, one.answer) == (other.question, other.options, other.answer)
    assert np.array_equal(items[5].video(), again[5].video())
    video = items[0].video()
    assert video.shape == (16, 24, 24, 3) and video.dtype == np.uint8 and video.std() > 5
    other = diorama_items(3, seed=4)
    assert [i.uid for i in other] != [i.uid for i in items[:3]]


def test_the_truth_is_that_of_the_frames_shown(items):
    for item in items:
        assert item.decides(range(16)) == item.answer
        for few in ((), (0,), (0, 15), (3, 8)):
            assert item.decides(few) in (None, *item.options)
        assert item.family == "absent" or item.decides((4,)) is None  # one frame decides no motion
    assert any(item.decides((0, 15)) is None for item in items)


def test_one_who_reads_the_state_is_right_of_every_twin(items):
    """The answer is computed from the clip's own state, mirrored or backwards, and never from the map of answers."""
    for n, item in enumerate(items):
        drawn = sample_question(CLIPS[n % len(CLIPS)], "quiz", 3, n)
        for transform, twin in (("mirror", drawn.mirrored()), ("reverse", drawn.backwards())):
            mapped = item.twin(transform)
            assert (mapped is None) == (twin is None)
            if twin is not None:
                assert mapped[1] == (twin.question.letter,) and twin.truth_for(range(16)) == twin.question.right


def test_an_evaluation_says_how_many_frames_decide(items):
    found = evaluate(items[:4], lambda *_: "A", controls=("one_frame:first", "frames:2", "oracle_state"), unfit="skip")
    assert found.report["controls"]["one_frame:first"]["decided"] == 0
    told = [row for row in found.rows if row.control == "oracle_state"]
    assert len(told) == 4 and all(row.frame_indices is None for row in told)
    assert {row.cluster for row in found.rows} == {f"diorama 3-{n}" for n in range(4)}


def test_counter_worlds_share_a_cluster_and_say_where_they_contradict():
    normal, counter = diorama_items(1, families=["future"], world="both", size=16)
    assert (normal.subset, counter.subset) == ("normal", "counter") and normal.cluster == counter.cluster
    assert (normal.question, normal.options) == (counter.question, counter.options)
    assert not normal.annotations["conflict"] and counter.annotations["world"] != "normal"
    assert counter.annotations["conflict"] == (counter.answer != normal.answer)

    def believes(frames, prompt, options):  # what a normal world would do, whatever is shown
        return normal.answer

    knowledge = evaluate([normal, counter], believes, controls=()).report["knowledge"]
    assert counter.annotations["conflict"] and knowledge["value"] == 1
    assert knowledge["consistent"]["score"] == 1 and knowledge["counter"]["score"] == 0


def test_boxes_follow_what_is_drawn():
    drawn = sample_question("translation", "quiz", 0, 0)
    boxes = boxes_of(drawn)
    assert len(boxes) == len(drawn.clip.scene.objects)
    for box in boxes.values():
        assert box.shape == (16, 4) and (box[:, 0] < box[:, 2]).all() and (0 <= box).all() and (box <= 1).all()
    item = quiz_item(drawn, subset="normal", id="x", size=16)
    assert item.uid == "diorama/normal/x" and all(name.split()[1] in item.state for name in boxes)


def test_the_node_offers_the_families_about_clips():
    tree = ast.parse((Path(__file__).parents[3] / "nodes" / "video_quiz.py").read_text(encoding="utf-8"))
    (offered,) = [ast.literal_eval(s.value) for s in tree.body if isinstance(s, ast.Assign)
                  and ast.unparse(s.targets[0]) == "FAMILIES"]  # fmt: skip
    assert offered == tuple(name for name, family in FAMILIES.items() if family.medium != "picture")
    assert set(KNOWING) <= set(offered)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 0}, "`count`"),
        ({"seed": -1}, "`seed`"),
        ({"world": "upside down"}, "`world`"),
        ({"families": ["colour"]}, "`families` has 'colour'"),
        ({"families": ["flight"]}, "`families` has 'flight'"),
        ({"frames": 4}, "`frames`"),
        ({"families": ["rotation"], "world": "counter"}, "no counter-world"),
    ],
)
def test_bad_arguments(change, words):
    with pytest.raises(ValueError, match=words):
        diorama_items(**{"count": 1, **change})
