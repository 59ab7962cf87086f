import re
from collections import Counter
from dataclasses import replace

import pytest

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.questions import (
    FAMILIES,
    KNOWING,
    QUESTION_VOCABULARY,
    Knobs,
    Question,
    build_question_tokenizer,
    sample_question,
    truth,
)
from wm_pipelines.diorama.questions.items import draw
from wm_pipelines.diorama.questions.law import Setting
from wm_pipelines.diorama.scene import HELD_OUT

EVENTS = [name for name, family in FAMILIES.items() if family.medium == "events"]
CHEAP = [name for name in FAMILIES if name not in EVENTS]


def context_of(name: str, n: int = 0) -> str | None:
    family = FAMILIES[name]
    return family.contexts[n % len(family.contexts)] if family.told else None


def items(name: str, count: int, **options):
    return [sample_question(name, "test", n, context=context_of(name, n), **options) for n in range(count)]


@pytest.mark.parametrize("name", FAMILIES)
def test_one_option_is_right_by_the_state_and_the_twins_are_right_by_theirs(name):
    for item in items(name, 1 if name in EVENTS else 3):
        question, clip = item.question, item.clip
        shown = range(clip.shown)
        assert truth(question, clip, shown) == question.right and len(set(question.options)) == len(question.options)
        assert Question.from_json(question.to_json()) == question
        assert item.truth_for(question.frames or shown) == question.right
        if FAMILIES[name].told:
            continue
        # the map of answers, and the truth of the transformed state, which knows nothing of the map
        if (mirrored := item.mirrored()) is not None:
            assert truth(question, clip.mirrored(), shown) == mirrored.question.right
        if (backwards := item.backwards()) is not None:
            assert truth(question, clip.backwards(), shown) == backwards.question.right


@pytest.mark.parametrize("name", ["translation_picture", "translation", "rotation", "order", "where"])
def test_the_mirrored_and_the_reversed_answer_are_among_the_options(name):
    for n in range(30):
        ask, answer, options, _ = draw(name, "options", n, setting=Setting(frames=16))
        family = FAMILIES[name]
        twins = [family.mirror(ask, None, answer).get(answer)] if name not in ("order",) else []
        assert answer in options and all(t is None or t in options for t in twins)


def test_the_same_key_is_the_same_item_and_another_key_another():
    a, b, c = (sample_question("translation", "same", n) for n in (1, 1, 2))
    assert a.to_json() == b.to_json() != c.to_json()


def test_letters_and_answers_give_nothing_away():
    for name in CHEAP:
        letters, answers = Counter(), Counter()
        for n in range(160):
            _, answer, options, _ = draw(name, "fair", n, setting=Setting(frames=16, context=context_of(name)))
            letters[options.index(answer), len(options)] += 1
            answers[answer] += 1
        for (_, size), count in letters.items():
            total = sum(v for (_, s), v in letters.items() if s == size)
            if total >= 100:
                share = count / total
                assert abs(share - 1 / size) < 4 * (1 / size / total) ** 0.5, (name, size, letters)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_text_prior_is_how_often_it_is_right(rho):
    expected = hits = count = 0
    for name in ("translation", "rotation", "count", "where"):
        for n in range(150):
            setting = Setting(Knobs(rho=rho), frames=16)
            ask, answer, options, _ = draw(name, "prior", n, setting=setting)
            favoured = ask.plausible[0]
            plausible = len(ask.plausible)
            expected += rho + (1 - rho) / plausible
            hits += answer == favoured
            count += 1
    assert abs(hits - expected) < 4 * (count * 0.25) ** 0.5
    item = sample_question("translation", "prior of an item", 3, knobs=Knobs(rho=rho))
    assert sum(item.question.priors) == pytest.approx(1)


def test_worlds_of_other_laws_are_the_same_question_with_their_own_truth():
    conflicts = 0
    for name in KNOWING:
        for n in range(2):
            normal = sample_question(name, "counter", n)
            other = sample_question(name, "counter", n, world="counter")
            assert (other.question.text, other.question.options) == (normal.question.text, normal.question.options)
            assert other.question.world != "normal" == normal.question.world
            assert truth(other.question, other.clip, range(other.clip.shown)) == other.question.right
            assert other.question.conflict == (other.question.right != normal.question.right)
            conflicts += other.question.conflict
    assert conflicts


def test_what_is_absent_is_absent():
    for item in items("absent", 6):
        if re.match(r"there is no (\w+) (\w+)", item.question.right):
            words = item.question.right.removeprefix("there is no ").split()
            assert not item.clip.all(words)


@pytest.mark.parametrize("context", ["facts", "table", "graph"])
def test_the_place_of_a_row_gives_nothing_away(context):
    name = next(n for n, f in FAMILIES.items() if f.told and context in f.contexts)
    places, rows = Counter(), Counter()
    for n in range(60):
        found = sample_question(name, "places", context, n, context=context).question.context
        places.update(found.needed)
        rows.update(range(len(found.rows)))
        assert [found.text[a:b].strip() for a, b in found.rows]
    total, kinds = sum(places.values()), len(places)
    assert kinds == 6 and max(abs(v / total - 1 / 6) for v in places.values()) < 4 * (1 / 6 / total) ** 0.5


def test_every_word_is_one_token(tmp_path):
    tokenizer = build_question_tokenizer(tmp_path)
    for name in CHEAP:
        for item in items(name, 2):
            question = item.question
            text = " ".join([question.full_text, *question.options])
            words = re.findall(r"[a-z]+", text)
            assert set(words) <= set(QUESTION_VOCABULARY), sorted(set(words) - set(QUESTION_VOCABULARY))
            assert len(tokenizer(" ".join(words)).input_ids) == len(words) + 2
    for name in EVENTS:
        for n in range(30):
            ask = draw(name, "words", n, setting=Setting(frames=16))[0]
            assert set(re.findall(r"[a-z]+", " ".join([ask.text, *ask.options]))) <= set(QUESTION_VOCABULARY)
    assert {"moves", "moved", "order", "cause", "wall", "inertia"} <= set(QUESTION_VOCABULARY)


def test_held_out_questions_show_held_out_pairs_alone():
    for name in ("colour", "translation"):
        for item in items(name, 3, composition="held_out"):
            assert all((o.colour, o.shape) in HELD_OUT for o in item.clip.scene.objects)


def test_the_data_set_has_them():
    data = DioramaDataset("questions", families=["rotation", "colour"], length=4, size=16, frames=8)
    clip, picture = data[0], data[1]
    assert clip["rgb"].shape == (8, 3, 16, 16) and picture["rgb"].shape == (1, 3, 16, 16)
    assert clip["options"][clip["answer"]] == clip["question"].right and clip["scene"] == data.scene(0)
    assert data[0]["question"] == clip["question"]
    with pytest.raises(IndexError):
        data[4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "smell"}, "`family` is 'smell'; allowed: "),
        ({"frames": 7}, "`frames` is 7; allowed: 8 to 64"),
        ({"composition": "iid"}, "`composition` is 'iid'"),
        ({"context": "song"}, "`context` is 'song'"),
        ({"world": "moon"}, "`world` is 'moon'"),
        ({"world": "counter"}, "`family` 'colour' takes no knowledge"),
        ({"family": "translation", "context": "table"}, "`family` 'translation' has no context"),
        ({"family": "lookup"}, "`family` 'lookup' needs a `context`"),
    ],
)
def test_bad_input(arguments, message):
    family = arguments.pop("family", "colour")
    with pytest.raises(ValueError, match=message):
        sample_question(family, "bad", **arguments)


@pytest.mark.parametrize("knobs", [{"rho": 1.5}, {"skew": -0.1}, {"distractors": 5}, {"bystanders": 3}, {"rows": 2}])
def test_bad_knobs(knobs):
    with pytest.raises(ValueError, match=f"`{next(iter(knobs))}` is"):
        Knobs(**knobs)


def test_a_question_of_two_equal_options_is_refused():
    question = sample_question("colour", "equal", 0).question
    with pytest.raises(ValueError, match="`options`"):
        replace(question, options=(question.options[0],) * len(question.options))
