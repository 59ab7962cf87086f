"""The physics report of particles whose motion is known: strain, spin in free flight, balance at rest."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from wm_pipelines.morpho4d.capture import object_codes
from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians
from wm_pipelines.morpho4d.motion import FreeMotion
from wm_pipelines.morpho4d.physics.report import scene_physics
from wm_pipelines.morpho4d.scene import Scene4D

FRAMES, FPS, HALF = 12, 8.0, 0.3


def box(*sides):
    """Points (K, 3) of a box about its centre, as even as a grid."""
    axes = [np.linspace(-s, s, 5) for s in sides or (HALF,) * 3]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def scene_of(tracks):
    """A scene in time of one body, its points (T, K, 3)."""
    points = torch.tensor(np.asarray(tracks), dtype=torch.float32)
    count, codes = points.shape[1], object_codes([0, 1])
    one = torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4).clone()
    ids = torch.ones(count, dtype=torch.int64)
    colour, scale = torch.zeros(count, 1, 3), torch.full((count, 3), -3.0)
    gaussians = Gaussians(points[0], one, scale, torch.full((count,), 2.0), colour, codes[ids], ids, ids > 0)
    k, pose = torch.tensor([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]), torch.eye(4).expand(1, len(points), 4, 4).clone()
    cameras = Cameras(k[None], pose, (16, 16))
    motion = FreeMotion(points - points[0])
    return Scene4D(gaussians, motion, cameras, len(points), FPS, {1: "box"}, concepts=dict(enumerate(codes)))


def tumbling(points, spin, gravity=9.81):
    """What flies and turns by a steady spin (3,), rad/s, and does not come down; of a cube that needs no torque."""
    seconds = np.arange(FRAMES) / FPS
    places = np.stack([seconds, 0 * seconds, 1 + 8 * seconds - gravity / 2 * seconds**2], axis=1)
    return Rotation.from_rotvec(np.outer(seconds, spin)).as_matrix() @ points.T + places[..., None]


@pytest.mark.parametrize("spin", [(0, 0, 0), (3, 0, 0), (1, -2, 3.5), (0.2, 0.1, 0)])
def test_a_cube_in_flight_keeps_its_angular_momentum(spin):
    found = scene_physics(scene_of(tumbling(box(), spin).swapaxes(1, 2)))
    assert found.terms["spin"].score < 1e-3 and found.terms["strain"].score < 1e-4
    assert found.terms["rigidity"].score < 1e-4 and "balance" in found.unmeasured


@pytest.mark.parametrize("before, after", [((3, 0, 0), (0, 3, 0)), ((0, 0, 1), (0, 0, 4)), ((0, 0, 0), (2, 0, 0))])
def test_what_changes_its_spin_in_flight_is_told(before, after):
    first, then = tumbling(box(), before), tumbling(box(), after)
    turned = np.concatenate([first[:6], then[6:]])
    broken = scene_physics(scene_of(turned.swapaxes(1, 2)))
    assert broken.terms["spin"].score > 0.5 and broken.terms["strain"].score < 1e-4


def test_a_long_body_that_spins_about_a_slanted_axis_without_torque_is_told():
    found = scene_physics(scene_of(tumbling(box(0.1, 0.1, 0.4), (2.0, 0, 2.0)).swapaxes(1, 2)))
    assert found.terms["spin"].score > 0.1


@pytest.mark.parametrize("factor, least", [(1.0, 0.0), (1.1, 0.05), (1.5, 0.3)])
def test_strain_is_that_of_a_stretch(factor, least):
    points = box() + (0, 0, HALF)
    growth = np.linspace(1, factor, FRAMES)
    found = scene_physics(scene_of(np.stack([points * (g, 1, 1) for g in growth]))).terms["strain"]
    assert found.values[0, -1] == pytest.approx(factor - 1, abs=1e-4) and found.score >= least


@pytest.mark.parametrize("degrees, held", [(0, True), (20, False), (30, False), (90, True)])
def test_what_rests_on_an_edge_is_out_of_balance(degrees, held):
    turned = Rotation.from_euler("y", degrees, degrees=True).apply(box())
    turned -= (0, 0, turned[:, 2].min())
    found = scene_physics(scene_of(np.stack([turned] * FRAMES)))
    assert (found.terms["balance"].score < 0.02) == held and "spin" in found.unmeasured


def test_a_top_heavy_overhang_is_out_of_balance():
    foot, arm = box(0.1, 0.1, 0.2) + (0, 0, 0.2), box(0.4, 0.1, 0.1) + (0.5, 0, 0.5)
    found = scene_physics(scene_of(np.stack([np.concatenate([foot, arm])] * FRAMES)))
    assert found.terms["balance"].score > 0.3 and found.worst == "balance"
