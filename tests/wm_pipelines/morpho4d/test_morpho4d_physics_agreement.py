"""Agreement of a motion with a simulator: how long, of what, and why not."""

import sys

import numpy as np
import pytest

from wm_pipelines.diorama.scene import Scene, SceneObject
from wm_pipelines.diorama.simulation import Start, simulate
from wm_pipelines.morpho4d.physics.agreement import agreement
from wm_pipelines.morpho4d.physics.bodies import Bodies, directions
from wm_pipelines.morpho4d.physics.report import PhysicsReport, clip_physics, scene_physics
from wm_pipelines.morpho4d.physics.terms import contacts

from .test_morpho4d_physics import maps, report, sliding, solid
from .test_morpho4d_physics_particles import box, scene_of, tumbling

FRAMES = 15


def bodies_of(centres, radius=0.5, half=0.5):
    """Upright cylinders, or spheres where they are as high as wide, whose centres (N, T, 3) are known."""
    centres = np.asarray(centres, dtype=float)
    shape, up = centres.shape[:2], directions()[:, 2]
    reach = np.full((*shape, 64), radius)
    if half != radius:
        reach = np.broadcast_to(radius * (1 - up**2) ** 0.5 + half * up, reach.shape).copy()
    seen, none = np.ones(shape, dtype=bool), np.zeros(shape)
    ids = tuple(range(1, shape[0] + 1))
    radii, bottoms = np.full(shape, radius), centres[..., 2] - half
    return Bodies(ids, {}, 8.0, centres, radii, bottoms, reach, seen, seen, none, none)


def held(bodies, gravity=9.81):
    return agreement(bodies, contacts(bodies, gravity), gravity)


def simulated(shape, position, velocity, gravity=9.81, friction=0.5, restitution=0.3):
    scene = Scene((SceneObject(1, shape, "red", "small", position=position),), duration=FRAMES - 1)
    made = simulate(
        scene, {1: Start(velocity)}, gravity=gravity, friction=friction, restitution=restitution, frames=FRAMES - 1
    )
    return made.centres.swapaxes(0, 1)


@pytest.mark.parametrize("gravity", [2.0, 9.81])
@pytest.mark.parametrize("velocity", [(1, 0, 7), (-2, 1, 8), (0, 0, 5)])
def test_what_the_simulator_made_agrees_with_it(gravity, velocity):
    found = held(bodies_of(simulated("sphere", (0, 0, 0.1), velocity, gravity)), gravity)
    assert found.seconds == [found.whole] == [(FRAMES - 1 - FRAMES // 3) / 8]
    assert found.lost == 0 and np.nanmax(found.errors) < 0.25 and np.isnan(found.errors[0, : found.start]).all()


@pytest.mark.parametrize("friction", [0.1, 0.2])
def test_what_slides_agrees_by_the_friction_that_it_shows(friction):
    centres = simulated("cylinder", (-1.5, 0, 0), (2.5, 0, 0), friction=friction)
    found = held(bodies_of(centres, 0.38, 0.425))
    assert found.seconds == [found.whole]


@pytest.mark.parametrize("at", [7, 9, 12])
def test_agreement_ends_where_a_body_leaves_its_course(at):
    centres = simulated("sphere", (0, 0, 0.1), (1, 0, 7))
    centres[:, at:] += (0.4, 0, 0)
    found = held(bodies_of(centres))
    assert found.seconds == [(at - found.start) / 8] and 0 < found.lost < 1


def test_no_more_than_four_seconds_are_predicted():
    found = held(bodies_of([np.array([0, 0, 0.5]) + np.zeros((90, 3))]))
    assert found.whole == 4.0 == found.seconds[0] and np.isfinite(found.errors[0]).sum() == 33


def test_each_body_has_its_own_time():
    there = np.array([1.5, 0, 0.5]) + np.zeros((FRAMES, 3))
    away = np.array([-1.5, 0, 0.5]) + np.zeros((FRAMES, 3))
    away[9:, 2] += 1
    found = held(bodies_of([there, away]))
    assert found.seconds == [found.whole, (9 - found.start) / 8]


def test_a_clip_and_a_scene_are_held_against_a_simulator():
    still = [[solid(x), solid(1.2, 1.2, shape="cylinder", id=2)] for x in sliding()]
    found = report(still, simulator=True)
    assert isinstance(found, PhysicsReport) and found.agreement.seconds[1] == found.agreement.whole
    said = found.to_dict()
    assert said["agreement"]["from_frame"] == 4 and len(said["agreement"]["seconds"]) == 2
    assert any("a simulator agrees for" in line for line in found.lines())
    scene = scene_physics(scene_of(tumbling(box(), (1, 0, 0)).swapaxes(1, 2)), simulator=True)
    assert scene.agreement.lost == 0


def test_the_verdict_does_not_hang_on_the_simulator():
    clip = maps([[solid(-1.5 + 0.2 * t, z=0.0 if t < 8 else 0.6)] for t in range(12)])
    with_it, without = clip_physics(*clip, simulator=True), clip_physics(*clip)
    assert with_it.score == without.score and with_it.worst == without.worst
    assert "agreement" in with_it.terms and "not asked for" in without.unmeasured["agreement"]


def test_what_can_not_be_held_against_it_says_why(monkeypatch):
    short = report([[solid(x)] for x in sliding()[:8]], 32, simulator=True)
    assert "8 frames; 9 or more" in short.unmeasured["agreement"] and short.agreement is None
    strong = report([[solid(x)] for x in sliding()], 32, gravity=25.0, simulator=True)
    assert "beyond the simulator's 20" in strong.unmeasured["agreement"]
    fast = bodies_of([[(2.0 * t, 0, 3) for t in range(FRAMES)]])
    with pytest.raises(ValueError, match="16 m/s, beyond the simulator's 10"):
        held(fast, 1.0)
    nested = bodies_of(np.zeros((2, FRAMES, 3)) + (0, 0, 0.5))
    with pytest.raises(ValueError, match="in each other"):
        held(nested)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    missing = report([[solid(x)] for x in sliding()], 32, simulator=True)
    assert "wm-pipelines[physics]" in missing.unmeasured["agreement"]
