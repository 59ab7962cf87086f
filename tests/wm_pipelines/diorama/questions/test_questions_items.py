"""What must hold of every question, over many keys: pictures and clips; events have a file of their own."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from wm_pipelines.diorama.questions import FAMILIES, Item, Knobs, Question, sample_question, truth
from wm_pipelines.diorama.questions.record import LETTERS
from wm_pipelines.diorama.scene import HELD_OUT, clear_relations, is_held_out

NAMES = [name for name, family in FAMILIES.items() if family.medium != "events"]
VARIANTS = (
    (Knobs(), {}),
    (Knobs(bystanders=0, distractors=1), {"frames": 8, "composition": "held_out"}),
    (Knobs(bystanders=2, distractors=4, camera_motion=True), {"frames": 12, "composition": "all"}),
    (Knobs(camera_motion=True, distractors=2), {"frames": 24}),
)


def drawn(name: str, n: int, knobs: Knobs, **options) -> Item:
    family = FAMILIES[name]
    contexts = family.contexts if family.told else (None, *family.contexts)
    return sample_question(name, "test", n, knobs=knobs, context=contexts[n % len(contexts)], **options)


@pytest.fixture(scope="module")
def items() -> dict[str, list[Item]]:
    return {
        name: [drawn(name, n, knobs, **options) for n in range(8) for knobs, options in (VARIANTS[n % len(VARIANTS)],)]
        for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_exactly_one_option_is_right_and_it_is_what_the_state_says(items, name):
    for item in items[name]:
        question, clip = item.question, item.clip
        assert question.family == name and 2 <= len(question.options) == len(set(question.options)) <= 5
        assert question.right == question.options[question.answer] and question.letter == LETTERS[question.answer]
        assert item.truth_for(range(clip.shown)) == question.right
        if not FAMILIES[name].told:
            # the state, and not the record, says so: with the answer forgotten it is found again
            other = (question.answer + 1) % len(question.options)
            assert truth(replace(question, answer=other), clip, range(clip.shown)) == question.right


@pytest.mark.parametrize("name", NAMES)
def test_the_mirrored_state_has_the_mirrored_answer(items, name):
    for item in items[name]:
        right = item.question.right
        state = truth(item.question, item.clip.mirrored(), range(item.clip.shown))
        if not FAMILIES[name].told:
            assert state == item.question.mirror[right]
        twin = item.mirrored()
        assert (twin is None) == (item.question.mirror[right] is None)
        if twin is not None:
            assert twin.question.text == item.question.text and twin.question.options == item.question.options
            assert twin.question.right == item.question.mirror[right] in item.question.options
            assert twin.truth_for(twin.question.frames) == twin.question.right
            assert twin.question.mirror[twin.question.right] == right


@pytest.mark.parametrize("name", [n for n in NAMES if FAMILIES[n].medium == "clip"])
def test_the_clip_run_backwards_has_the_reversed_answer(items, name):
    for item in items[name]:
        question = item.question
        assert question.reverse is not None
        state = truth(question, item.clip.backwards(), range(item.clip.shown))
        assert state == question.reverse[question.right]
        twin = item.backwards()
        if twin is not None:
            assert twin.question.right in question.options
            assert twin.truth_for(twin.question.frames) == twin.question.right
            assert twin.question.reverse[twin.question.right] == question.right


def test_most_twins_with_another_truth_exist():
    """Left and right, clockwise, order: the pairs that tell a model which reads motion from one which guesses."""
    for name in ("where", "translation", "translation_picture", "translation_object", "rotation"):
        twins = [drawn(name, n, Knobs()).mirrored() for n in range(0, 24, 4)]
        assert all(twins)
    for name in ("order", "procedure"):
        items = [drawn(name, n, Knobs()) for n in range(0, 24, 4)]
        assert all(i.backwards() and i.backwards().question.right in i.question.options for i in items)
        assert sum(i.backwards().question.right != i.question.right for i in items) >= 3


def test_pictures_have_no_time(items):
    for name in NAMES:
        if FAMILIES[name].medium == "picture":
            for item in items[name]:
                assert item.clip.shown == 1 and item.question.reverse is None and item.backwards() is None


@pytest.mark.parametrize("name", NAMES)
def test_frames_that_matter_decide_and_none_of_them_can_be_spared(items, name):
    for item in items[name]:
        question, frames = item.question, item.question.frames
        if FAMILIES[name].told:
            assert frames == () and item.truth_for([]) == question.right
            continue
        assert frames and set(frames) <= set(range(item.clip.shown))
        assert item.truth_for(frames) == question.right
        assert item.truth_for([]) is None
        for t in frames:
            assert item.truth_for([f for f in frames if f != t]) != question.right
        if FAMILIES[name].medium == "clip" and not question.right.startswith("there is no"):
            assert all(item.truth_for([t]) is None for t in range(0, item.clip.shown, 5))


def test_truth_for_takes_frames_in_any_order_and_only_shown_ones(items):
    item = items["translation"][0]
    assert item.truth_for([15, 0, 15]) == item.truth_for([0, 15]) == item.question.right
    for wrong in ([-1, 3], [0, 16]):
        with pytest.raises(ValueError, match=r"`frames` are .* shows 0 to 15"):
            item.truth_for(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_key_is_the_same_item_in_any_thread(items, name):
    knobs, options = VARIANTS[1]
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(drawn, name, 1, knobs, **options).result()
    assert again == items[name][1]
    assert len({i.question.text + str(i.question.options) + i.clip.scene.to_json() for i in items[name]}) == 8


@pytest.mark.parametrize("name", NAMES)
def test_json_both_ways(items, name):
    for item in items[name][:4]:
        again = Item.from_json(item.to_json())
        assert again == item and again.truth_for(range(item.clip.shown)) == item.question.right


def test_broken_json_is_named(items):
    item = items["same"][1]
    data = json.loads(item.to_json())
    for change, message in (
        ({"question": {**data["question"], "extra": 1}}, "'extra' of Question is unknown"),
        (
            {"question": {k: v for k, v in data["question"].items() if k != "program"}},
            "'program' of Question is missing",
        ),
        ({"question": {**data["question"], "question": 2}}, "not a question of version 1"),
        ({"question": {**data["question"], "family": "mood"}}, "`family` is 'mood'"),
        ({"question": {**data["question"], "answer": 7}}, "`answer` is 7"),
        ({"question": {**data["question"], "priors": [1.0]}}, "`priors`"),
        ({"clip": {**data["clip"], "shown": 9}}, "`shown` is 9"),
        ({"clip": []}, "a clip is a JSON object"),
        ({"more": 1}, "an item is a JSON object with a question and a clip"),
    ):
        with pytest.raises(ValueError, match=message):
            Item.from_json(json.dumps({**data, **change}))
    with pytest.raises(ValueError):
        Question.from_json("[]")


@pytest.mark.parametrize("name", NAMES)
def test_compositions_are_kept(items, name):
    for n, item in enumerate(items[name]):
        pairs = {(o.colour, o.shape) for o in item.clip.scene.objects}
        composition = VARIANTS[n % 4][1].get("composition", "train")
        if composition == "train":
            assert not is_held_out(item.clip.scene)
        elif composition == "held_out":
            assert pairs <= HELD_OUT


@pytest.mark.parametrize("name", NAMES)
def test_who_is_meant_is_unique(items, name):
    for item in items[name]:
        program = item.question.program
        absent = item.question.right.startswith("there is no")
        for key in ("object", "other"):
            if key in program and not FAMILIES[name].told:
                assert (item.clip.find(program[key]) is None) == absent


def test_absent_things_are_absent_and_nearly_there():
    seen = []
    for n in range(16):
        item = sample_question("absent", "absence", n)
        colour, shape = item.question.program["object"]
        there = [o for o in item.clip.scene.objects if (o.colour, o.shape) == (colour, shape)]
        seen.append(not there)
        assert (item.question.right == f"there is no {colour} {shape}") == (not there)
        assert f"there is no {colour} {shape}" in item.question.options
        if not there:
            assert any(o.colour == colour or o.shape == shape for o in item.clip.scene.objects)
    assert 1 <= sum(seen) <= 8


def test_relations_that_are_asked_about_are_clear(items):
    for name in ("where", "two_hops"):
        for item in items[name]:
            program, scene = item.question.program, item.clip.scene
            if name == "where":
                found = {
                    (predicate, a)
                    for predicate, a, b in clear_relations(scene)
                    if a == item.clip.find(program["object"]).id and b == item.clip.find(program["other"]).id
                }
                predicates = {p for p, _ in found} - {"above", "below"}
                assert {f"{p} it" for p in predicates} == {item.question.right}
            else:
                at = item.clip.find(program["object"]).id
                for predicate in program["path"]:
                    those = [a for p, a, b in clear_relations(scene) if p == predicate and b == at]
                    assert len(those) == 1
                    at = those[0]
                assert getattr(scene.object(at), program["attribute"]) == item.question.right


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "mood"}, "`family` is 'mood'; allowed: colour, shape"),
        ({"context": "poem"}, "`context` is 'poem'; allowed: facts, table, graph"),
        ({"family": "rotation", "context": "facts"}, "`family` 'rotation' has no context 'facts'; with it go colour"),
        ({"family": "lookup"}, "`family` 'lookup' needs a `context`: facts, table, graph"),
        ({"world": "upside down"}, "`world` is 'upside down'; allowed: normal, counter"),
        ({"world": "counter"}, "takes no knowledge and has no counter-world; counterfactual, future have"),
        ({"composition": "iid"}, "`composition` is 'iid'; allowed: train, held_out, all"),
        ({"frames": 7}, "`frames` is 7; allowed: 8 to 64"),
        ({"frames": 8.0}, "`frames` is 8.0"),
        ({"frames": True}, "`frames` is True"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        sample_question(**{"family": "colour", **change})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rho", 1.5), ("rho", -0.1), ("rho", True), ("rho", "much"), ("skew", 2), ("distractors", 0),
        ("distractors", 5), ("distractors", 2.0), ("bystanders", 3), ("rows", 3), ("rows", 13),
    ],
)  # fmt: skip
def test_bad_knobs(name, value):
    with pytest.raises(ValueError, match=f"`{name}` is {value!r}; allowed: "):
        Knobs(**{name: value})


def test_a_twin_is_mirrored_or_reversed(items):
    with pytest.raises(ValueError, match="`transform` is 'shuffle'; allowed: mirror, reverse"):
        items["rotation"][0].question.twin("shuffle")
