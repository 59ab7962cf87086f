"""A trajectory over another number of frames: where it is when, and that a call takes it as its only source."""

import json

import numpy as np
import pytest
import torch

from wm_pipelines.mojito.trajectories import EASINGS, MotionObject, resample, trajectory_frames
from wm_pipelines.mojito.trajectories.resampling import to_clip


def path(count, phrase="red cube", **more):
    rng = np.random.default_rng(count)
    low = rng.uniform(0, 0.4, (count, 2))
    return MotionObject(phrase, boxes=np.concatenate([low, low + rng.uniform(0.1, 0.6, (count, 2))], axis=1), **more)


@pytest.mark.parametrize("easing", EASINGS)
@pytest.mark.parametrize(("made_for", "count"), [(16, 17), (16, 5), (5, 16), (2, 81), (81, 49), (7, 1)])
def test_the_way_is_the_same_and_goes_on_as_the_easing_says(made_for, count, easing):
    item = path(made_for)
    before, (new,) = item.frame_boxes(made_for), resample([item], count, easing)
    after = new.frame_boxes(count)
    assert torch.equal(after[0], before[0])
    if count > 1:
        torch.testing.assert_close(after[-1], before[-1])
    u = torch.linspace(0, 1, count, dtype=torch.float64)
    share = {"linear": u, "in": u * u, "out": 1 - (1 - u) ** 2, "in-out": u * u * (3 - 2 * u)}[easing]
    at = share * (made_for - 1)
    low = at.floor().long().clamp(max=made_for - 2)
    part = (at - low)[:, None].float()
    expected = before[low] * (1 - part) + before[low + 1] * part
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)


def test_what_stays_is_handed_back_as_it_is():
    held, moving = MotionObject("floor", boxes=(0, 0.5, 1, 1)), path(16, weight=2.0, span=(2, 10))
    assert resample([held, moving], 16) == [held, moving]
    new = resample([held, moving], 20)
    assert new[0] is held and (new[1].weight, new[1].span, new[1].phrase) == (2.0, (2, 10), "red cube")
    there_and_back = resample(resample([moving], 31), 16)[0]
    torch.testing.assert_close(there_and_back.frame_boxes(16), moving.frame_boxes(16), rtol=0, atol=1e-6)


def test_keyframes_are_read_on_the_clip_of_the_whole_trajectory():
    early = MotionObject("red cube", boxes=[(0, 0, 0.2, 1), (0.8, 0, 1, 1)], keyframes=(0, 10))
    late = MotionObject("blue sphere", boxes=[(0, 0, 0.2, 1), (0.8, 0, 1, 1)], keyframes=(10, 20))
    assert trajectory_frames([early, late]) == 21
    a, b = (item.frame_boxes(41) for item in resample([early, late], 41))
    torch.testing.assert_close(a[20], a[40])  # has arrived in the middle, and stays
    torch.testing.assert_close(b[20], b[0])  # sets out in the middle
    assert a[10, 0] == pytest.approx(0.4) and b[30, 0] == pytest.approx(0.4)


def test_points_and_hidden_frames_go_along():
    item = MotionObject("red cube", points=[(0.2 + 0.1 * k, 0.5) for k in range(5)], size=(0.2, 0.2), hidden=[4])
    (new,) = resample([item], 9)
    assert new.points is None and new.hidden == [8]  # frame 7 is half way, and so belongs to the one before
    torch.testing.assert_close(new.frame_boxes(9)[::2], item.frame_boxes(5), rtol=0, atol=1e-6)


def test_only_what_does_not_fit_a_clip_is_resampled_and_said():
    inside = MotionObject("red cube", boxes=[(0, 0, 0.2, 1), (0.8, 0, 1, 1)], keyframes=(0, 3))
    assert to_clip([inside], 17) == ([inside], [])
    (same, new), lines = to_clip([inside, path(16, "blue sphere")], 17)
    assert same is inside and len(new.boxes) == 17
    assert lines == ['objects[1] ("blue sphere") has a path of 16 frames, the clip has 17: it is resampled']
    beyond = MotionObject("floor", boxes=[(0, 0, 0.2, 1), (0.8, 0, 1, 1)], keyframes=(0, 31))
    found, lines = to_clip([inside, beyond], 16)
    assert len(lines) == 2 and found[0].frame_boxes(16)[2, 0] == pytest.approx(0.8)  # its arrival moved along


@pytest.mark.parametrize(
    ("items", "count", "easing", "message"),
    [
        ([path(4)], 8, "bounce", "easing='bounce'; choose from linear, in, out, in-out"),
        ([path(4)], 0, "linear", "num_frames=0"),
        ([], 8, "linear", "objects is empty"),
        (["red cube"], 8, "linear", r"objects\[0\] is a str"),
        ([path(3), MotionObject("x", boxes=[(0, 0, 1, 2)] * 2)], 8, "linear", r"objects\[1\].boxes\[0\] has y1=2.00"),
    ],
)
def test_bad_input_is_refused(items, count, easing, message):
    with pytest.raises(ValueError, match=message):
        resample(items, count, easing)


@pytest.mark.parametrize(("family", "made_for", "frames"), [("animatediff", 6, 6), ("wan", 6, 9), ("ltx", 9, 9)])
def test_a_call_takes_its_frames_from_the_trajectory(bases, family, made_for, frames):
    pipe, size = bases(family)
    more = {name: value for name, value in size.items() if name != "num_frames"}
    out = pipe(
        "a red cube", [path(made_for)], num_inference_steps=1, guidance_iterations=0, output_type="latent", **more
    )
    (plan,) = out.plan
    assert plan.boxes.shape == (1, frames, 4) and bool(out.report[0].warnings) == (made_for != frames)
    assert plan.latent_boxes.shape[1] == plan.grid.frames


def test_a_path_for_another_clip_is_resampled_and_the_report_says_so(bases):
    pipe, size = bases("animatediff")
    options = {"num_inference_steps": 2, "guidance_iterations": 1, "output_type": "latent", **size}
    item = path(3)
    out = pipe("a red cube", [item], generator=torch.Generator().manual_seed(0), **options)
    by_hand = pipe("a red cube", resample([item], 4), generator=torch.Generator().manual_seed(0), **options)
    assert torch.equal(out.frames, by_hand.frames)
    assert out.report[0].warnings[0].endswith("has a path of 3 frames, the clip has 4: it is resampled")


def test_the_command_line_takes_the_frames_of_a_file(bases, tmp_path, monkeypatch):
    from wm_pipelines.mojito import run as module
    from wm_pipelines.mojito.trajectories import save_trajectory

    pipe, _ = bases("animatediff")
    monkeypatch.setattr(module, "load", lambda model, base: pipe)
    save_trajectory([path(3)], tmp_path / "path.json")
    options = {"num_inference_steps": 1, "guidance_iterations": 0}
    report = module.run(
        "a red cube", trajectories=[tmp_path / "path.json"], out=tmp_path / "o", num_frames=0, **options
    )
    assert report["num_frames"] == 3 and json.loads((tmp_path / "o" / "report.json").read_text())["num_frames"] == 3
    with pytest.raises(ValueError, match="num_frames=0 takes the frames of objects that say how many"):
        module.run("a red cube", objects=["red cube=0,0,1,1"], out=tmp_path / "p", num_frames=0)
