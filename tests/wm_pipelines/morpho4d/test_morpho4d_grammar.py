"""Commands in English: templated and free ones as exact JSON; commands that no rule reads; everyday prompts."""

import itertools
import json
from pathlib import Path

import pytest

from wm_pipelines.morpho4d.grammar import instruction_json
from wm_pipelines.morpho4d.prompts import world_words
from wm_pipelines.text.colours import SRGB

FREE = json.loads(Path(__file__).with_name("free_commands.json").read_text())
THINGS = ("red cube", "ball", "small yellow cone", "cylinder")


def templated():
    """40 commands and what they mean."""
    for thing, verb in itertools.product(THINGS, ("remove", "delete")):
        yield f"{verb} the {thing}", {"op": "remove", "target": {"query": thing}}
    for thing, colour in itertools.product(THINGS, ("green", "blue")):
        op = {"op": "recolor", "target": {"query": thing}, "rgb": list(SRGB[colour])}
        yield f"paint the {thing} {colour}", op
        yield f"make the {thing} {colour}", op
    ways = itertools.product(("left", "up", "away", "towards"), (0.5, 2))
    for thing, (way, amount) in zip(THINGS * 2, ways, strict=True):
        op = {"op": "move", "target": {"query": thing}, "direction": way, "amount": float(amount)}
        yield f"move the {thing} {way} by {amount} m", op
    for thing in THINGS:
        yield f"slow down the {thing}", {"op": "retime", "target": {"query": thing}, "rate": 0.5}
        yield f"scale the {thing} by 1.5", {"op": "scale", "target": {"query": thing}, "factor": 1.5}


def test_templated_commands():
    pairs = list(templated())
    wrong = [(text, instruction_json(text)) for text, op in pairs if instruction_json(text) != [op]]
    assert len(pairs) == 40 and not wrong


def test_free_commands():
    assert len(FREE) == 40
    wrong = []
    for text, wanted in FREE.items():
        try:
            found = instruction_json(text)
        except ValueError as error:
            found = str(error)
        if found != wanted:
            wrong.append((text, found))
    assert len(wrong) <= 2, wrong  # 0.95 of them


def test_several_operations_in_their_order():
    found = instruction_json("Remove the cube, then paint the ball red and move it left by 1 m.")
    assert [op["op"] for op in found] == ["remove", "recolor", "move"]
    assert found[2]["target"] == {"query": "ball"}


def test_seconds_are_frames_at_the_scene_s_rate():
    for fps in (8.0, 25.0):
        found = instruction_json("move the cube up 1 m from 1 second to 2 seconds", fps)[0]
        assert (found["start"], found["end"]) == (fps, 2 * fps)


@pytest.mark.parametrize("text", ["", "   ", None, "dance", "what is this", "paint the cube", "move the cube", "hide"])
def test_what_no_rule_reads_is_quoted(text):
    with pytest.raises(ValueError, match="no rule reads|`text` is"):
        instruction_json(text)


@pytest.mark.parametrize(
    "prompt, said",
    [
        ("a red cube slides right and a ball bounces", "a red cube moving right and a sphere bouncing"),
        ("A little violet box is spinning clockwise.", "a small purple cube turning clockwise"),
        ("the big can rolls to the left, then stops", "the large cylinder moving left, then stopping"),
        ("a ball circles around the cone", "a sphere orbiting the cone"),
        ("a cube to the left of a ball", "a cube to the left of a sphere"),
    ],
)
def test_everyday_words_become_the_world_s(prompt, said):
    assert world_words(prompt) == said
