"""What the previews show and the reports say."""

import numpy as np
import pytest
import torch

from wm_pipelines.media.drawing import colour_of
from wm_pipelines.mojito.outputs import MotionReport
from wm_pipelines.mojito.overlay import describe, draw_on_grid, draw_report

BOXES = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]])
BLACK = torch.zeros(3, 64, 64)


def test_cells_are_tinted_by_the_share_that_a_box_covers():
    half = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.25]]])
    full, part = (np.asarray(p) for p in draw_on_grid([BLACK, BLACK], half, ["cube"], (2, 2)))
    assert full.shape == (256, 256, 3)
    colour = np.array(colour_of(0))
    assert np.abs(full[100, 100] - colour * 0.5).max() <= 1  # the whole cell
    assert np.abs(part[100, 100] - colour * 0.25).max() <= 1  # half of it
    assert (full[200, 200] == 0).all()
    assert (full[200, 128] == 96).all() and (full[128, 200] == 96).all()  # the lines between cells


def test_large_pictures_keep_their_size():
    (drawn,) = draw_on_grid([torch.zeros(3, 300, 400)], BOXES[:, :1], ["cube"], (3, 4))
    assert drawn.size == (400, 300)


@pytest.mark.parametrize(
    ("frames", "labels", "grid", "words"),
    [
        ([BLACK], ["cube"], (2, 2), "for 1 labels and 1 frames"),
        ([BLACK] * 2, [], (2, 2), "for 0 labels"),
        ([BLACK] * 2, ["cube"], (0, 2), "rows and columns must be at least 1"),
    ],
)
def test_bad_previews_are_refused(frames, labels, grid, words):
    with pytest.raises(ValueError, match=words):
        draw_on_grid(frames, BOXES, labels, grid)


def report(**fields):
    return MotionReport(
        energy=[[0.7, 0.6], [0.5]],
        in_box=torch.tensor([[0.9, 0.25]]),
        boxes=BOXES,
        iterations=3,
        flow=torch.tensor([1.0, 2.0]),
        **fields,
    )


def test_each_frame_of_a_video_shows_the_box_of_its_latent_frame():
    drawn = [np.asarray(p) for p in draw_report([BLACK] * 5, report(), ["cube"])]
    outline = np.array(colour_of(0))
    first, last = (0, 60), (255, 200)  # on the upper edge of the first box, on the lower one of the second
    assert all((drawn[t][first] == outline).all() for t in (0, 1, 2))
    assert all((drawn[t][last] == outline).all() for t in (3, 4))
    assert (drawn[4][first] == 0).all()


def test_without_objects_frames_are_shown_as_they_are():
    (drawn,) = draw_report([BLACK], MotionReport(), [])
    assert not np.asarray(drawn).any() and describe(MotionReport(), []) == []


def test_reports_name_the_worst_frame_conflicts_and_energy():
    lines = describe(report(conflicts=["a against b"], warnings=["w"], iou=torch.tensor([[0.5, 0.7]])), ["cube"])
    assert lines == [
        "conflict: a against b",
        "warning: w",
        "cube: 57% of its attention in its box, least in latent frame 1 (25%)",
        "cube: box met with IoU 0.60",
        "energy a frame 0.70 to 0.50; 3 updates in 2 steps",
        "motion 1.50 px a frame, at most 2.00",
    ]
    assert describe(report(), ["cube"])[0] == "no conflict"
