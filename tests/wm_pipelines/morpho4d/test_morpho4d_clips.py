"""Clips of one fixed camera: depth from the floor against the true one, masks by the judge, and a sampled clip."""

import json

import pytest
import torch

from wm_pipelines import Morpho4DPipeline, Scene4D
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.scene import Camera, Scene, SceneObject
from wm_pipelines.hub import embedded
from wm_pipelines.hub.stock import load_model
from wm_pipelines.morpho4d.clips import (
    clip_capture,
    colour_masks,
    coloured_names,
    floor_depth,
    mojito_capture,
    scene_camera,
)
from wm_pipelines.morpho4d.run import run
from wm_pipelines.morpho4d.worlds import capture_scene, prompt_scene


@pytest.fixture(scope="module")
def judge():
    return load_model(DioramaJudge, embedded("diorama-judge")).eval()


def standing(x, y, shape="cube", frames=3):
    way = Motion("translate", 0, frames - 1, "right", 2.0)
    cube = SceneObject(1, shape, "red", "small", position=(x, y, 0.0), motion=(way,))
    return Scene((cube,), duration=frames)


@pytest.mark.parametrize("x, y", [(0.0, 0.0), (-0.8, 0.5), (0.6, -0.9)])
@pytest.mark.parametrize("shape", ["cube", "sphere", "cone"])
@pytest.mark.parametrize("size", [(64, 64), (48, 40)])
def test_depth_from_the_floor_is_near_the_true_one(x, y, shape, size):
    true = capture_scene(standing(x, y, shape), [Camera()], size=size)
    k, poses = scene_camera(3, size)
    assert torch.allclose(poses, true.cameras.T_cw[0]) and torch.allclose(k, true.cameras.K[0])
    for t in range(3):
        depth = floor_depth(true.masks[0, t], k, poses[t])
        off = (depth - true.depth[0, t]).abs()
        mine = true.masks[0, t] == 1
        assert off[~mine].max() < 0.35 and off[~mine].median() < 1e-3  # at the floor's edges a pixel shows both
        assert off[mine].mean() < 0.45 < 0.1 * float(depth[mine].mean())


def test_over_the_horizon_there_is_nothing():
    true = capture_scene(standing(0, 0), [Camera(target=(0.0, 0.0, 3.4))], size=32)
    depth = floor_depth(torch.zeros(32, 32, dtype=torch.long), true.cameras.K[0], true.cameras.T_cw[0, 0])
    assert torch.isinf(depth[:16]).all() and torch.isfinite(depth[20:]).all()
    below = true.cameras.T_cw[0, 0].clone()
    below[:3, 3] = below[:3, :3] @ torch.tensor([0.0, 5.6, 1.0])
    with pytest.raises(ValueError, match="stands at height -1"):
        floor_depth(torch.zeros(32, 32, dtype=torch.long), true.cameras.K[0], below)


def test_a_clip_of_one_camera_is_fitted_and_moves_as_it_does(judge):
    scene = prompt_scene("a red cube moving right", frames=4)
    true = capture_scene(scene, [Camera()])
    masks = colour_masks(judge, true.video[0], ["red"])
    assert ((masks == 1) == (true.masks[0] == 1)).float().mean() > 0.97
    capture = clip_capture(true.video[0], masks, true.cameras.K[0], true.cameras.T_cw[0], {1: "red cube"})
    out = Morpho4DPipeline(lambda prompt: capture)("a red cube", steps=60, static=200, dynamic=80, nodes=8)
    cube = out.scene.gaussians.object_id == 1
    step = out.scene.at(3).means[cube].mean(0) - out.scene.at(0).means[cube].mean(0)
    true_step = 0.9 * torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(step, true_step, atol=0.2)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("a cube moving right", "a colour of its own"),
        ("a red cube and a red sphere", "a colour of its own"),
        ("", "`prompt` is ''"),
        ("a red dog", "'dog' is not a word"),
    ],
)
def test_a_prompt_whose_objects_can_not_be_found_is_refused_before_any_work(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        mojito_capture(text, pipe=object(), judge=object())


def test_objects_are_named_by_colour_and_shape():
    assert coloured_names("a red cube moving right and a blue sphere") == {1: "red cube", 2: "blue sphere"}


def test_a_prompt_becomes_a_sampled_clip_and_a_scene(tmp_path):
    report = run(
        *("a red cube moving right", tmp_path / "out"),
        **{"frames": 4, "source": "mojito", "steps": 30, "static": 200, "dynamic": 80, "nodes": 8},
    )
    assert json.loads((tmp_path / "out" / "report.json").read_text())["met"] == report["met"]
    assert report["objects"] == {1: "red cube"} and 0 < report["met"]["seen"]["red cube"] <= 1
    assert report["met"]["psnr"] > 12
    scene = Scene4D.from_pretrained(tmp_path / "out" / "scene")
    assert scene.frames == 4 and len(scene.cameras) == 1
    assert (scene.cameras.T_cw[0] == scene.cameras.T_cw[0, :1]).all()
    with pytest.raises(ValueError, match="`source` is 'cosmos'"):
        run("a red cube", tmp_path / "b", source="cosmos")
    with pytest.raises(ValueError, match="are of the miniature world"):
        run("a red cube", tmp_path / "b", source="mojito", size=32)
