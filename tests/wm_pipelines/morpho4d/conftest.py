"""Small scenes in time, and captures of the miniature world."""

import pytest
import torch

from wm_pipelines.diorama.cameras import ring_cameras
from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.scene import Scene, SceneObject
from wm_pipelines.morpho4d.capture import object_codes
from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians
from wm_pipelines.morpho4d.motion import BasisMotion, FourierMotion, FreeMotion, NodeMotion, PolynomialMotion
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.morpho4d.worlds import capture_scene

FRAMES, STILL, MOVING, NODES = 5, 12, 9, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def make_motion(kind, moving=MOVING, frames=FRAMES):
    if kind == "nodes":
        index = torch.randint(0, NODES, (moving, 3), generator=torch.Generator().manual_seed(3))
        weight = torch.softmax(draw(moving, 3), -1)
        rest = torch.randint(0, frames, (moving,), generator=torch.Generator().manual_seed(4)).float()
        return NodeMotion(draw(frames, NODES, 3), draw(frames, NODES, 4), index, weight, rest)
    if kind == "bases":
        return BasisMotion(draw(frames, 2, 3), draw(frames, 2, 6), torch.softmax(draw(moving, 2), -1))
    if kind == "polynomial":
        return PolynomialMotion(draw(moving, 3, 3), frames)
    if kind == "fourier":
        return FourierMotion(draw(moving, 2, 2, 3), frames)
    return FreeMotion(draw(frames, moving, 3))


def make_scene(kind="nodes", degree=0):
    """A grey floor, a red cube (object 1, five Gaussians) and a blue sphere (object 2, four), seen by two cameras."""
    count = STILL + MOVING
    ids = torch.tensor([0] * STILL + [1] * 5 + [2] * 4)
    codes = object_codes([0, 1, 2])
    gaussians = Gaussians(
        0.5 * draw(count, 3),
        torch.nn.functional.normalize(draw(count, 4), dim=-1),
        -2 + 0.2 * draw(count, 3),
        1 + draw(count),
        0.5 * draw(count, (degree + 1) ** 2, 3),
        codes[ids] + 0.02 * draw(count, codes.shape[1]),
        ids,
        torch.arange(count) >= STILL,
    )
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # looks along +y, z up
    pose[2, 3] = 4
    poses = pose.expand(2, FRAMES, 4, 4).clone()
    k = torch.tensor([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]).expand(2, 3, 3).clone()
    return Scene4D(
        *(gaussians, make_motion(kind), Cameras(k, poses, (16, 16)), FRAMES, 8.0, {1: "red cube", 2: "blue sphere"}),
        concepts=dict(enumerate(codes)),
    )


@pytest.fixture
def scene():
    return make_scene()


def make_world(frames=4):
    span = (frames - 1) / 8
    cube = SceneObject(
        *(1, "cube", "red", "small", "striped"),
        position=(-0.7, -0.2, 0.0),
        motion=(Motion("translate", 0, frames - 1, "right", 0.5 / span),),
    )
    ball = SceneObject(2, "sphere", "blue", "small", "striped", position=(0.6, 0.5, 0.0))
    return Scene((cube, ball), duration=frames, floor_pattern="chequered")


@pytest.fixture(scope="session")
def capture():
    """Three views of four frames, 32 x 32."""
    return capture_scene(make_world(), ring_cameras(3), size=32)
