import hashlib
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from wm_pipelines.diorama.bodies import DENSITY, above_base, bouncing, inertia, lowest, mass
from wm_pipelines.diorama.physics import Start, simulate
from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.rotations import leaning, yaw_and_tilt
from wm_pipelines.diorama.scene import SHAPES, SIZES, Scene, SceneObject
from wm_pipelines.runtime.random import keyed

LYING = (math.cos(math.pi / 4), math.sin(math.pi / 4), 0.0, 0.0)
G = 9.81


def solid(shape: str, position=(0.0, 0.0, 0.0), size: str = "small", id: int = 1, **fields) -> SceneObject:
    return SceneObject(id, shape, "red", size, position=tuple(position), **fields)


def raised(o: SceneObject, height: float) -> SceneObject:
    """The same with its lowest point at `height`."""
    x, y, z = o.position
    return replace(o, position=(x, y, z - lowest(o) + height))


def any_solid(rng: np.random.Generator, shape: str, height: float) -> SceneObject:
    q = rng.normal(size=4)
    yaw, tilt = yaw_and_tilt(tuple((q / np.linalg.norm(q)).tolist()))
    return raised(solid(shape, size=str(rng.choice(list(SIZES))), yaw=yaw, tilt=tilt), height)


def total(found) -> np.ndarray:
    return (found.kinetic + found.potential).sum(1)


# --- masses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_mass_centre_inertia_and_lowest_point_are_those_of_the_solid(shape, size):
    """Against sums over a fine grid of points inside."""
    o = solid(shape, size=size)
    n = 90
    half, height = o.half_width, o.height
    x, y, z = np.meshgrid(*(np.linspace(-half, half, n),) * 2, np.linspace(0, height, n), indexing="ij")
    radial = np.hypot(x, y)
    inside = {
        "sphere": np.sqrt(radial**2 + (z - half) ** 2) <= half,
        "cube": np.ones_like(x, bool),
        "cylinder": radial <= half,
        "cone": radial <= half * (1 - z / height),
    }[shape]
    points = np.stack([x, y, z], -1)[inside]
    assert mass(o) == pytest.approx(DENSITY * inside.mean() * (2 * half) ** 2 * height, rel=0.04)
    assert points.mean(0) == pytest.approx([0, 0, above_base(o)], abs=0.01 * height)
    squares = ((points - (0, 0, above_base(o))) ** 2).mean(0)
    expected = mass(o) * np.array([squares[1] + squares[2], squares[0] + squares[2], squares[0] + squares[1]])
    assert inertia(o) == pytest.approx(expected, rel=0.05)
    rng = keyed("lowest", shape, size)
    for _ in range(5):
        tilted = any_solid(rng, shape, 0.3)
        turn = Rotation.from_quat(np.array(tilted.quaternion)[[1, 2, 3, 0]])
        heights = turn.apply(points * (tilted.radius / o.radius))[:, 2] + tilted.position[2]
        assert 0.3 == pytest.approx(heights.min(), abs=0.03) and lowest(tilted) <= heights.min() + 1e-9


def test_a_cones_centre_of_mass_flies_where_a_point_would():
    rng = keyed("cone")
    o = any_solid(rng, "cone", 0.2)
    found = simulate(Scene((o,)), {1: Start((0.5, 0.3, 3.0), (3.0, -2.0, 4.0))}, frames=4)
    first = found.centres[0, 0]
    assert math.dist(first, o.position) == pytest.approx(o.height / 4)
    t = found.times[:, None] / 8
    path = first + np.array((0.5, 0.3, 3.0)) * t - np.array((0, 0, G / 2)) * t * t
    np.testing.assert_allclose(found.centres[:, 0], path, atol=1e-9)
    # its base, which the scene speaks of, goes around that point
    bases = np.array(found.scene.objects[0].motion[0].positions)
    np.testing.assert_allclose(np.linalg.norm(bases - path, axis=1), o.height / 4, atol=1e-9)


# --- flight, friction, damping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_throw_is_a_parabola_and_its_spin_goes_on(shape):
    rng = keyed("throw", shape)
    for gravity, fps in ((9.81, 8.0), (1.6, 12.0), (-1.5, 5.0)):
        o = any_solid(rng, shape, rng.uniform(0.8, 1.5))
        start = Start((*rng.uniform(-2, 2, 2), rng.uniform(1, 4)), tuple(rng.uniform(-5, 5, 3)))
        found = simulate(Scene((o,), fps=fps), {1: start}, gravity=gravity, frames=4)
        assert found.contacts == ()
        t = found.times[:, None] / fps
        v, down = np.array(start.velocity), np.array((0, 0, gravity))
        assert np.abs(found.centres[:, 0] - (found.centres[0, 0] + v * t - down * t * t / 2)).max() < 1e-3
        assert np.abs(found.velocities[:, 0] - (v - down * t)).max() < 1e-6
        assert np.abs(found.spins[0, 0] - start.spin).max() < 1e-9
        spin = found.angular_momentum[:, 0]
        assert np.linalg.norm(spin - spin[0], axis=1).max() < 3e-3 * np.linalg.norm(spin[0])
        assert np.abs(total(found) / total(found)[0] - 1).max() < 2e-3


def test_free_fall_takes_the_time_it_should():
    rng = keyed("fall")
    for shape in SHAPES:
        height, gravity = rng.uniform(0.4, 2.5), rng.uniform(2, 15)
        found = simulate(Scene((any_solid(rng, shape, height),)), gravity=gravity, frames=12)
        assert found.contacts[0].time / 8 == pytest.approx(math.sqrt(2 * height / gravity), abs=1e-3)
        assert (found.contacts[0].first, found.contacts[0].second) == (1, 0)
        assert found.contacts[0].normal == pytest.approx((0, 0, 1), abs=1e-3)


@pytest.mark.parametrize("shape", ["cube", "cylinder", "cone"])
@pytest.mark.parametrize("restitution", [0.0, 0.8])
def test_what_slides_stops_after_v2_over_2_mu_g(shape, restitution):
    rng = keyed("slide", shape)
    for size in SIZES:
        friction, seconds, angle = rng.uniform(0.15, 0.5), rng.uniform(0.4, 0.8), rng.uniform(0, 6)
        speed = friction * G * seconds  # it stops after so long
        way = np.array([math.cos(angle), math.sin(angle), 0])
        o = solid(shape, size=size, yaw=angle)
        found = simulate(
            Scene((o,)), {1: Start(tuple(way * speed))}, friction=friction, restitution=restitution, frames=8
        )
        far = speed**2 / (2 * friction * G)
        np.testing.assert_allclose(found.centres[-1, 0] - found.centres[0, 0], way * far, atol=0.005 * far)
        t = 2 / 8  # on the way it is as slow as it should be
        assert found.velocities[2, 0] @ way == pytest.approx(speed - friction * G * t, abs=0.005 * speed)
        assert np.ptp(found.centres[:, 0, 2]) < 3e-3 and np.abs(found.velocities[-1]).max() < 1e-3
        assert len(found.contacts) == 1 and found.contacts[0].time < 0.1


def test_without_friction_it_slides_on_and_a_ball_that_rolls_rolls_on():
    found = simulate(Scene((solid("cube"),)), {1: Start((1.5, 0, 0))}, friction=0.0, frames=8)
    assert found.centres[-1, 0, 0] == pytest.approx(1.5, abs=1e-3)
    ball = solid("sphere")
    rolling = simulate(Scene((ball,)), {1: Start((1, 0, 0), (0, 1 / ball.radius, 0))}, frames=8)
    assert rolling.velocities[-1, 0] == pytest.approx((1, 0, 0), abs=1e-3)
    # one that slides at first ends at 5/7 of its speed, rolling
    slides = simulate(Scene((ball,)), {1: Start((2, 0, 0))}, friction=0.4, frames=8)
    assert slides.velocities[-1, 0, 0] == pytest.approx(10 / 7, abs=5e-3)
    assert slides.spins[-1, 0, 1] * ball.radius == pytest.approx(slides.velocities[-1, 0, 0], abs=5e-3)


@pytest.mark.parametrize("damping", [0.3, 2.0, 20.0, 100.0])
def test_damping_is_an_exponential_decay_of_speed_and_spin(damping):
    o = solid("cylinder", (0, 0, 1.0))
    found = simulate(Scene((o,)), {1: Start((2, 1, 0), (0, 0, 4))}, gravity=0.0, damping=damping, frames=8)
    decay = np.exp(-damping * found.times / 8)
    assert found.velocities[:, 0, 0] / 2 == pytest.approx(decay, abs=1e-3)
    assert found.spins[:, 0, 2] / 4 == pytest.approx(decay, abs=1e-3)


def test_overdamped_things_have_no_inertia_to_speak_of():
    found = simulate(Scene((solid("sphere", (0, 0, 1.0)),)), {1: Start((3, 0, 0))}, damping=20.0, frames=8)
    assert found.centres[-1, 0, 0] == pytest.approx(3 / 20, abs=1e-2)
    assert found.velocities[4, 0, 2] == pytest.approx(-G / 20, rel=0.01)  # it sinks at an even speed


# --- collisions -----------------------------------------------------------------------------------------------------


def head_on(restitution: float, fast: float, slow: float, sizes=("small", "small"), gap: float = 0.3):
    left, right = (SIZES[s] for s in sizes)
    a = solid("sphere", (-left - gap, 0, 1.5 - left), sizes[0])
    b = solid("sphere", (right, 0, 1.5 - right), sizes[1], id=2)
    frames = math.ceil(8 * gap / (fast - slow)) + 1
    starts = {1: Start((fast, 0, 0)), 2: Start((slow, 0, 0))}
    return simulate(Scene((a, b)), starts, gravity=0.0, restitution=restitution, frames=frames)


def test_equal_spheres_exchange_velocities_when_all_is_given_back():
    rng = keyed("exchange")
    for _ in range(4):
        fast, slow = rng.uniform(1, 4), rng.uniform(-3, 0.5)
        after = head_on(1.0, fast, slow).velocities[-1, :, 0]
        assert after == pytest.approx([slow, fast], abs=0.02 * (fast - slow))


@pytest.mark.parametrize("restitution", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_bodies_part_with_the_share_asked_for_and_keep_their_momentum(restitution):
    rng = keyed("restitution", restitution)
    for _ in range(4):
        fast, slow, sizes = rng.uniform(0.5, 4), rng.uniform(-4, 0), rng.choice(list(SIZES), 2)
        found = head_on(restitution, fast, slow, sizes, rng.uniform(0.1, 0.5))
        v = found.velocities[-1, :, 0]
        assert (v[1] - v[0]) / (fast - slow) == pytest.approx(restitution, abs=0.035)
        p = found.momentum.sum(1)
        assert np.abs(p - p[0]).max() < 1e-6 * np.abs(found.momentum[0]).sum()
        (c,) = found.contacts
        assert (c.first, c.second) == (1, 2) and c.normal == pytest.approx((-1, 0, 0), abs=1e-6)
        # the impulse is what the momentum of the first changed by, and it touched where they met
        assert c.impulse == pytest.approx(tuple(found.momentum[-1, 0] - found.momentum[0, 0]), rel=1e-6)
        assert c.penetration < 0.02 * 0.5 and abs(c.point[2] - 1.5) < 1e-6
        shared = ((found.momentum[0].sum(0) / found.masses.sum()) ** 2).sum() * found.masses.sum() / 2
        lost = found.kinetic[0].sum() - shared
        assert found.kinetic[-1].sum() - shared == pytest.approx(restitution**2 * lost, abs=0.06 * lost)


def test_the_spring_of_a_touch_gives_back_what_the_formula_says():
    """A mass on a spring and a damper, integrated until the force would pull."""
    for restitution in (0.02, 0.2, 0.6, 0.95):
        touch = bouncing(restitution)
        r, v, dt = 0.0, -1.0, 1e-6
        while True:
            force = -(touch.rate**2) * r - 2 * touch.ratio * touch.rate * v
            if force < 0:
                break
            v += dt * force
            r += dt * v
        assert v == pytest.approx(restitution, abs=2e-3)


def test_a_ball_that_bounces_obliquely_takes_up_spin():
    """Coulomb: friction gives at most mu times the normal impulse, and stops slip at 2/7 of the speed along."""
    for friction, along, restitution in ((0.5, 2.0, 0.3), (0.5, 3.0, 0.8), (0.1, 2.0, 0.5), (0.05, 3.0, 0.5)):
        ball = solid("sphere", (0, 0, 1.0))
        found = simulate(
            Scene((ball,)), {1: Start((along, 0, 0))}, friction=friction, restitution=restitution, frames=5
        )
        down = math.sqrt(2 * G * 1.0)
        expected = min(friction * (1 + restitution) * down, 2 / 7 * along)
        assert along - found.velocities[-1, 0, 0] == pytest.approx(expected, rel=0.03)
        assert found.spins[-1, 0, 1] == pytest.approx(expected / (0.4 * ball.radius), rel=0.03)


def test_impulses_and_weight_are_all_that_changes_momentum():
    for seed in range(2):
        objects = tuple(solid(SHAPES[(seed + n) % 4], (1.3 * n - 1.3, 0, 0.4), id=n + 1) for n in range(3))
        starts = {1: Start((3, 0.2, 1)), 3: Start((-2, 0, 2), (1, 2, 3))}
        found = simulate(Scene(objects), starts, frames=8)
        assert any(c.second for c in found.contacts)
        got = {o.id: np.zeros(3) for o in objects}
        for c in found.contacts:
            got[c.first] += c.impulse
            if c.second:
                got[c.second] -= c.impulse
        for n, o in enumerate(objects):
            weight = np.array((0, 0, -found.masses[n] * G * 8 / 8))
            change = found.momentum[-1, n] - found.momentum[0, n]
            assert np.abs(got[o.id] + weight - change).max() < 0.02 * np.abs(weight).max()
        assert [c.time for c in found.contacts] == sorted(c.time for c in found.contacts)
        assert all(0 <= c.time < c.until <= 8 for c in found.contacts)


@pytest.mark.parametrize("shape", SHAPES)
def test_energy_never_grows_and_no_solid_sinks_in(shape):
    rng = keyed("energy", shape)
    for restitution in (0.0, 0.3, 0.8, 1.0):
        o = any_solid(rng, shape, rng.uniform(0.3, 1.5))
        start = Start((*rng.uniform(-2, 2, 2), rng.uniform(-3, 2)), tuple(rng.uniform(-6, 6, 3)))
        found = simulate(Scene((o,)), {1: start}, restitution=restitution, friction=rng.uniform(0, 0.8), frames=10)
        energy = total(found)
        assert (energy[1:] <= np.maximum.accumulate(energy)[:-1] + 1e-3 * energy[0]).all()
        assert max(c.penetration for c in found.contacts) < 0.02 * o.radius
        assert restitution == 1 or energy[-1] < 0.95 * energy[0]


# --- rest and balance -----------------------------------------------------------------------------------------------


STACKS = [
    ("sphere",),
    ("cube", "cube", "cube"),
    ("cube", "cylinder", "cone"),
    ("cylinder", "cylinder", "cube"),
    ("cylinder", "cylinder", "cylinder"),
    ("cylinder", "cube", "sphere"),
]


@pytest.mark.parametrize("shapes", STACKS)
def test_what_stands_stays(shapes):
    for restitution in (0.0, 1.0):
        objects, z = [], 0.0
        for n, shape in enumerate(shapes):
            objects.append(solid(shape, (0, 0, z), id=n + 1, yaw=0.2 * n))
            z += objects[-1].height
        found = simulate(Scene(tuple(objects)), restitution=restitution, frames=3)
        assert np.abs(found.centres - found.centres[0]).max() < 1e-4
        assert np.abs(found.quaternions - found.quaternions[0]).max() < 1e-4
        assert len(found.contacts) == len(shapes) and all(c.time < 0.1 for c in found.contacts)
        below = {c.first: c.second for c in found.contacts}
        assert below[1] in (0, 2)


def test_a_block_on_its_side_stays_there():
    for shape, tilt in (("cube", LYING), ("cylinder", LYING), ("cylinder", leaning(0.7, LYING))):
        yaw, tilt = yaw_and_tilt(tilt)
        found = simulate(Scene((raised(solid(shape, yaw=yaw, tilt=tilt), 0.0),)), frames=8)
        assert np.abs(found.centres - found.centres[0]).max() < 1e-4
        assert np.abs(found.quaternions - found.quaternions[0]).max() < 1e-4


@pytest.mark.parametrize("shape", ["cube", "cylinder", "cone"])
def test_a_tilted_solid_falls_over_beyond_the_angle_where_its_centre_leaves_the_rim(shape):
    o = solid(shape)
    limit = math.atan(o.half_width / above_base(o))
    for angle, falls in ((limit - 0.08, False), (limit + 0.08, True)):
        tilted = raised(replace(o, tilt=(math.cos(angle / 2), math.sin(angle / 2), 0.0, 0.0)), 0.0)
        found = simulate(Scene((tilted,)), friction=1.0, restitution=0.0, frames=11)
        up = 1 - 2 * (found.quaternions[-1, 0, 1] ** 2 + found.quaternions[-1, 0, 2] ** 2)
        assert (up < 0.6) == falls, (angle, limit)


def test_a_block_falls_off_another_when_it_overhangs_by_more_than_half():
    low = solid("cube")
    for share, falls in ((0.9, False), (1.1, True)):
        top = solid("cube", (share * low.half_width, 0, low.height), id=2)
        found = simulate(Scene((low, top)), friction=0.8, restitution=0.0, frames=11)
        assert (found.centres[-1, 1, 2] < found.centres[0, 1, 2] - 0.2) == falls


# --- what comes out -------------------------------------------------------------------------------------------------


def pile() -> tuple[Scene, dict[int, Start]]:
    objects = (
        solid("cube", (0, 0.5, 0)),
        solid("cylinder", (0.1, 0.5, 0.82), id=4),
        solid("sphere", (-1.4, 0.5, 0.9), id=2),
        solid("cone", (1.2, -0.5, 0), id=7, yaw=0.4),
    )
    return Scene(objects), {2: Start((3.5, 0, 1), (0, 2, 0))}


def digest(found) -> str:
    arrays = (found.centres, found.quaternions, found.velocities, found.spins)
    text = b"".join(a.tobytes() for a in arrays) + repr(found.contacts).encode() + found.scene.to_json().encode()
    return hashlib.sha256(text).hexdigest()


@pytest.mark.slow
def test_the_same_comes_out_bit_for_bit_also_in_another_process():
    scene, starts = pile()
    found = simulate(scene, starts, frames=4)
    assert digest(found) == digest(simulate(scene, dict(starts), frames=4))
    code = (
        f"import importlib.util as u; s = u.spec_from_file_location('t', {__file__!r}); m = u.module_from_spec(s); "
        "s.loader.exec_module(m); print(m.digest(m.simulate(*m.pile(), frames=4)))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(found)


def test_the_scene_moves_as_the_arrays_say_and_renders():
    scene, starts = pile()
    found = simulate(scene, starts, frames=9)
    assert found.scene.duration == 9 and found.times.tolist() == list(range(10))
    for n, (before, after) in enumerate(zip(scene.objects, found.scene.objects, strict=True)):
        assert replace(after, motion=()) == before
        motion = after.motion[0]
        assert motion.kind == "sampled" and motion.positions[0] == pytest.approx(before.position)
        np.testing.assert_allclose(motion.quaternions, found.quaternions[:, n])
        away = np.linalg.norm(found.centres[:, n] - motion.positions, axis=1)
        np.testing.assert_allclose(away, above_base(before), atol=1e-9)
    assert Scene.from_json(found.scene.to_json()) == found.scene
    out = render(found.scene, (0, 8), 32, ("ids", "flow"))
    assert (out.ids[0, 0] != out.ids[0, 1]).any()
    # seven stands aside, and nothing touches it but the floor
    assert [(c.first, c.second) for c in found.contacts if 7 in (c.first, c.second)] == [(7, 0)]
    assert all(c.first != 0 for c in found.contacts)
    hit = next(c for c in found.contacts if {c.first, c.second} == {2, 4} or {c.first, c.second} == {1, 2})
    assert 1 < hit.time < 4


def test_what_was_removed_changes_nothing_that_it_never_reached():
    scene, starts = pile()
    found = simulate(scene, starts, frames=6)
    without = simulate(replace(scene, objects=scene.objects[:3]), starts, frames=6)
    # rounding differs, and which rim points carry a cylinder may go by rounding
    assert np.abs(without.centres[:2] - found.centres[:2, :3]).max() < 1e-9
    assert np.abs(without.centres - found.centres[:, :3]).max() < 0.1
    same = [(c.first, c.second) for c in found.contacts if 7 not in (c.first, c.second) and c.time < 4]
    assert same == [(c.first, c.second) for c in without.contacts if c.time < 4]
    no_ball = simulate(replace(scene, objects=(*scene.objects[:2], scene.objects[3])), frames=4)
    assert np.abs(no_ball.centres - no_ball.centres[0]).max() < 1e-3


def test_counter_worlds_are_one_argument():
    scene, starts = pile()
    up = simulate(scene, starts, gravity=-1.5, frames=8)
    assert (up.centres[-1, :, 2] > up.centres[0, :, 2] + 0.5).all()
    still = simulate(scene, starts, damping=20.0, frames=8)
    assert np.abs(still.centres[-1, 1] - still.centres[0, 1]).max() < 0.05
    assert simulate(Scene(), frames=3).kinetic.shape == (4, 0)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"gravity": -3.0}, "gravity"),
        ({"gravity": 50.0}, "gravity"),
        ({"gravity": math.nan}, "gravity"),
        ({"friction": -0.1}, "friction"),
        ({"damping": 1e3}, "damping"),
        ({"restitution": 1.01}, "restitution"),
        ({"frames": 0}, "frames"),
        ({"frames": 2.5}, "frames"),
        ({"frames": 10**6}, "frames"),
        ({"starts": {9: Start()}}, "starts.*9"),
        ({"starts": {1: (1, 0, 0)}}, "starts"),
        ({"scene": Scene((solid("cube"),), floor=False)}, "floor"),
        ({"scene": Scene((solid("cube", (0, 0, -0.1)),))}, "object 1 0.100 m below the floor"),
        ({"scene": Scene((solid("cylinder", (0, 0, 0.1), tilt=LYING),))}, "below the floor"),
        ({"scene": Scene((solid("cube"), solid("sphere", (0.6, 0, 0), id=5)))}, "objects 1 and 5 .* inside"),
        ({"scene": Scene((solid("cube", motion=(Motion("turn", 0, 4, "clockwise", 1.0),)),))}, "motions"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, name):
    good = {"scene": Scene((solid("cube"),)), "starts": {1: Start((1, 0, 0))}, "frames": 1}
    simulate(**good)
    with pytest.raises(ValueError, match=name):
        simulate(**(good | arguments))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"velocity": (11, 0, 0)}, "velocity"),
        ({"velocity": (1, 0)}, "velocity"),
        ({"velocity": (math.nan, 0, 0)}, "velocity"),
        ({"spin": (0, 15, 15)}, "spin"),
    ],
)
def test_bad_starts_are_refused_by_name(fields, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        Start(**fields)


def test_without_mujoco_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r'pip install "wm-pipelines\[physics\]"'):
        simulate(Scene((solid("cube"),)), frames=1)
