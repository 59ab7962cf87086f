"""Boxes of detectors in other packs, and folders of labelled pictures, as nodes read them."""

from collections import namedtuple
from importlib import import_module

import numpy as np
import pytest
import torch

SEG = namedtuple("SEG", "cropped_image cropped_mask confidence crop_region bbox label control_net_wrapper")


@pytest.fixture
def detections(wm_nodes):
    return import_module(f"{wm_nodes.__name__}._shared.detections")


@pytest.fixture
def input_folders(wm_nodes):
    return import_module(f"{wm_nodes.__name__}._shared.input_folders")


def seg(label, box):
    return SEG(None, None, 0.9, None, box, label, None)


def test_segments_bring_their_own_labels_or_take_others(detections):
    segs = ((40, 60), [seg("cat", (1, 2, 30, 40)), seg("dog", [10, 5, 20, 9]), seg("cat", (0, 0, 5, 5))])
    found = detections.boxes_of_segs(segs, (40, 60))
    assert found == {"cat": [(1.0, 2.0, 30.0, 40.0), (0.0, 0.0, 5.0, 5.0)], "dog": [(10.0, 5.0, 20.0, 9.0)]}
    assert list(detections.boxes_of_segs(segs, (40, 60), ["a", "b", "c"])) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("segs", "labels", "message"),
    [
        (((40, 61), []), [], "segs are of a picture of 40 x 61, this one is 40 x 60"),
        (((40, 60), [seg("a", (0, 0, 1, 1))]), ["a", "b"], "box_labels has 2 lines for 1 segments"),
        ([1, 2, 3], [], "segs must be a pair"),
        (((40, 60), [object()]), [], "segs must be a pair"),
        (None, [], "segs must be a pair"),
    ],
)
def test_segments_that_do_not_fit_are_refused(detections, segs, labels, message):
    with pytest.raises(ValueError, match=message):
        detections.boxes_of_segs(segs, (40, 60), labels)


@pytest.mark.parametrize(
    ("data", "form"),
    [
        ([(10, 5, 20, 10)], "xywh"),
        ([(10, 5, 30, 15)], "xyxy"),
        ([{"x": 10, "y": 5, "width": 20, "height": 10}], None),
    ],
)
def test_boxes_are_read_in_pixels_whatever_their_form(detections, data, form):
    found = detections.boxes_of_bbox(data, ["cat"], (40, 60), form)
    assert found == {"cat": [pytest.approx((10, 5, 30, 15), abs=1e-4)]}


def test_several_boxes_may_have_one_label_and_each_needs_one(detections):
    data = [(0, 0, 10, 10), (20, 20, 40, 40)]
    assert len(detections.boxes_of_bbox(data, ["cat", "cat"], (40, 60), "xyxy")["cat"]) == 2
    with pytest.raises(ValueError, match="box_labels must say"):
        detections.boxes_of_bbox(data, [], (40, 60), "xyxy")
    with pytest.raises(ValueError):
        detections.boxes_of_bbox(data, ["cat"], (40, 60), "xyxy")


def test_segments_over_time_are_masks_at_the_size_of_their_picture(detections):
    stacked = torch.zeros(3, 4, 6, dtype=torch.uint8)
    stacked[1, 1:3, 2:5] = 1
    moving = SEG(None, stacked, 0.9, (10, 20, 16, 24), (11, 21, 15, 23), "cat", None)
    still = SEG(None, np.ones((4, 6), np.float32), 0.9, (0, 0, 6, 4), (0, 0, 6, 4), "dog", None)
    (cat, masks), (dog, one), (box, filled) = detections.masks_of_segs(
        ((40, 60), [moving, still, seg("hat", (3, 4, 9, 8))])
    )
    assert (cat, dog, box) == ("cat", "dog", "hat")
    assert masks.shape == (3, 40, 60) and masks[1].nonzero().tolist()[0] == [21, 12] and int(masks.sum()) == 6
    assert one.shape == filled.shape == (1, 40, 60) and int(filled.sum()) == 24 and bool(filled[0, 7, 8])
    assert detections.masks_of_segs(((40, 60), [moving]), ["black cat"])[0][0] == "black cat"


@pytest.mark.parametrize(
    ("segments", "labels", "message"),
    [
        ([], [], "segs holds no segment"),
        ([seg("a", (0, 0, 1, 1))], ["a", "b"], "phrases has 2 lines for 1 segments"),
        (
            [SEG(None, np.ones((2, 2)), 1, (0, 0, 3, 3), (0, 0, 3, 3), "a", None)],
            [],
            r"segment 0 \('a'\) has a mask of \(1, 2, 2\)",
        ),
        ([SEG(None, np.ones((3, 3)), 1, (58, 0, 61, 3), (0, 0, 3, 3), "a", None)], [], "of a picture of 40 x 60"),
    ],
)
def test_masks_of_segments_that_do_not_fit_are_refused(detections, segments, labels, message):
    with pytest.raises(ValueError, match=message):
        detections.masks_of_segs(((40, 60), segments), labels)


def test_folders_of_classes_are_those_with_two_folders_or_more(input_folders, tmp_path):
    for name in ("pets/cat", "pets/dog", "one/cat", ".hidden/a", ".hidden/b"):
        (tmp_path / "input" / name).mkdir(parents=True)
    root = tmp_path / "input"
    assert input_folders.list_class_folders(root) == ["pets"] and input_folders.list_class_folders(root / "no") == []
    assert input_folders.resolve_class_folder("pets", root) == root / "pets"
    for name, message in (("one", "is not there; found: pets"), ("../input/pets", "refused"), ("/etc", "refused")):
        with pytest.raises(ValueError, match=message):
            input_folders.resolve_class_folder(name, root)
