"""Objects and their boxes over time: what they become, and what is refused in which words."""

import doctest

import numpy as np
import pytest
import torch

from wm_pipelines.mojito.bases.geometry import latent_boxes
from wm_pipelines.mojito.trajectories import objects
from wm_pipelines.mojito.trajectories.objects import MotionObject, object_boxes

BOX = (0.1, 0.2, 0.4, 0.6)
LATER = (0.5, 0.2, 0.8, 0.6)
NAN = float("nan")


def with_box(index, box, frames=16):
    return [box if frame == index else BOX for frame in range(frames)]


def test_the_example_runs():
    assert doctest.testmod(objects).failed == 0


def test_one_box_holds_for_all_frames():
    boxes = MotionObject("cube", BOX).frame_boxes(5)
    assert boxes.dtype == torch.float32 and torch.equal(boxes, torch.tensor(BOX).expand(5, 4))


@pytest.mark.parametrize("kind", [list, np.asarray, torch.tensor])
def test_a_box_for_each_frame_comes_back_from_lists_arrays_and_tensors(kind):
    given = [(i / 10, 0.0, i / 10 + 0.25, 0.5) for i in range(7)]
    assert torch.equal(MotionObject("cube", kind(given)).frame_boxes(7), torch.tensor(given))


def test_keyframes_are_linear_between_and_held_outside():
    boxes = MotionObject("cube", [BOX, LATER], keyframes=[2, 6]).frame_boxes(9)
    assert torch.equal(boxes[:3], torch.tensor(BOX).expand(3, 4))
    assert torch.equal(boxes[6:], torch.tensor(LATER).expand(3, 4))
    assert boxes[3:6, 0].tolist() == pytest.approx([0.2, 0.3, 0.4])


def test_points_are_the_middles_of_boxes():
    boxes = MotionObject("cube", points=[(0.25, 0.5), (0.75, 0.5)], size=(0.5, 0.2), keyframes=[0, 2]).frame_boxes(3)
    assert torch.allclose(boxes[1], torch.tensor([0.25, 0.4, 0.75, 0.6]))
    growing = MotionObject("cube", points=[(0.5, 0.5)] * 2, size=[(0.2, 0.2), (0.4, 0.6)]).frame_boxes(2)
    assert torch.allclose(growing[1], torch.tensor([0.3, 0.2, 0.7, 0.8]))


def test_a_rounding_error_outside_the_picture_is_moved_onto_its_border():
    boxes = MotionObject("cube", points=(0.9, 0.9), size=(0.2, 0.2)).frame_boxes(1)
    assert boxes.max() == 1.0


def test_objects_are_stacked_in_order():
    boxes = object_boxes([MotionObject("cube", BOX), MotionObject("ball", LATER)], 4)
    assert boxes.shape == (2, 4, 4) and torch.equal(boxes[1, 3], torch.tensor(LATER))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"boxes": with_box(7, (0.70, 0.1, 0.62, 0.5))}, r"objects[1].boxes[7] has x1<=x0 (0.62<=0.70)"),
        ({"boxes": with_box(3, (0.1, 0.5, 0.2, 0.5))}, r"objects[1].boxes[3] has y1<=y0 (0.50<=0.50)"),
        ({"boxes": with_box(3, (0.1, 0.5, 0.2, 1.5))}, r"objects[1].boxes[3] has y1=1.50, outside [0, 1]"),
        ({"boxes": with_box(3, (-0.01, 0.5, 0.2, 0.6))}, r"objects[1].boxes[3] has x0=-0.01, outside [0, 1]"),
        ({"boxes": with_box(3, (0.1, NAN, 0.2, 0.6))}, r"objects[1].boxes[3] has y0=nan; it must be a finite number"),
        ({"boxes": (10, 20, 60, 80)}, r"objects[1].boxes has x0=10.00, outside [0, 1]"),
        ({"boxes": [BOX] * 81}, "objects[1].boxes: 81 boxes given for 16 frames: pass keyframes or 16 boxes"),
        ({"boxes": [BOX, (0.9, 0, 0.1, 1)], "keyframes": [0, 15]}, "objects[1].boxes[1] (frame 15) has x1<=x0"),
        (
            {"boxes": [BOX, LATER], "keyframes": [9, 9]},
            "objects[1].keyframes[1] is 9 after 9; they must rise",
        ),
        ({"boxes": [BOX, LATER], "keyframes": [9, 4]}, "objects[1].keyframes[1] is 4 after 9"),
        ({"boxes": [BOX, LATER], "keyframes": [0, 16]}, "keyframes[1] is 16, but the clip has frames 0 to 15"),
        ({"boxes": [BOX, LATER], "keyframes": [-1, 5]}, "keyframes[0] is -1, but the clip has frames 0 to 15"),
        ({"boxes": [BOX, LATER], "keyframes": [0, 1.5]}, "keyframes[1] is 1.5; it must be a whole number"),
        ({"boxes": [BOX, LATER], "keyframes": [0, 1, 2]}, "keyframes has 3 frames for 2 boxes"),
        ({"boxes": BOX, "keyframes": [0]}, "keyframes are given, but boxes is one row"),
        ({"boxes": [BOX, LATER], "keyframes": 3}, "keyframes is 3; it must be a list"),
        ({"boxes": [BOX, (0, 1)]}, "boxes has rows of different lengths"),
        ({"boxes": [(0, 0, 1)] * 16}, "boxes has shape (16, 3)"),
        ({"boxes": []}, "boxes has shape (0,)"),
        ({"boxes": "0,0,1,1"}, "boxes holds something that is no number"),
        ({}, "objects[1].boxes and objects[1].points: neither given for 'ball'"),
        ({"boxes": BOX, "points": (0.5, 0.5), "size": (0.1, 0.1)}, "both given for 'ball'"),
        ({"boxes": BOX, "size": (0.1, 0.1)}, "objects[1].size belongs to points"),
        ({"points": (0.5, 0.5)}, "objects[1].points need a size"),
        ({"points": (0.5, 0.5), "size": (0.0, 0.1)}, "objects[1].size is 0.00 x 0.10; both must lie in (0, 1]"),
        ({"points": (0.5, 0.5), "size": (NAN, 0.1)}, "objects[1].size is nan x 0.10"),
        ({"points": [(0.5, 0.5)] * 16, "size": [(0.1, 0.1)] * 3}, "size has shape (3, 2)"),
        ({"points": [(0.5, 0.5), (NAN, 0.5)], "size": (0.1, 0.1), "keyframes": [0, 9]}, "points[1] has x=nan"),
        ({"points": (0.98, 0.5), "size": (0.1, 0.1)}, "points has x1=1.03, outside [0, 1]: the box around the point"),
        (
            {"points": [(0.5, 0.5)] * 4, "size": (0.1, 0.1)},
            "4 points given for 16 frames: pass keyframes or",
        ),
        ({"boxes": BOX, "phrase": " "}, "objects[1].phrase is ' '; name words of the prompt"),
        ({"boxes": BOX, "span": (4, 4)}, "objects[1].span is (4, 4)"),
        ({"boxes": BOX, "weight": 0}, "objects[1].weight is 0; a finite number above 0"),
        ({"boxes": BOX, "weight": NAN}, "objects[1].weight is nan"),
    ],
)
def test_bad_objects_are_refused_with_object_box_and_value(fields, words):
    bad = MotionObject(**{"phrase": "ball", **fields})
    with pytest.raises(ValueError) as error:
        object_boxes([MotionObject("cube", BOX), bad], 16)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("objects", "frames", "words"),
    [
        ([], 16, "objects is empty"),
        (MotionObject("cube", BOX), 16, "must be a list of MotionObject"),
        ([MotionObject("cube", BOX), {"phrase": "ball"}], 16, "objects[1] is a dict"),
        ([MotionObject("cube", BOX)], 0, "num_frames=0"),
        ([MotionObject("cube", BOX)], 16.0, "num_frames=16.0"),
    ],
)
def test_bad_lists_are_refused(objects, frames, words):
    with pytest.raises(ValueError, match=words.replace("[", r"\[")):
        object_boxes(objects, frames)


def test_latent_frames_average_the_frames_they_hold():
    ramp = torch.arange(9.0).view(1, 9, 1).expand(1, 9, 4)
    assert torch.equal(latent_boxes(ramp, 9, 1, False), ramp)
    assert torch.equal(latent_boxes(ramp, 9, 1, True), ramp)
    # Wan: latent 0 is frame 0, latent i is frames 4i-3 to 4i.
    assert latent_boxes(ramp, 3, 4, True)[0, :, 0].tolist() == [0.0, 2.5, 6.5]
    assert latent_boxes(ramp, 2, 8, True)[0, :, 0].tolist() == [0.0, 4.5]
    assert latent_boxes(ramp[:, :8], 2, 4, False)[0, :, 0].tolist() == [1.5, 5.5]
    assert latent_boxes(ramp[:, :1], 1, 4, True).shape == (1, 1, 4)


@pytest.mark.parametrize(
    ("frames", "latent", "stride", "first"), [(18, 5, 4, True), (16, 5, 4, True), (9, 2, 4, False)]
)
def test_frames_that_do_not_fit_the_stride_are_refused(frames, latent, stride, first):
    with pytest.raises(ValueError, match=f"for {frames} frames, but {latent} latent frames .* stride of {stride}"):
        latent_boxes(torch.rand(1, frames, 4), latent, stride, first)
