"""Which option a reply names: each stage, what must not be taken for an answer, and that letters stay letters."""

import pytest

from wm_pipelines.evaluation.mcq.extract import STAGES, extract_answer
from wm_pipelines.runtime.random import keyed

SIDES = {"A": "left", "B": "right", "C": "not moving", "D": "no car there"}
COUNTS = {"A": "2", "B": "0", "C": "1", "D": "3"}


@pytest.mark.parametrize(
    ("reply", "letter", "stage"),
    [
        ("It turns. Therefore, the final answer is: B", "B", "phrase"),
        ("Therefore, the final answer is: $B", "B", "phrase"),
        ("**Final Answer**: (C)", "C", "phrase"),
        ("The correct answer is \\boxed{D}.", "D", "phrase"),
        ("so the best option is \\( B \\)", "B", "phrase"),
        ("Answer: A. It is left.\nOn reflection, the answer is: B.", "B", "phrase"),
        ("The answer is option C.", "C", "phrase"),
        ("Answer: **D**", "D", "phrase"),
        ("B", "B", "leading"),
        ("b", "B", "leading"),
        ("(c)", "C", "leading"),
        ("D. no car there", "D", "leading"),
        ("B: right", "B", "leading"),
        ("**C** because it stands", "C", "leading"),
        ("Hence $\\boxed{B}$ holds.", "B", "boxed"),
        ("I would go with C", "C", "trailing"),
        ("I would go with (C).", "C", "trailing"),
        ("The car is left of a tree at first. It is not moving.", "C", "last_sentence"),
        ("It goes right, I think\nThat is all there is.", "B", "text"),
        ("Everything points to option D here, as it looks", "D", "mention"),
    ],
)
def test_each_stage(reply, letter, stage):
    assert extract_answer(reply, SIDES) == (letter, stage)
    assert stage in STAGES


@pytest.mark.parametrize(
    "reply",
    [
        "", "   ", "\n", "I can't tell.", "Because of the camera nothing can be said", "Cars are everywhere",
        "Therefore, the final answer is: A or B", "Therefore, the final answer is: ($A $B $C $D)",
        "It could be left or right.", "The final answer is: N/A", "E", "The final answer is: E",
        "Option A is left, option B right, option C stands, option D has no such thing; which, I can't say",
        "brightly leftover", "Dogs run.",
    ],
)  # fmt: skip
def test_what_names_no_option(reply):
    assert extract_answer(reply, SIDES) == (None, None)


def test_an_option_within_another_gives_way():
    options = {"A": "clockwise", "B": "counter-clockwise", "C": "not spinning"}
    assert extract_answer("The wheel turns counter-clockwise.", options).letter == "B"
    assert extract_answer("The wheel turns clockwise.", options).letter == "A"
    assert extract_answer("It spins counter-clockwise, that is, not clockwise.", options).letter == "B"


def test_numbers_are_words_of_their_own():
    assert extract_answer("There are 3 of them.", COUNTS).letter == "D"
    assert extract_answer("There are 13 of them.", COUNTS).letter is None
    assert extract_answer("Of 3 cars only 1 moves.", COUNTS).letter is None


def test_as_many_letters_as_options():
    five = {letter: f"thing {letter}{letter}" for letter in "ABCDE"}
    assert extract_answer("The final answer is: E", five).letter == "E"
    assert extract_answer("E", dict(list(five.items())[:4])).letter is None
    assert extract_answer("F", five | {"F": "The video does not show this."}).letter == "F"


@pytest.mark.parametrize("way", ["{0}", "{0}.", "({0})", "{0}: {1}", "{0}. {1}", "Answer: {0}", "The answer is {0}.",
                                 "Let me see.\n\nTherefore, the final answer is: {0}", "**{0}**", "It is {1}.",
                                 "Final answer: $\\boxed{{{0}}}$"])  # fmt: skip
def test_usual_forms_round_trip(way):
    words = ["apple", "bridge", "under the table", "7", "rolls away", "mostly red", "forwards then back"]
    rng = keyed("extract test", way)
    for _ in range(30):
        options = dict(zip("ABCD", rng.permutation(words)[:4].tolist(), strict=True))
        letter = "ABCD"[rng.integers(4)]
        assert extract_answer(way.format(letter, options[letter]), options).letter == letter


def test_a_hundred_characters_or_a_hundred_thousand():
    long = "The car is left, the bus right, and option A is what some say. (B) or \\boxed " * 1500
    assert extract_answer(long + "\nTherefore, the final answer is: D", SIDES).letter == "D"
    assert extract_answer("*" * 100_000, SIDES).letter is None
    assert extract_answer(" " * 50_000 + "answer" * 10_000, SIDES).letter is None


@pytest.mark.parametrize("options", [{}, {"a": "x", "b": "y"}, {"A": "x", "G": "y"}, {"1": "x"}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="`options`"):
        extract_answer("A", options)


@pytest.mark.parametrize("reply", [None, 3, b"A", ["A"]])
def test_bad_reply(reply):
    with pytest.raises(ValueError, match="`reply`"):
        extract_answer(reply, SIDES)
