"""Drawn regions: their JSON, strictly, and their masks by area."""

import json
import math

import pytest
import torch

from wm_pipelines.media.regions import read_regions, region_mask, write_regions


def region(*shapes):
    return json.dumps({"version": 1, "shapes": list(shapes)})


BOX = {"box": [0.25, 0.5, 0.75, 1.0]}
TRIANGLE = {"polygon": [[0.1, 0.1], [0.9, 0.2], [0.3, 0.8]]}


def test_what_is_written_is_read_as_the_same():
    shapes = read_regions(region(BOX, TRIANGLE))
    assert read_regions(write_regions(shapes)) == shapes
    assert json.loads(write_regions(shapes))["shapes"] == [BOX, TRIANGLE]


def test_a_box_on_whole_pixels_is_exactly_these():
    mask = region_mask(read_regions(region(BOX)), 8, 16)
    expected = torch.zeros(1, 8, 16)
    expected[:, 4:, 4:12] = 1
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (33, 17)])
@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ({"box": [0.13, 0.21, 0.57, 0.9]}, 0.44 * 0.69),
        (TRIANGLE, 0.5 * abs(0.8 * 0.7 - 0.1 * 0.2)),
        ({"polygon": [[0.5 + 0.4 * math.cos(t / 50), 0.5 + 0.4 * math.sin(t / 50)] for t in range(314)]},
         math.pi * 0.16),
        ({"polygon": [[0.9, 0.1], [0.9, 0.9], [0.1, 0.9], [0.1, 0.1]]}, 0.64),  # the other way round
    ],
    ids=["box", "triangle", "circle", "reversed"],
)  # fmt: skip
def test_a_mask_has_the_area_of_its_shape_at_any_size(shape, area, size):
    mask = region_mask(read_regions(region(shape)), *size)
    assert mask.shape == (1, *size) and mask.min() >= 0 and mask.max() == 1
    assert float(mask.mean()) == pytest.approx(area, abs=0.01)


def test_shapes_are_joined_and_what_crosses_itself_is_filled():
    left, right = {"box": [0, 0, 0.5, 1]}, {"box": [0.25, 0, 1, 1]}
    assert region_mask(read_regions(region(left, right)), 8, 8).min() == 1
    star = [[0.5 + 0.5 * math.sin(4 * math.pi * n / 5), 0.5 - 0.5 * math.cos(4 * math.pi * n / 5)] for n in range(5)]
    assert region_mask(read_regions(region({"polygon": star})), 20, 20)[0, 10, 10] == 1


def test_the_smallest_shape_is_not_nothing():
    mask = region_mask(read_regions(region({"box": [0.9999, 0.9999, 1, 1]})), 8, 8)
    assert mask[0, 7, 7] > 0 and mask.count_nonzero() == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "a region is JSON"),
        ("[]", "version and shapes"),
        ('{"version": 2, "shapes": []}', "version 2"),
        ('{"version": true, "shapes": []}', "version True"),
        (region(), "1 to 100 shapes"),
        (region(*[BOX] * 101), "1 to 100 shapes"),
        (region({"circle": 1}), "shapes[0] must be"),
        (region(BOX, {"box": [0, 0, 1]}), "shapes[1].box"),
        (region({"box": [0.5, 0, 0.5, 1]}), "x0 < x1"),
        (region({"box": [-0.1, 0, 0.5, 1]}), "from 0 to 1"),
        (region({"box": [True, 0, 0.5, 1]}), "from 0 to 1"),
        (region({"polygon": [[0, 0], [1, 1]]}), "3 to 20000 points"),
        (region({"polygon": [[0, 0], [1, 1], [2, 0]]}), "shapes[0].polygon[2]"),
        (region({"polygon": [[0.5, 0.5]] * 3}), "no area"),
    ],
)
def test_what_is_no_region_is_one_clear_error(text, words):
    with pytest.raises(ValueError) as refused:
        read_regions(text)
    assert words in str(refused.value)
