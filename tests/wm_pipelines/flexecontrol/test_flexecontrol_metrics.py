"""What obedience is, on pictures whose answer is known."""

import pytest
import torch

from wm_pipelines.diorama.judge import JudgeOutput
from wm_pipelines.diorama.scene import COLOURS, SHAPES, Scene, SceneObject
from wm_pipelines.flexecontrol.metrics import edge_f1, objects_obeyed
from wm_pipelines.media.conditions import extract

RED, BLUE = (list(COLOURS).index(name) + 1 for name in ("red", "blue"))


class Reader:
    """A judge that reads colour classes written into the first channel of a picture, as class / 16."""

    device, dtype = torch.device("cpu"), torch.float32

    def __call__(self, pictures):
        classes = (pictures[:, 0] * 16).round().long()
        colour = torch.nn.functional.one_hot(classes, 1 + len(COLOURS)).movedim(-1, 1).float()
        return JudgeOutput(colour, torch.zeros(len(pictures), len(SHAPES), *pictures.shape[-2:]))


def painted(ids, colours):
    """A picture in which object i has the class `colours[i]`."""
    classes = torch.zeros_like(ids)
    for id, colour in colours.items():
        classes[ids == id] = colour
    return classes.float()[None].expand(3, -1, -1)[None] / 16


@pytest.fixture
def ids():
    ids = torch.zeros(32, 32, dtype=torch.long)
    ids[4:12, 4:12], ids[16:28, 16:28] = 1, 2
    return ids


def scene(first="red", second="blue"):
    return Scene((SceneObject(1, "cube", first), SceneObject(2, "sphere", second)))


def test_edges_within_a_pixel_agree_and_others_do_not(square):
    pictures = torch.stack([square(8), square(9), square(14)])
    edges = extract("canny", square(8))[None].expand(3, -1, -1, -1)
    same, near, far = edge_f1(pictures, edges).tolist()
    assert same == 1 and near > 0.9 and far < 0.7
    assert edge_f1(pictures[1:2], edges[:1], tolerance=0) < 0.9


def test_missing_and_superfluous_edges_cost(square):
    both = (square(4, 4, 16) + square(40, 40, 16)).clamp(max=1)
    one = extract("canny", square(4, 4, 16))[None]
    two = extract("canny", both)[None]
    assert 0.6 < edge_f1(both[None], one) < 0.75  # recall 1, precision 1/2
    assert 0.6 < edge_f1(square(4, 4, 16)[None], two) < 0.75  # precision 1, recall 1/2
    assert edge_f1(torch.zeros(1, 3, 64, 64), one) == 0
    assert edge_f1(both[None], torch.zeros(1, 3, 64, 64)).isnan()


def test_obedient_picture(ids):
    row = objects_obeyed(Reader(), painted(ids, {1: RED, 2: BLUE}), ids[None], [scene()])[0]
    assert row == [{"id": 1, "iou": 1, "bound": 1, "chance": 0.5}, {"id": 2, "iou": 1, "bound": 1, "chance": 0.5}]


def test_exchanged_colours_are_not_bound(ids):
    row = objects_obeyed(Reader(), painted(ids, {1: BLUE, 2: RED}), ids[None], [scene()])[0]
    assert [(o["iou"], o["bound"]) for o in row] == [(0, 0), (0, 0)]


def test_half_an_object_is_half_the_overlap(ids):
    half = ids.clone()
    half[4:12, 8:12] = 0
    row = objects_obeyed(Reader(), painted(half, {1: RED, 2: BLUE}), ids[None], [scene()])[0]
    assert row[0]["iou"] == 0.5 and row[1]["iou"] == 1


def test_a_twin_is_not_the_object_and_chance_knows_it(ids):
    row = objects_obeyed(Reader(), painted(ids, {1: RED, 2: RED}), ids[None], [scene("red", "red")])[0]
    assert [(o["iou"], o["chance"]) for o in row] == [(1, 1), (1, 1)]


def test_an_object_that_shows_no_pixel_is_left_out(ids):
    ids[ids == 2] = 0
    assert [o["id"] for o in objects_obeyed(Reader(), painted(ids, {1: RED}), ids[None], [scene()])[0]] == [1]
