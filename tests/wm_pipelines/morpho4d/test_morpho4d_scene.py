"""Scenes: rendered, saved and read back, and refused where files or parts are not what they say."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from wm_pipelines import Scene4D
from wm_pipelines.morpho4d.gaussians import SH_DC
from wm_pipelines.morpho4d.harmonics import colours
from wm_pipelines.morpho4d.motion import MOTIONS
from wm_pipelines.morpho4d.quaternions import multiply, rotate, unit

from .conftest import FRAMES, MOVING, STILL, draw, make_scene


def test_posed_gaussians_are_the_stored_ones_with_activations(scene):
    posed, g = scene.at(0.0), scene.gaussians
    assert len(posed) == len(scene) == STILL + MOVING
    assert torch.allclose(posed.scales, g.log_scales.exp())
    assert torch.allclose(posed.opacities, g.logit_opacities.sigmoid())
    assert torch.equal(posed.means[:STILL], g.means[:STILL]) and torch.equal(posed.object_id, g.object_id)
    assert torch.allclose(posed.rgb, (0.5 + SH_DC * g.sh[:, 0]).clamp(0, 1))
    assert not torch.allclose(scene.at(3.0).means[STILL:], posed.means[STILL:])


def test_a_picture_of_every_map(scene):
    shown = scene.render(1, [0.0, 1.5])
    assert shown.frames.shape == (2, 3, 16, 16) and 0 <= shown.frames.min() and shown.frames.max() <= 1
    assert shown.depth.shape == shown.alpha.shape == shown.object_ids.shape == (2, 16, 16)
    assert shown.features.shape == (2, 8, 16, 16)
    solid = shown.alpha >= 0.5
    assert solid.any() and shown.depth[solid].isfinite().all() and shown.depth[~solid].isinf().all()
    assert set(shown.object_ids.unique().tolist()) <= {0, 1, 2} and not shown.object_ids[~solid].any()
    assert scene.render(0, size=(8, 8)).frames.shape == (FRAMES, 3, 8, 8)


def test_one_gaussian_is_where_the_camera_says(scene):
    scene.gaussians = scene.gaussians[torch.tensor([0])]
    scene.gaussians.means[:] = torch.tensor([0.6, 1.0, 0.2])
    scene.gaussians.log_scales[:] = -4
    scene.gaussians.logit_opacities[:] = 8
    scene.gaussians.sh[:] = 0.5 / SH_DC
    scene.motion = None
    shown = scene.render(0, [0.0])
    row, column = divmod(int(shown.alpha[0].argmax()), 16)
    assert (column, row) == (10, 7)  # u = 8 + 20 * 0.6 / 5, v = 8 - 20 * 0.2 / 5
    assert abs(float(shown.depth[0, row, column]) - 5) < 0.01
    assert float(shown.frames[0, :, row, column].min()) > 0.6


def test_what_depends_on_the_view_turns_with_the_object():
    posed = make_scene(degree=3).at(0.0)
    turn = unit(draw(1, 4, seed=8))
    turned = posed.replace(means=rotate(turn, posed.means), quats=multiply(turn.expand_as(posed.quats), posed.quats))
    eye = torch.tensor([0.3, -4.0, 1.0])
    assert torch.allclose(colours(posed, eye), colours(turned, rotate(turn, eye)), atol=1e-4)
    assert not torch.allclose(colours(posed, eye), colours(posed, -eye), atol=1e-2)


@pytest.mark.parametrize("kind", MOTIONS)
def test_saved_and_read_back(kind, tmp_path):
    scene = make_scene(kind, degree=1)
    scene.save_pretrained(tmp_path / "scene")
    again = Scene4D.from_pretrained(tmp_path / "scene")
    assert again.names == scene.names and again.motion.kind == kind and again.cameras.size == (16, 16)
    for time in (0.0, 2.25):
        for name in ("means", "quats", "scales", "opacities", "sh", "features", "object_id"):
            assert torch.equal(getattr(scene.at(time), name), getattr(again.at(time), name)), name
    assert json.loads((tmp_path / "scene" / "config.json").read_text())["scene4d"] == 1
    assert (tmp_path / "scene" / "wm_config.json").is_file()


def test_a_file_that_was_changed_is_refused(scene, tmp_path):
    scene.save_pretrained(tmp_path)
    data = bytearray((tmp_path / "scene4d.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "scene4d.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="differs from its record"):
        Scene4D.from_pretrained(tmp_path)
    (tmp_path / "scene4d.safetensors").write_bytes(data[:-100])
    with pytest.raises(ValueError, match="truncated"):
        Scene4D.from_pretrained(tmp_path, verify=False)


@pytest.mark.parametrize(
    "name, change, complaint",
    [
        ("gaussians.means", lambda t: t * torch.nan, "`means` has 63 values that are not finite"),
        ("gaussians.means", lambda t: t[:-1], "`quats` is"),
        ("gaussians.sh", lambda t: t.repeat(1, 2, 1), "`sh` has 2 coefficients"),
        ("gaussians.quats", lambda t: t * 0, "`quats` has one that is zero"),
        ("gaussians.object_id", lambda t: t - 1, "`object_id` has -1"),
        ("gaussians.is_dynamic", lambda t: ~t, "`motion` is of 9 Gaussians"),
        ("motion.knn_index", lambda t: t + 99, "names nodes outside"),
        ("motion.node_xyz", lambda t: t[0], "must have three sides"),
        ("cameras.T_cw", lambda t: t * 2, "off orthogonal"),
        ("cameras.K", lambda t: -t, "focal length"),
        ("gaussians.means", lambda t: None, "lacks gaussians.means"),
        ("gaussians.other", lambda t: torch.zeros(1), "has gaussians.other"),
        ("other", lambda t: torch.zeros(1), "has the tensor 'other'"),
    ],
)
def test_tensors_that_do_not_fit_are_named(scene, tmp_path, name, change, complaint):
    scene.save_pretrained(tmp_path)
    path = tmp_path / "scene4d.safetensors"
    tensors = {n: t.clone() for n, t in load_file(path).items()}
    made = change(tensors.get(name))
    tensors |= {name: made} if made is not None else {}
    if made is None:
        del tensors[name]
    save_file({n: t.contiguous() for n, t in tensors.items()}, path)
    with pytest.raises(ValueError, match=complaint):
        Scene4D.from_pretrained(tmp_path, verify=False)


@pytest.mark.parametrize(
    "field, value, complaint",
    [
        ("scene4d", 2, "`scene4d` is 2; this package reads version 1"),
        ("frames", 0, "frames"),
        ("motion", "splines", "motion"),
        ("colour", 1, "unknown field 'colour'"),
        ("size", [16], "size"),
        ("size", [99999, 16], "`size` is"),
    ],
)
def test_a_config_that_is_none_is_named(scene, tmp_path, field, value, complaint):
    scene.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=complaint):
        Scene4D.from_pretrained(tmp_path, verify=False)


@pytest.mark.parametrize(
    "given, complaint",
    [
        ({"camera": 2}, "`camera` is 2; the scene has cameras 0 to 1"),
        ({"camera": "front"}, "`camera` is 'front'; 0 to 1 for one of the scene's, or"),
        ({"camera": [0, 0, 5]}, "`camera` is .0, 0, 5.; 0 to 1 for one of the scene's, or"),
        ({"camera": None}, "`camera` is None; 0 to 1 for one of the scene's, or"),
        ({"times": []}, "`times` is"),
        ({"times": [float("nan")]}, "`times` is"),
        ({"size": (0, 4)}, "`size` is"),
        ({"backend": "opengl"}, "`backend` is 'opengl'"),
        ({"backend": "gsplat"}, "gsplat"),
        ({"camera": (torch.eye(4), torch.eye(4))}, "`camera` is of K"),
    ],
)
def test_a_picture_that_can_not_be_is_refused(scene, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        scene.render(**given)
