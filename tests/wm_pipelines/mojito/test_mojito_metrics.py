"""What is measured of renders whose truth is known: boxes, direction, persistence, speed, acceleration, flow."""

import pytest
import torch

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene, SceneObject
from wm_pipelines.hub import embedded
from wm_pipelines.media.boxes import box_iou
from wm_pipelines.mojito import metrics

FRAMES = 8


@pytest.fixture(scope="module")
def judge():
    return DioramaJudge.from_pretrained(embedded("diorama-judge"))


def clip(way, speed=0.9, colour="red"):
    motion = (Motion("translate", 0, FRAMES - 1, way, speed),) if way else ()
    solid = SceneObject(1, "cube", colour, motion=motion)
    return render(Scene((solid,), duration=FRAMES), range(FRAMES), maps=("rgb", "boxes", "flow", "ids"))


@pytest.mark.parametrize("way", metrics.WAYS)
def test_directions(judge, way):
    track = metrics.track_colour(judge, clip(way).rgb[0], "red")
    assert metrics.persistence(track) == 1 and metrics.direction(track) == way


def test_boxes_speed_and_flow(judge):
    truth = clip("right")
    track = metrics.track_colour(judge, truth.rgb[0], "red")
    assert box_iou(track.boxes, truth.boxes[0, :, 0]).mean() > 0.8
    assert metrics.centroid_error(track.centres, truth.boxes[0, :, 0]).max() < 0.03
    pixels = float((truth.boxes[0, -1, 0] - truth.boxes[0, 0, 0])[0] * 64 / (FRAMES - 1))
    assert metrics.speed(track, 64) == pytest.approx(pixels, abs=0.25)
    assert metrics.acceleration(track, 64) < 0.4
    assert metrics.object_flow(judge, truth.rgb[0], ["red"]) == pytest.approx(pixels, rel=0.35)
    detect = metrics.diorama_detector(judge)
    assert torch.equal(detect(truth.rgb[0], "a red cube"), track.boxes)


def test_what_stands_still_has_no_direction_and_what_is_gone_is_not_seen(judge):
    frames = clip(None).rgb[0]
    assert metrics.direction(metrics.track_colour(judge, frames, "red")) is None
    empty = render(Scene((), duration=FRAMES), (0.0,), maps=("rgb",)).rgb[0]
    frames = torch.cat([frames[:4], empty, empty])
    track = metrics.track_colour(judge, frames, "red")
    assert track.seen.tolist() == [True] * 4 + [False] * 2 and metrics.persistence(track) == pytest.approx(4 / 6)
    assert metrics.persistence(metrics.track_colour(judge, empty, "blue")) == 0


def test_iou_and_over_range():
    a = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0], [float("nan")] * 4])
    b = torch.tensor([[0.25, 0.0, 0.75, 0.5], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    iou = box_iou(a, b)
    assert iou[:2].tolist() == pytest.approx([1 / 3, 1.0]) and iou[2].isnan()
    assert metrics.over_range(torch.tensor([0.0, 1.2, -1.3, 1.1])) == 0.5


def test_unknown_colours_are_refused(judge):
    frames = torch.zeros(2, 3, 64, 64)
    with pytest.raises(ValueError, match="colour is 'pink'"):
        metrics.track_colour(judge, frames, "pink")
    with pytest.raises(ValueError, match="colour is 'pink'"):
        metrics.object_flow(judge, frames, ["pink"])
    for phrase in ("the cube", "red and blue cubes"):
        with pytest.raises(ValueError, match="colours; name one of"):
            metrics.diorama_detector(judge)(frames, phrase)
