"""How pictures are scored against prompts, on pictures whose answer is known."""

import math

import pytest
import torch

from wm_pipelines.diorama.judge import JudgeOutput
from wm_pipelines.diorama.metrics import Found, look, obedience
from wm_pipelines.diorama.scene import COLOURS, SHAPES


def found(colour, shape, x=0.5, floor=0.5, area=0.1):
    return Found(colour, shape, area, (x - 0.1, floor - 0.2, x + 0.1, floor), (x, floor - 0.1))


WANTED = [{"colour": "red", "shape": "cube"}, {"colour": "blue", "shape": "sphere"}]


def test_all_there():
    scores = obedience(WANTED, [found("blue", "sphere"), found("red", "cube")])
    assert scores["joint"] == scores["colour"] == scores["shape"] == scores["count"] == scores["all"] == 1
    assert math.isnan(scores["relations"])


def test_right_words_in_wrong_pairs():
    scores = obedience(WANTED, [found("red", "sphere"), found("blue", "cube")])
    assert scores["colour"] == scores["shape"] == 1 and scores["joint"] == scores["all"] == 0


def test_multisets_and_the_largest_solids_count():
    one_blue = [found("red", "cube"), found("red", "cube"), found("blue", "sphere", area=0.01)]
    scores = obedience(WANTED, one_blue)
    assert (scores["colour"], scores["joint"], scores["count"]) == (0.5, 0.5, 0)
    assert obedience(WANTED, [])["joint"] == 0
    assert obedience([], [])["joint"] == 1 and obedience([], [found("red", "cube")])["joint"] == 0


@pytest.mark.parametrize(
    ("predicate", "holds"),
    [("left of", True), ("right of", False), ("behind", True), ("in front of", False)],
)
def test_relations_are_those_of_the_picture(predicate, holds):
    seen = [found("red", "cube", x=0.2, floor=0.4), found("blue", "sphere", x=0.8, floor=0.8)]
    assert obedience(WANTED, seen, [(0, predicate, 1)])["relations"] == holds
    assert obedience(WANTED, seen, [(1, predicate, 0)])["relations"] == (not holds)
    assert obedience(WANTED, seen[:1], [(0, predicate, 1)])["relations"] == 0  # one of the two is missing


class Painted:
    """A judge whose reading is given."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, colours, shapes):
        self.output = JudgeOutput(
            torch.nn.functional.one_hot(colours, 1 + len(COLOURS)).movedim(-1, 1).float(),
            torch.nn.functional.one_hot(shapes, len(SHAPES)).movedim(-1, 1).float() * 9,
        )

    def __call__(self, pictures):
        return self.output


def test_looking_finds_regions_largest_first_and_drops_specks():
    colours, shapes = torch.zeros(1, 64, 64, dtype=torch.long), torch.zeros(1, 64, 64, dtype=torch.long)
    colours[0, 4:10, 4:10], shapes[0, 4:10, 4:10] = 1, 2
    colours[0, 30:60, 20:50], shapes[0, 30:60, 20:50] = 3, 1
    colours[0, 0, 60] = 1  # one pixel
    large, small = look(Painted(colours, shapes), torch.zeros(1, 3, 64, 64))[0]
    names = list(COLOURS)
    assert (large.colour, large.shape) == (names[2], SHAPES[1])
    assert (small.colour, small.shape) == (names[0], SHAPES[2])
    assert large.box == (20 / 64, 30 / 64, 50 / 64, 60 / 64) and large.centre == (35 / 64, 45 / 64)
    assert large.area == 900 / 4096
