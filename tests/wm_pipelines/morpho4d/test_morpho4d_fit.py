"""Captures, fits and the pipeline at tiny size: what is missing is named, motion is found, the same twice."""

import pytest
import torch
from typer.testing import CliRunner

from wm_pipelines import Morpho4DPipeline, Scene4D
from wm_pipelines.cli import app
from wm_pipelines.morpho4d.capture import Capture, lift
from wm_pipelines.morpho4d.fitting import FitSettings, Fitter, fit_scene
from wm_pipelines.morpho4d.quaternions import rotate
from wm_pipelines.morpho4d.run import edit, run
from wm_pipelines.morpho4d.seeding import (
    first_frames,
    moving_seeds,
    object_centres,
    static_seeds,
    surface_normals,
    turn_to,
)
from wm_pipelines.morpho4d.tracks import TRACKS
from wm_pipelines.morpho4d.worlds import prompt_scene
from wm_pipelines.runtime.random import keyed

SMALL = {"static": 150, "dynamic": 90, "nodes": 8}


@pytest.fixture(scope="module")
def fitted(capture):
    return fit_scene(capture, FitSettings(steps=90, **SMALL))


def test_lifted_depth_is_seen_where_it_came_from(capture):
    for view in range(3):
        k, pose = capture.cameras.K[view], capture.cameras.T_cw[view, 2]
        points = lift(capture.depth[view, 2], k, pose)
        q = points @ pose[:3, :3].T + pose[:3, 3]
        assert torch.allclose(q[..., 2], capture.depth[view, 2], atol=1e-4)
        p = q @ k.T
        u = (p[..., 0] / p[..., 2])[0]
        assert torch.allclose(u, torch.arange(32) + 0.5, atol=1e-3)


def test_what_moves_is_where_depth_says(capture):
    first = first_frames(capture)
    assert first == {1: 0, 2: 0}
    cube, ball = (object_centres(capture, i, 0) for i in (1, 2))
    assert torch.allclose(cube[3] - cube[0], torch.tensor([0.5, 0.0, 0.0]), atol=0.12)
    assert (ball[3] - ball[0]).norm() < 0.1


def test_a_fit_finds_the_motion_and_the_picture(capture, fitted):
    scene, report = fitted
    assert report.steps == 90 and len(scene) == sum(report.gaussians) and report.parameters > 1000
    assert report.losses[-1] < 0.7 * report.losses[0]
    shown = scene.render(0)
    assert -10 * (shown.frames - capture.video[0]).square().mean().log10() > 17
    assert (shown.object_ids == capture.masks[0]).float().mean() > 0.9
    cube = scene.gaussians.object_id == 1
    step = scene.at(3).means[cube].mean(0) - scene.at(0).means[cube].mean(0)
    assert torch.allclose(step, torch.tensor([0.5, 0.0, 0.0]), atol=0.15)


def test_an_edit_of_a_fit_is_close_to_the_true_counterfactual(capture, fitted):
    """The floor behind a removed object is what other views saw; nothing else changes."""
    scene, _ = fitted
    gone = scene.edit("remove the blue sphere").render(0)
    ball = capture.masks[0] == 2
    grown = torch.nn.functional.max_pool2d(ball.float(), 9, 1, 4) > 0
    plain = scene.render(0).frames
    assert (gone.frames - plain).abs().mean(1)[~grown].mean() < 0.005
    assert not (gone.object_ids == 2).any()
    blue = (gone.frames[:, 2] - gone.frames[:, 0]).clamp(min=0)[ball].mean()
    assert blue < 0.1


def test_the_same_fit_twice_and_another_seed(capture):
    first, again, other = (
        fit_scene(capture, FitSettings(steps=6, seed=seed, **SMALL))[0].gaussians.means for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("motion", TRACKS)
@pytest.mark.parametrize("grow", [True, False])
def test_every_motion_is_fitted_and_saved(capture, motion, grow, tmp_path):
    scene, _ = fit_scene(capture, FitSettings(steps=8, motion=motion, grow=grow, **SMALL))
    scene.save_pretrained(tmp_path)
    again = Scene4D.from_pretrained(tmp_path)
    assert again.motion.kind == motion and torch.equal(again.at(2.5).means, scene.at(2.5).means)
    assert all(t.isfinite().all() for t in scene.motion.tensors().values())


def test_a_scene_in_which_nothing_moves_and_odd_sizes(capture):
    empty = Capture(
        capture.video[:, :2, :, :30, :19].contiguous(),
        type(capture.cameras)(capture.cameras.K, capture.cameras.T_cw[:, :2], (30, 19)),
        capture.depth[:, :2, :30, :19],
        torch.zeros_like(capture.masks[:, :2, :30, :19]),
    )
    scene, report = fit_scene(empty, FitSettings(steps=5, static=60))
    assert scene.motion is None and report.gaussians == (60, 0)
    assert scene.render(0).frames.shape == (2, 3, 30, 19)


def test_an_object_that_comes_later(capture):
    masks = capture.masks.clone()
    masks[:, :2][masks[:, :2] == 2] = 0
    late = Capture(capture.video, capture.cameras, capture.depth, masks, capture.names)
    fitter = Fitter(late, FitSettings(steps=4, **SMALL))
    assert fitter.first == {1: 0, 2: 2}
    scene, _ = fitter.run()
    assert set(scene.motion.ref_time.tolist()) == {0.0, 2.0}


def test_seeds_lie_flat_on_the_surfaces_and_where_the_picture_changes(capture):
    still = static_seeds(capture, 400, keyed("test", 0))
    up = rotate(still.quats, torch.tensor([0.0, 0.0, 1.0]).expand(len(still.quats), 3))
    assert float(up[:, 2].median()) > 0.999 and float(still.points[:, 2].abs().max()) < 0.05
    ball = moving_seeds(capture, {2: 0}, 120, keyed("test", 1))
    out = torch.nn.functional.normalize(ball.points - ball.points.mean(0), dim=-1)
    assert float((rotate(ball.quats, torch.tensor([0.0, 0.0, 1.0]).expand(len(out), 3)) * out).sum(-1).median()) > 0.8
    eye = torch.tensor([0.0, 0.0, 5.0])
    one_row = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    assert surface_normals(one_row, eye).isfinite().all()
    grid = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="xy")
    flat = torch.stack([*grid, torch.zeros(5, 4)], dim=-1)
    flat[2, 2] = torch.inf
    known = flat.isfinite().all(-1)
    assert torch.allclose(surface_normals(flat, eye)[known][:, 2].abs().sort().values[3:], torch.ones(16), atol=1e-5)
    assert surface_normals(flat, eye)[known].isfinite().all()


@pytest.mark.parametrize("normal", [(0, 0, 1.0), (0, 0, -1.0), (1.0, 0, 0), (0.6, -0.48, 0.64), (0.0, 0.6, -0.8)])
def test_a_turn_brings_the_third_axis_to_a_normal(normal):
    wanted = torch.tensor([normal])
    assert torch.allclose(rotate(turn_to(wanted), torch.tensor([[0.0, 0.0, 1.0]])), wanted, atol=1e-5)


def test_tiles_that_are_met_badly_are_looked_at_more_often(capture):
    fitter = Fitter(capture, FitSettings(steps=4, **SMALL))
    fitter.errors[:, 3] = 100.0
    before = fitter.errors.clone()
    for _ in range(4):
        fitter.seen = 4
        fitter.step(0, 0.9)
    assert bool((fitter.errors[:, 3] < before[:, 3]).any())
    assert int((fitter.errors != before)[:, 3].sum()) == int((fitter.errors != before).any(1).sum())


def without(capture, **changes):
    names = ("video", "cameras", "depth", "masks", "names", "fps", "features")
    return Capture(**{name: getattr(capture, name) for name in names} | changes)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        (lambda c: {"cameras": None}, "^cameras missing: monocular video without cameras needs a pose solver; pass "),
        (lambda c: {"depth": None}, "`depth` is missing"),
        (lambda c: {"masks": None}, "`masks` is missing"),
        (lambda c: {"depth": c.depth.index_fill(1, torch.tensor([2]), -1)}, "^depth has 100% non-positive values in"),
        (lambda c: {"depth": torch.where(c.masks == 1, torch.nan, c.depth)}, "non-positive values in view 0 frame 0"),
        (lambda c: {"depth": torch.full_like(c.depth, torch.inf)}, "`depth` is infinite everywhere"),
        (lambda c: {"masks": c.masks - 1}, "`masks` has -1"),
        (lambda c: {"masks": c.masks.float()}, "`masks` is"),
        (lambda c: {"video": c.video * 2}, "`video` must be floats in"),
        (lambda c: {"video": c.video[0]}, "`video` is"),
        (lambda c: {"video": c.video[:2]}, "`cameras` are 3"),
        (lambda c: {"features": torch.zeros(3, 4, 5, 8, 8)}, "`features` is"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(capture, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        fit_scene(without(capture, **changes(capture)))


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"steps": 0}, "`steps` is 0"),
        ({"seconds": -1}, "`seconds` is -1"),
        ({"motion": "spline"}, "`motion` is 'spline'"),
        ({"share": 0}, "`share` is 0"),
        ({"dynamic": 1.5}, "`dynamic` is 1.5"),
        ({"rigid": -1}, "`rigid` is -1"),
    ],
)
def test_bad_settings_are_named(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        FitSettings(**settings)


# --- the pipeline and the command line -------------------------------------------------------------------------------


def test_the_pipeline_takes_what_the_user_has(capture):
    pipe = Morpho4DPipeline()
    pipe.set_progress_bar_config(disable=True)
    seen = []
    out = pipe(
        video=capture.video[0],
        cameras=(capture.cameras.K[0], capture.cameras.T_cw[0]),
        depth=capture.depth[0],
        masks=capture.masks[0],
        names=capture.names,
        on_step=seen.append,
        steps=5,
        **SMALL,
    )
    assert out.frames.shape == (4, 3, 32, 32) and out.scene.names[1] == "red cube" and len(seen) == 5
    assert out.report.steps == 5 and out.features.shape == (4, 8, 32, 32)
    plain = pipe(video=capture.video, cameras=capture.cameras, depth=capture.depth, masks=capture.masks, steps=2,
                 return_dict=False, **SMALL)  # fmt: skip
    assert len(plain) == 7


@pytest.mark.parametrize(
    "given, complaint",
    [
        ({}, "give `prompt`, or `video`"),
        ({"prompt": "a red cube"}, "`prompt` needs a source of video"),
        ({"prompt": " "}, "`prompt` is ' '"),
        ({"prompt": "a red cube", "depth": torch.ones(1)}, "`depth` goes with `video`"),
        ({"video": torch.zeros(2, 3, 8, 8)}, "^cameras missing"),
    ],
)
def test_the_pipeline_refuses_before_any_work(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        Morpho4DPipeline()(**given)


def test_a_prompt_is_a_scene_of_the_world():
    scene = prompt_scene("a red box slides right and a ball bounces")
    assert [(o.colour, o.shape, o.motion[0].kind) for o in scene.objects] == [
        ("red", "cube", "translate"),
        ("blue", "sphere", "bounce"),
    ]
    left = prompt_scene("a green cone to the right of a yellow can")
    assert left.objects[0].position[0] > left.objects[1].position[0]
    with pytest.raises(ValueError, match="'dog' is not a word"):
        prompt_scene("a red dog runs")


def test_run_and_edit_write_whole_folders(tmp_path):
    report = run("a red cube slides right", out=tmp_path / "a", size=16, frames=4, steps=3, static=40, dynamic=30)
    assert report["objects"] == {1: "red cube"} and report["fit"]["steps"] == 3
    files = {"scene", "video.mp4", "video.gif", "frames.png", "report.json"}
    assert {p.name for p in (tmp_path / "a").iterdir()} == files
    done = CliRunner().invoke(
        app, ["edit", str(tmp_path / "a" / "scene"), "paint the cube green", "--out", str(tmp_path / "b")]
    )
    assert done.exit_code == 0 and "recolor" in done.output
    assert Scene4D.from_pretrained(tmp_path / "b" / "scene").edits[0]["said"] == "paint the cube green"
    with pytest.raises(ValueError, match="no rule reads"):
        edit(tmp_path / "a" / "scene", "dance", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_time_stands_in_place_of_steps(tmp_path):
    with pytest.raises(ValueError, match="`seconds` stands in place of `steps`"):
        run("a red cube slides right", out=tmp_path / "out", steps=3, seconds=1.0)
    assert not (tmp_path / "out").exists()
