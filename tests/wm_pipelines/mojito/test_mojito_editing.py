"""Trajectories that are moved, sized, turned round, weighed, joined, and read from masks."""

import numpy as np
import pytest
import torch

from wm_pipelines.mojito.trajectories import MotionObject, trajectory_frames
from wm_pipelines.mojito.trajectories.editing import ABOUT, join, reverse, scale, shift, weigh
from wm_pipelines.mojito.trajectories.formats.canonical import read, write
from wm_pipelines.mojito.trajectories.formats.masks import read_masks


def cube(**more):
    return MotionObject("red cube", boxes=[(0, 0.25, 0.25, 0.5), (0.5, 0.25, 0.75, 0.5)], keyframes=[0, 4], **more)


def ball():
    rows = [(0.1 * k, 0.5, 0.1 * k + 0.2, 0.8) for k in range(6)]
    return MotionObject("blue ball", boxes=rows, weight=2.0, hidden=[0, 1])


def test_what_is_chosen_moves_and_the_rest_is_handed_back_as_it_is():
    first, second = cube(span=(2, 10)), ball()
    moved, same = shift([first, second], 0.25, -0.125, ["red cube"])
    assert same is second and moved.span == (2, 10)
    by = torch.tensor([0.25, -0.125, 0.25, -0.125])
    torch.testing.assert_close(moved.frame_boxes(5), first.frame_boxes(5) + by)
    both = shift([first, second], 0.0, 0.1)
    torch.testing.assert_close(both[1].frame_boxes(6), second.frame_boxes(6) + torch.tensor([0, 0.1, 0, 0.1]))
    assert both[1].hidden == [0, 1] and both[1].weight == 2.0
    assert read(write(both))[0].key_boxes()[0] == [0, 4]


def test_a_box_that_leaves_is_refused_or_cut_at_each_frame():
    with pytest.raises(ValueError, match=r'objects\[0\] \("red cube"\) leaves the picture at frame 4: its box is 0.9'):
        shift([cube()], 0.4, 0)
    (cut,) = shift([cube()], 0.4, 0, outside="clip")
    free = cube().frame_boxes(5) + torch.tensor([0.4, 0, 0.4, 0])
    torch.testing.assert_close(cut.frame_boxes(5), free.clip(0, 1))
    assert float(cut.frame_boxes(5)[2, 2] - cut.frame_boxes(5)[2, 0]) == pytest.approx(0.25)  # not yet at the border
    with pytest.raises(ValueError, match="lies outside the picture at frame 4"):
        shift([cube()], 0.6, 0, outside="clip")


def test_boxes_way_or_both_are_sized_about_what_is_named():
    item = cube()
    boxes = {about: scale([item], 0.5, 0.5, about)[0].frame_boxes(5) for about in ABOUT}
    middles = {about: (rows[:, :2] + rows[:, 2:]) / 2 for about, rows in boxes.items()}
    sizes = {about: rows[:, 2:] - rows[:, :2] for about, rows in boxes.items()}
    own = item.frame_boxes(5)
    torch.testing.assert_close(middles["box"], (own[:, :2] + own[:, 2:]) / 2)
    assert sizes["box"].flatten().tolist() == pytest.approx([0.125] * 10)
    assert sizes["path"].flatten().tolist() == pytest.approx([0.25] * 10)
    assert middles["path"][[0, -1]].tolist() == [pytest.approx([0.25, 0.375]), pytest.approx([0.5, 0.375])]
    assert sizes["picture"].flatten().tolist() == pytest.approx([0.125] * 10)
    assert middles["picture"][0].tolist() == pytest.approx([0.3125, 0.4375])


@pytest.mark.parametrize("held", [False, True])
def test_turned_round_twice_it_is_what_it_was(held):
    objects = [cube(), ball(), *([MotionObject("floor", boxes=(0, 0.5, 1, 1))] if held else [])]
    turned = reverse(objects)
    assert turned[0].key_boxes()[0] == [1, 5]  # in the clip of six frames that all were made for
    assert turned[1].hidden == [4, 5]
    for item, back in zip(objects, turned, strict=True):
        torch.testing.assert_close(back.frame_boxes(6), item.frame_boxes(6).flip(0))
    for item, back in zip(objects, reverse(turned), strict=True):
        torch.testing.assert_close(back.frame_boxes(6), item.frame_boxes(6))
    assert reverse(objects, ["blue ball"])[0] is objects[0]


def test_of_two_joined_each_goes_its_way_in_its_own_frames():
    first, second = [cube(), ball()], [MotionObject("red cube", boxes=(0.7, 0.7, 1, 1)), cube_named("green cone")]
    joined = join(first, second, pause=2)
    assert [item.phrase for item in joined] == ["red cube", "blue ball", "green cone"]
    assert trajectory_frames(joined) == 6 + 2 + 5
    red, blue, green = (item.frame_boxes(13) for item in joined)
    torch.testing.assert_close(red[:5], cube().frame_boxes(5))
    torch.testing.assert_close(red[5], red[4])  # waits until its trajectory ends
    torch.testing.assert_close(red[6], red[5] + (red[8] - red[5]) / 3)
    torch.testing.assert_close(red[8], torch.tensor([0.7, 0.7, 1, 1]))
    torch.testing.assert_close(blue[:6], ball().frame_boxes(6))
    torch.testing.assert_close(blue[12], blue[5])
    torch.testing.assert_close(green[8:], cube().frame_boxes(5))
    torch.testing.assert_close(green[0], green[8])
    assert joined[1].weight == 2.0 and joined[1].hidden == [0, 1]


def cube_named(phrase):
    rows = cube().frame_boxes(5)
    return MotionObject(phrase, boxes=rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: shift([cube()], float("nan"), 0), "x=nan; a finite number"),
        (lambda: shift([cube()], 0, 0, ["red cub"]), "phrases has 'red cub', .* did you mean 'red cube'"),
        (lambda: shift([cube()], 0, 0, outside="wrap"), "outside='wrap'; choose from error, clip"),
        (lambda: scale([cube()], 0, 1), "width=0; a factor above 0"),
        (lambda: scale([cube()], 1, 1, "middle"), "about='middle'; choose from box, path, picture"),
        (lambda: scale([cube()], 3, 3), "leaves the picture at frame 0"),
        (lambda: weigh([cube()], 0), "weight=0; a finite number above 0"),
        (lambda: join([cube()], [cube()], pause=-1), "pause=-1; a whole number of frames"),
        (lambda: join([cube(), cube()], [ball()]), "first has 'red cube' twice"),
        (lambda: join([cube()], []), "objects is empty"),
    ],
)
def test_what_can_not_be_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        change()


def test_weights_are_set_for_the_chosen():
    first, second = weigh([cube(), ball()], 0.5, ["blue ball"])
    assert (first.weight, second.weight) == (1.0, 0.5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bool, np.float64])
def test_masks_give_the_box_around_what_is_set(kind):
    masks = torch.zeros(5, 12, 20)
    masks[1, 3:6, 2:10] = 1
    masks[1, 8, 15] = 1  # a second piece: the box holds both
    masks[3, 0:12, 19] = 1
    given = masks.numpy().astype(kind) if kind is np.float64 else masks.to(kind)
    item = read_masks(given, "red cube")
    boxes = item.frame_boxes(5)
    assert boxes[1].tolist() == pytest.approx([2 / 20, 3 / 12, 16 / 20, 9 / 12])
    assert boxes[3].tolist() == pytest.approx([19 / 20, 0, 1, 1])
    torch.testing.assert_close(boxes[2], (boxes[1] + boxes[3]) / 2)
    torch.testing.assert_close(boxes[0], boxes[1])
    torch.testing.assert_close(boxes[4], boxes[3])
    assert item.hidden == [0, 2, 4]


def test_one_mask_holds_for_every_clip_and_soft_ones_have_a_threshold():
    soft = torch.linspace(0, 1, 10).expand(8, 10)
    assert read_masks(soft, "wall").frame_boxes(3)[2].tolist() == pytest.approx([0.5, 0, 1, 1])
    assert read_masks(soft, "wall", 0.0).frame_boxes(3)[2].tolist() == pytest.approx([0.1, 0, 1, 1])
    for bad, message in [
        (torch.zeros(3, 4, 4), "no pixel of 3 masks is above 0.5, so 'wall' is nowhere"),
        (torch.zeros(2, 3, 4, 4), r"masks has shape \(2, 3, 4, 4\)"),
        (torch.full((4, 4), 255.0), "masks runs from 255 to 255"),
        (torch.full((4, 4), float("nan")), "masks runs from nan to nan"),
        ([[1]], "masks has "),
    ]:
        with pytest.raises(ValueError, match=message):
            read_masks(bad, "wall")
    with pytest.raises(ValueError, match="threshold=1"):
        read_masks(soft, "wall", 1)
