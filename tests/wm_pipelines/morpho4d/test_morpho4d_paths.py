"""Paths of a camera: where they begin, what they keep, and what they refuse."""

import math

import pytest
import torch

from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians
from wm_pipelines.morpho4d.paths import PATHS, camera_path
from wm_pipelines.morpho4d.scene import Scene4D

FRAMES = 9


@pytest.fixture(params=["z", "-y"])
def scene(request):
    """Three Gaussians about (0, 3, 0) before a camera at the origin that slides to the right; or turned, y down."""
    means = torch.tensor([[-0.3, 3.0, 0], [0.3, 2.7, 0], [0, 3.3, 0]])
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    if request.param == "-y":
        means, turn = means @ turn.T, torch.eye(3)
    pose = torch.eye(4).repeat(1, FRAMES, 1, 1)
    pose[..., :3, :3] = turn
    pose[0, :, 0, 3] = -torch.linspace(0, 1, FRAMES)
    k = torch.tensor([[[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]])
    parts = [means, torch.eye(4)[:1].repeat(3, 1), torch.full((3, 3), -2.0), torch.zeros(3), torch.zeros(3, 1, 3)]
    ids = torch.zeros(3, dtype=torch.int64)
    gaussians = Gaussians(*parts, torch.zeros(3, 0), ids, ids > 0)
    return Scene4D(gaussians, None, Cameras(k, pose, (48, 64)), FRAMES, up=request.param)


def eyes(poses):
    return -(poses[:, :3, :3].mT @ poses[:, :3, 3:])[..., 0]


@pytest.mark.parametrize("kind", PATHS)
def test_every_path_begins_at_the_camera_and_stays_rigid(scene, kind):
    k, poses = camera_path(scene, kind)
    assert torch.equal(k, scene.cameras.K[0]) and poses.shape == (FRAMES, 4, 4)
    assert torch.allclose(poses[0], scene.cameras.T_cw[0, 0], atol=1e-6)
    turns = poses[:, :3, :3]
    assert torch.allclose(turns @ turns.mT, torch.eye(3).expand(FRAMES, 3, 3), atol=1e-5)
    assert torch.allclose(torch.det(turns), torch.ones(FRAMES), atol=1e-5)
    assert scene.render((k, poses)).frames.shape == (FRAMES, 3, 48, 64)


def test_own_and_hold(scene):
    assert torch.equal(camera_path(scene, "own")[1], scene.cameras.T_cw[0])
    assert torch.allclose(camera_path(scene, "hold")[1], scene.cameras.T_cw[0, :1].expand(FRAMES, 4, 4), atol=1e-6)


@pytest.mark.parametrize("degrees", [90.0, -40.0, 360.0])
def test_an_orbit_keeps_the_middle_in_the_middle(scene, degrees):
    _, poses = camera_path(scene, "orbit", degrees=degrees)
    middle = torch.cat([scene.gaussians.means.mean(0), torch.ones(1)])
    seen = poses @ middle
    assert torch.allclose(seen[:, :3], torch.tensor([0, 0, 3.0]).expand(FRAMES, 3), atol=1e-4)
    along = poses[0, 2, :3] @ poses[-1, 2, :3]
    assert math.isclose(float(along), math.cos(math.radians(degrees)), abs_tol=1e-5)
    if degrees == 90:  # counter-clockwise from above: from the front to the right
        assert eyes(poses)[-1] @ scene.cameras.T_cw[0, 0, 0, :3] > 2.9


def test_a_swing_goes_to_both_sides_and_back(scene):
    _, poses = camera_path(scene, "swing", degrees=60)
    across = eyes(poses) @ scene.cameras.T_cw[0, 0, 0, :3]
    assert across.max() == pytest.approx(3 * math.sin(math.radians(30)), abs=1e-3)
    assert across.min() == pytest.approx(-3 * math.sin(math.radians(30)), abs=1e-3)
    assert torch.allclose(poses[-1], poses[0], atol=1e-5)


@pytest.mark.parametrize(("approach", "left"), [(0.5, 1.5), (-1.0, 6.0), (0.0, 3.0)])
def test_a_dolly_goes_a_share_of_the_way(scene, approach, left):
    _, poses = camera_path(scene, "dolly", approach=approach)
    assert (scene.gaussians.means.mean(0) - eyes(poses)[-1]).norm() == pytest.approx(left, abs=1e-4)


def test_another_size_and_other_times(scene):
    k, poses = camera_path(scene, "orbit", times=[2, 4.5], size=(96, 32))
    assert torch.allclose(k, torch.tensor([[25.0, 0, 16], [0, 100, 48], [0, 0, 1]])) and len(poses) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "fly"}, "`kind` is 'fly'; allowed: own, hold"),
        ({"view": 1}, "`view` is 1; the scene has cameras 0 to 0"),
        ({"degrees": math.nan}, "`degrees` is nan"),
        ({"approach": 1.0}, "`approach` is 1.0; allowed: -10 to 0.95"),
        ({"times": []}, "`times` is empty"),
    ],
)
def test_bad_arguments(scene, change, message):
    with pytest.raises(ValueError, match=message):
        camera_path(scene, **change)
