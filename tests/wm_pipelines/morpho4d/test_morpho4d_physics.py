"""The physics report: what is valid passes, each violation is told by its own term, constants come out, bad input is
named."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from wm_pipelines.diorama.cameras import camera_matrices
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene, SceneObject
from wm_pipelines.diorama.violations import VIOLATIONS, Grown, sample_violation
from wm_pipelines.morpho4d.physics.footage import (
    NothingSeen,
    floor_depth,
    footage_physics,
    ranked_clips,
    world_camera,
)
from wm_pipelines.morpho4d.physics.plots import report_picture
from wm_pipelines.morpho4d.physics.report import TERMS, clip_physics, scene_physics
from wm_pipelines.morpho4d.physics.run import run
from wm_pipelines.morpho4d.physics.thresholds import calibrate

from .conftest import make_scene

FRAMES, STEP = 12, 1 / 8


def solid(x=0.0, y=0.0, z=0.0, shape="cube", id=1, **more):
    return SceneObject(id, shape, ("red", "blue")[id - 1], "small", position=(x, y, z), **more)


def maps(frames, size=64):
    seen = render([Scene(tuple(objects)) for objects in frames], size=size, maps=("ids", "depth"))
    k, pose = camera_matrices(Scene(), (0.0,), size)
    return seen.ids[:, 0], seen.depth[:, 0], (k, pose[0])


def report(frames, size=64, **more):
    return clip_physics(*maps(frames, size), **more)


def sliding(friction=0.2, speed=2.0, x=-1.5):
    """Places of what slides to the right and is slowed down."""
    stop = speed / friction / 9.81
    times = [min(t * STEP, stop) for t in range(FRAMES)]
    return [x + speed * t - friction * 9.81 / 2 * t * t for t in times]


def flying(gravity=9.81, up=3.5, x=-1.0):
    frames = [(x + 1.5 * t * STEP, 0.1 + up * t * STEP - gravity / 2 * (t * STEP) ** 2) for t in range(FRAMES)]
    return [solid(x, 0.0, z, "sphere") for x, z in frames if z > 0]


@pytest.mark.parametrize("size", [64, 32])
@pytest.mark.parametrize("shape", ["cube", "sphere", "cylinder", "cone"])
def test_what_slides_rests_or_flies_is_valid(shape, size):
    slid = [[solid(x, shape=shape), solid(1.2, 0.9, shape=shape, id=2)] for x in sliding()]
    assert report(slid, size).holds
    flown = [[replace(o, shape=shape)] for o in flying(up=4.5)]
    assert report(flown, size).holds


def broken(kind, at=5):
    slid = [[solid(x), solid(0.4, 1.2, shape="cylinder", id=2)] for x in sliding()]
    if kind == "vanish":
        return [objects[1:] if t >= at else objects for t, objects in enumerate(slid)]
    if kind == "grow":
        return [[Grown(**vars(o[0]), factor=1 + 0.6 * (t >= at)), o[1]] for t, o in enumerate(slid)]
    if kind == "teleport":
        return [[solid(x - (t >= at) * 1.0)] for t, x in enumerate(sliding())]
    if kind == "float":
        return [[solid(x, z=0.6)] for x in sliding()]
    if kind == "interpenetrate":
        return [[solid(x), solid(0.1, id=2, shape="cylinder")] for x in sliding(0.05)]
    return [[solid(0.3, z=1.0 * (t * STEP) ** 2, shape="sphere")] for t in range(FRAMES)]


TELLS = {
    "vanish": {"presence"},
    "grow": {"volume"},
    "teleport": {"momentum", "energy"},
    "float": {"momentum", "support"},
    "interpenetrate": {"penetration"},
    "reversed gravity": {"momentum", "support", "energy"},
}


@pytest.mark.parametrize("kind", VIOLATIONS)
def test_each_violation_is_told_by_its_own_term(kind):
    found = report(broken(kind))
    assert not found.holds and found.score > 1
    assert {name for name, term in found.terms.items() if not term.holds} & TELLS[kind]


@pytest.mark.parametrize("gravity", [4.0, 9.81, 14.0])
def test_gravity_is_recovered(gravity):
    found = report([[o] for o in flying(gravity, up=gravity / 2.6)], gravity=gravity).constants["gravity"]
    assert found.low <= gravity <= found.high and found.high - found.low < 0.5 * gravity


@pytest.mark.parametrize("friction", [0.1, 0.2, 0.3])
def test_friction_is_recovered(friction):
    found = report([[solid(x)] for x in sliding(friction)]).constants["friction"]
    assert found.low <= friction <= found.high and abs(found.value - friction) < 0.06


def test_restitution_is_recovered_of_a_ball():
    share, z, speed, places = 0.6, 1.4, 0.0, []
    for t in range(FRAMES * 50):
        if t % 50 == 0:
            places.append([solid(-0.9 + t * 0.003, 0.0, z, "sphere")])
        speed -= 9.81 * STEP / 50
        z += speed * STEP / 50
        if z < 0 and speed < 0:
            speed *= -share
    found = report(places).constants["restitution"]
    assert found.low <= share <= found.high


def test_a_report_is_json_a_table_and_a_picture():
    found = report(broken("float"))
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert said["holds"] is False and set(said["terms"]) | set(said["unmeasured"]) == set(TERMS)
    assert len(said["terms"]["momentum"]["values"][0]) == FRAMES
    text = "\n".join(found.lines())
    assert all(name in text for name in (*TERMS, "gravity", "friction", "restitution"))
    assert report_picture(found).width == 1000


def test_rigid_scenes_hold_and_what_deforms_does_not():
    scene = make_scene("free")
    scene.motion.offsets[:] = torch.linspace(0, 0.4, 5)[:, None, None]
    rigid = scene_physics(scene, gravity=9.81)
    assert rigid.terms["rigidity"].score < 1e-5 and "presence" in rigid.unmeasured
    noise = torch.randn(scene.motion.offsets.shape, generator=torch.Generator().manual_seed(0))
    scene.motion.offsets[:] += 0.5 * noise
    assert not scene_physics(scene).terms["rigidity"].holds
    masks = torch.zeros(5, 16, 16, dtype=torch.int64)
    assert scene_physics(scene, masks).terms["presence"].score == 1.0


def test_depth_from_the_floor_is_right_where_things_touch_it():
    ids, depth, _ = maps([[solid(0.2)]] * 5)
    guessed = floor_depth(ids, world_camera(5, (64, 64)))
    floor = ids == 0
    assert torch.allclose(guessed[floor], depth[floor], atol=1e-3)
    low = ids[0].any(1).nonzero()[-1, 0]
    there = ids[0, low] == 1
    assert (guessed[0, low][there] - depth[0, low][there]).abs().max() < 0.15


def footage(frames):
    """(T, 3, 64, 64) of a clip, as a camera sees it."""
    return render([Scene(tuple(objects)) for objects in frames], size=64, maps=("rgb",)).rgb[:, 0]


def test_of_several_clips_the_physical_one_is_first_and_one_that_shows_nothing_last():
    good, bad = footage([[solid(x)] for x in sliding()]), footage(broken("teleport"))
    found = ranked_clips([torch.full_like(good, 0.47), bad, good])
    assert [n for n, _ in found] == [2, 1, 0]
    assert found[0][1].score < found[1][1].score and found[1][1].objects == ["red object"] and found[2][1] is None
    assert footage_physics(good, simulator=False).score == found[0][1].score
    with pytest.raises(NothingSeen, match="shows no object"):
        footage_physics(torch.full((5, 3, 64, 64), 0.47))
    with pytest.raises(ValueError, match="a clip has 4 frames; 5 or more"):
        ranked_clips([good[:4]])


def test_thresholds_are_those_that_valid_clips_stay_under():
    valid = [report([[solid(x)] for x in sliding(0.1 + 0.01 * n)], 32).scores for n in range(20)]
    found = calibrate(valid)
    mine = report([[solid(x)] for x in sliding(0.25)], 32, thresholds=found)
    assert mine.terms["volume"].threshold == found["volume"] and mine.overall == found["overall"] >= 1
    with pytest.raises(ValueError, match="`valid` has 3; 20"):
        calibrate(valid[:3])


def test_a_drawn_violation_is_the_same_twice():
    first, again = (sample_violation("float", "test", 0) for _ in range(2))
    assert first.frames == again.frames and first.kind == "float" and len({s.camera for s in first.frames}) == 1
    with pytest.raises(ValueError, match="`kind` is 'melt'; allowed: vanish"):
        sample_violation("melt")


def test_bad_input_is_named(tmp_path):
    ids, depth, camera = maps([[solid(x)] for x in sliding()], 32)
    bad = depth.clone()
    bad[2, 3, 4] = -1
    for changed, said in [
        ({"masks": ids.float()}, "`masks` is"),
        ({"masks": ids[:3], "depth": depth[:3]}, "`masks` has 3 frames"),
        ({"masks": ids * 0}, "`masks` has ids"),
        ({"depth": depth[:, :4]}, "`depth` is"),
        ({"depth": bad}, "`depth` has .* not above 0"),
        ({"cameras": None}, "`cameras` is missing"),
        ({"fps": 0}, "`fps` is 0"),
        ({"fps": math.nan}, "`fps` is nan"),
        ({"gravity": -9.81}, "`gravity` is -9.81"),
    ]:
        with pytest.raises(ValueError, match=said):
            clip_physics(**{"masks": ids, "depth": depth, "cameras": camera} | changed)
    with pytest.raises(ValueError, match="`scene` is a int"):
        scene_physics(3)
    with pytest.raises(ValueError, match="`depth` is missing"):
        np.save(tmp_path / "masks.npy", ids.numpy())
        run(tmp_path / "none.mp4", tmp_path / "out", masks=tmp_path / "masks.npy")
    assert not (tmp_path / "out").exists()


def test_a_saved_scene_is_measured_from_the_command_line(tmp_path):
    scene = make_scene("free")
    scene.save_pretrained(tmp_path / "scene")
    found = run(tmp_path / "scene", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "physics.json").read_text())
    assert written["objects"] == ["red cube", "blue sphere"] == found.objects
    assert (tmp_path / "out" / "physics.png").stat().st_size > 1000
