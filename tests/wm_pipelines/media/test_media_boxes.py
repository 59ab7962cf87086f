"""Boxes and sub-images: what is read, what is refused in which words, which pixels stay."""

import pytest
import torch

from wm_pipelines.media.boxes import inside_crop, mask_iou, read_boxes

SIZE = (200, 400)  # height, width


@pytest.mark.parametrize(
    ("box_format", "box"),
    [
        ("xyxy", (100, 50, 200, 150)),
        ("xywh", (100, 50, 100, 100)),
        ("xyxy_norm", (0.25, 0.25, 0.5, 0.75)),
        ("cxcywh_norm", (0.375, 0.5, 0.25, 0.5)),
    ],
)
def test_four_formats_of_one_box(box_format, box):
    assert read_boxes({"dog": [box]}, SIZE, box_format) == {"dog": [(100.0, 50.0, 200.0, 150.0)]}
    assert read_boxes({"dog": torch.tensor([box])}, SIZE, box_format) == {"dog": [(100.0, 50.0, 200.0, 150.0)]}


def test_a_pixel_of_rounding_is_cut_off_and_no_more():
    assert read_boxes({"dog": [(-0.6, 0, 400.9, 200)]}, SIZE) == {"dog": [(0.0, 0.0, 400.0, 200.0)]}


@pytest.mark.parametrize(
    ("boxes", "box_format", "words"),
    [
        ({"dog": [(310, 0, 120, 50)]}, "xyxy", "box (x0=310,x1=120) of 'dog' is reversed"),
        ({"dog": [(0, 60, 120, 50)]}, "xyxy", "box (y0=60,y1=50) of 'dog' is reversed"),
        ({"dog": [(0.2, 0.1, 0.5, 0.9)]}, "xyxy", "boxes look normalised (max ≤1.0, got 0.9); pass box_format="),
        ({"dog": [(10, 10, 90, 90)]}, "cxcywh_norm", "the boxes run to 90"),
        ({"dog": [(10, 10, 390, 230)]}, "xyxy", "lies outside the picture of 400x200 pixels"),
        ({"dog": [(400.5, 10, 400.9, 20)]}, "xyxy", "lies outside the picture"),
        ({"dog": [(-40, 10, 20, 20)]}, "xyxy", "lies outside the picture"),
        ({"dog": [(1, 2, 3)]}, "xyxy", "a box of 'dog' must be four numbers"),
        ({"dog": [(1, 2, float("nan"), 5)]}, "xyxy", "must be four finite numbers"),
        ({"dog": [("1", 2, 3, 5)]}, "xyxy", "must be four finite numbers"),
        ({"dog": (1, 2, 30, 50)}, "xyxy", "a box of 'dog' must be four numbers, got 1"),
        ({"dog": 3}, "xyxy", "boxes of 'dog' must be a list"),
        ({"": [(1, 2, 30, 50)]}, "xyxy", "a label must be a non-empty string"),
        ([(1, 2, 30, 50)], "xyxy", "boxes must map labels to lists of boxes, got list"),
        ({}, "yolo", "box_format='yolo'; choose from xyxy"),
    ],
)
def test_malformed_boxes_are_refused(boxes, box_format, words):
    with pytest.raises(ValueError) as error:
        read_boxes(boxes, SIZE, box_format)
    assert words in str(error.value)


def test_boxes_outside_the_crop_are_refused():
    inside_crop((150, 0, 250, 50), SIZE)
    inside_crop((0, 0, 101, 50), SIZE)
    with pytest.raises(ValueError, match=r"outside the crop \(x 100 to 300"):
        inside_crop((0, 0, 99, 50), SIZE)


def test_iou_of_masks_goes_pair_by_pair():
    a = torch.zeros(3, 4, 4, dtype=torch.bool)
    b = a.clone()
    a[0, :2], b[0, 1:3] = True, True  # two rows each, one in common
    a[1, 0, 0] = True
    assert mask_iou(a, b).tolist() == [pytest.approx(1 / 3), 0.0, 0.0]
    assert mask_iou(a[0], a[0]) == 1
