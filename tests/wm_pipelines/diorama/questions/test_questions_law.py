"""The law that draws text, options and answer: what it says of itself against what it does. No world is drawn."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from wm_pipelines.diorama.questions import FAMILIES, KNOWING, Knobs, sample_question
from wm_pipelines.diorama.questions.items import draw
from wm_pipelines.diorama.questions.law import Setting, closed, priors
from wm_pipelines.runtime.random import keyed

MANY = 300
UNLIKELY = 1e-4


def setting(name: str, n: int = 0, **knobs) -> Setting:
    family = FAMILIES[name]
    contexts = family.contexts if family.told else (None, *family.contexts)
    return Setting(Knobs(**knobs), 16, ("train", "all")[n % 2], contexts[n % len(contexts)])


def draws(name: str, key: str, **knobs):
    for n in range(MANY):
        yield draw(name, key, n, setting=setting(name, n, **knobs))[:3]


@pytest.mark.parametrize("name", FAMILIES)
def test_letters_and_answers_are_balanced(name):
    letters, ranks, texts, members = Counter(), Counter(), Counter(), Counter()
    for ask, answer, options in draws(name, "balance"):
        assert answer in ask.plausible and set(ask.plausible) <= set(ask.options) == set(options)
        letters[len(options), options.index(answer)] += 1
        ranks[len(ask.plausible), ask.plausible.index(answer)] += 1
        texts[answer] += 1
        members.update({o: 1 / len(ask.plausible) for o in ask.plausible})
    for counts in (letters, ranks):
        for size in {n for n, _ in counts}:
            found = [counts[size, i] for i in range(size)]
            assert chisquare(found).pvalue > UNLIKELY, (name, found)
    # every text is right as often as it should be: no answer is a better guess than another
    common = [text for text in members if members[text] >= 5]
    if len(common) == len(members) > 1:
        assert chisquare([texts[t] for t in common], [members[t] for t in common]).pvalue > UNLIKELY, texts


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prior_is_the_frequency_with_which_an_option_is_right(name):
    said, was = [], []
    for ask, answer, options in draws(name, "prior", rho=0.4, skew=0.3, distractors=2 + len(name) % 3):
        likely = priors(ask, options, 0.4, 0.3)
        assert sum(likely) == pytest.approx(1) and min(likely) >= 0
        said += likely
        was += [option == answer for option in options]
    said, was = np.array(said), np.array(was)
    for low, high in ((0, 0.15), (0.15, 0.3), (0.3, 0.5), (0.5, 1.01)):
        here = (low <= said) & (said < high)
        spread = np.sqrt((said[here] * (1 - said[here])).sum())
        assert abs(was[here].sum() - said[here].sum()) <= 4 * spread + 1e-9, (name, low)
    assert not was[said == 0].any()


def test_knobs_turn_what_they_say():
    for rho, skew in ((1.0, 0.0), (0.0, 1.0)):
        first = [
            (answer == ask.plausible[0], options[0] == answer)
            for ask, answer, options in draws("translation", "knobs", rho=rho, skew=skew)
        ]
        favoured, at_a = np.mean(first, axis=0)
        assert favoured == 1 if rho else favoured < 0.4
        assert at_a == 1 if skew else at_a < 0.4
    for distractors in (1, 2, 3, 4):
        sizes = {len(options) for *_, options in draws("order", "sizes", distractors=distractors)}
        assert max(sizes) == distractors + 1


def test_a_guesser_by_letter_or_by_text_gets_chance():
    """The best fixed letter, and the option that is right most often, learned on one half and tried on the other."""
    for name in ("translation", "where", "counting", "order", "future", "explanation"):
        rows = list(draws(name, "guess"))
        half = len(rows) // 2
        texts, letters = Counter(a for _, a, _ in rows[:half]), Counter(o.index(a) for _, a, o in rows[:half])
        letter = letters.most_common(1)[0][0]
        hits = [(max(o, key=lambda t: texts[t]) == a, o[min(letter, len(o) - 1)] == a) for _, a, o in rows[half:]]
        chance = np.mean([1 / len(o) for *_, o in rows[half:]])
        assert (np.mean(hits, axis=0) < chance + 4 * np.sqrt(chance * (1 - chance) / half)).all(), (name, chance)


@pytest.mark.parametrize("name", KNOWING)
def test_priors_in_counter_worlds(name):
    rng, world = keyed("test", name), FAMILIES[name].world
    said, was = np.zeros(0), np.zeros(0)
    for ask, answer, options in draws(name, "counter", rho=0.3, skew=0.5):
        law, chances = world(ask.program, ask.options, answer)
        assert law != "normal" and sum(chances.values()) == pytest.approx(1) and set(chances) <= set(options)
        there = list(chances)[rng.choice(len(chances), p=list(chances.values()))]
        likely = priors(ask, options, 0.3, 0.5, world)
        assert sum(likely) == pytest.approx(1)
        said, was = np.append(said, likely), np.append(was, [option == there for option in options])
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 1.01)):
        here = (low <= said) & (said < high)
        assert abs(was[here].sum() - said[here].sum()) <= 4 * np.sqrt((said[here] * (1 - said[here])).sum()) + 1e-9


def test_drawing_a_world_changes_nothing_of_what_is_asked():
    for name in ("colour", "two_hops", "translation", "counting", "procedure"):
        for n in range(4):
            question = sample_question(name, "same", n).question
            ask, answer, options, _ = draw(name, "same", n, setting=Setting(frames=1 if name == "colour" else 16))
            assert (question.text, question.options, question.right) == (ask.text, options, answer)
            assert question.priors == priors(ask, options, 0, 0) and question.prior == question.priors[question.answer]


def test_options_come_in_whole_groups():
    groups = [("left", "right"), ("up", "down"), ("still",), ("jumps",)]
    for most, sizes in ((1, {1}), (2, {2}), (3, {3}), (4, {4}), (5, {5}), (9, {6})):
        seen = {closed(keyed("groups", most, n), groups, most) for n in range(40)}
        assert {len(s) for s in seen} == sizes
        for options in seen:
            assert ("left" in options) == ("right" in options) and ("up" in options) == ("down" in options)
    assert all(closed(keyed("always", n), groups, 3, always=1)[:2] == ("left", "right") for n in range(20))
