import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from wm_pipelines.cli.house import app
from wm_pipelines.diorama.language import caption, scene_graph
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.physics import FAMILIES, PhysicsSetup, sample_physics, simulate
from wm_pipelines.diorama.physics_sheet import FILES, write_physics_sheet
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import HELD_OUT, Scene, project

SEEDS = {"throw": (8, 6), "push": (2,), "collide": (3,), "topple": (1,), "slide": (3,)}
# axis and sign of each word, seen from the usual camera
WAYS = {"left": (0, -1), "right": (0, 1), "away": (1, 1), "towards": (1, -1), "up": (2, 1), "down": (2, -1)}


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[PhysicsSetup]]:
    return {family: [sample_physics(family, "look", seed) for seed in SEEDS[family]] for family in FAMILIES}


@pytest.fixture(scope="module")
def setups(drawn) -> list[PhysicsSetup]:
    return [setup for each in drawn.values() for setup in each]


@pytest.mark.slow
def test_everything_stays_in_the_picture_and_can_be_seen(setups):
    for setup in setups:
        scene = setup.simulated.scene
        out = render(scene, range(scene.duration), 64, ("ids", "boxes", "amodal_boxes", "visible"))
        assert (out.visible[0, 0] > 0.5).all() and (out.visible[0] > 0.2).all()
        assert out.amodal_boxes.min() >= -1 / 64 and out.amodal_boxes.max() <= 1 + 1 / 64
        sides = (out.boxes[0, 0, :, 2:] - out.boxes[0, 0, :, :2]) * 64
        assert sides.min() >= 6
        # and something is seen to move
        assert max((out.ids[0, 0] != out.ids[0, t]).sum() for t in range(scene.duration)) > 60


def test_what_is_said_of_each_event_happens(drawn):
    def moved(found, n):
        xy, _ = project(found.centres[:, n], found.scene.camera)
        return np.linalg.norm(xy - xy[0], axis=1).max()

    for setup in drawn["throw"]:
        found = setup.simulated
        landed = next(c.time for c in found.contacts if c.second == 0)
        assert 2 <= landed <= 12 and found.centres[:, 0, 2].max() > found.centres[0, 0, 2] + 0.2
    for setup in drawn["slide"]:
        speed = np.linalg.norm(setup.simulated.velocities[:, 0], axis=1)
        assert speed[0] > 1 and speed[-3] < 0.02 and np.ptp(setup.simulated.centres[:, 0, 2]) < 0.02
        assert moved(setup.simulated, 0) > 0.1
    for setup in drawn["push"] + drawn["collide"]:
        found = setup.simulated
        met = next(c for c in found.contacts if c.second == 2)
        at = int(met.time)
        assert np.abs(found.velocities[: at + 1, 1] - found.velocities[0, 1]).max() < 3
        assert np.linalg.norm(found.velocities[at + 1, 1] - found.velocities[at, 1]) > 0.3
        assert moved(found, 0) > 0.1 and moved(found, 1) > 0.1
    for setup in drawn["topple"]:
        found = setup.simulated
        top = found.centres[0, 1:, 2].argmax() + 1
        assert found.centres[-1, top, 2] < found.centres[0, top, 2] - 0.4
        assert any((c.first, c.second) == (found.scene.objects[top].id, 0) for c in found.contacts)
        # a stack that nothing hits stands
        alone = replace(setup.scene, objects=setup.scene.objects[1:], duration=3)
        still = simulate(alone, **setup.world)
        assert np.abs(still.centres - still.centres[0]).max() < 1e-3


def test_setups_are_valid_physics(setups):
    for setup in setups:
        found, ids = setup.simulated, [o.id for o in setup.scene.objects]
        assert setup.family in FAMILIES and set(setup.starts) <= set(ids) and next(iter(setup.starts)) == 1
        assert all(o.motion == () for o in setup.scene.objects) and setup.scene.duration == 16
        for c in found.contacts:
            radii = [setup.scene.object(i).radius for i in (c.first, c.second) if i]
            assert c.penetration < 0.02 * min(radii)
        energy = (found.kinetic + found.potential).sum(1)
        assert (energy[1:] <= np.maximum.accumulate(energy)[:-1] + 2e-3 * np.abs(energy).max()).all()
        colours = [o.colour for o in setup.scene.objects]
        assert len(set(colours)) == len(colours)
        assert not any((o.colour, o.shape) in HELD_OUT for o in setup.scene.objects)
    assert len({s.scene.to_json() for s in setups}) == len(setups)


def test_a_key_gives_one_event(drawn):
    again, first = sample_physics("throw", "look", SEEDS["throw"][1]), drawn["throw"][1]
    assert again.scene == first.scene and again.starts == first.starts and again.world == first.world
    assert again.simulated.scene == first.simulated.scene and again.simulated.contacts == first.simulated.contacts
    found = again.simulate()
    assert found.scene == first.simulated.scene and found.contacts == first.simulated.contacts


def test_counter_worlds_change_what_happens(drawn):
    throw = drawn["throw"][0]
    up = throw.simulate(gravity=-1.5)
    assert up.centres[-1, 0, 2] > 2 and not any(c.time > 1 for c in up.contacts)
    slide = drawn["slide"][0]
    on = slide.simulate(friction=0.0)
    speed = np.linalg.norm(on.velocities[:, 0], axis=1)
    assert speed[-1] == pytest.approx(speed[0], rel=1e-3)
    stuck = slide.simulate(damping=30.0)
    assert np.linalg.norm(stuck.centres[-1, 0] - stuck.centres[0, 0]) < 0.2


def test_bystanders_are_touched_by_nothing():
    setup = sample_physics("throw", "by", 1, bystanders=2)
    ids = [o.id for o in setup.scene.objects]
    assert ids == [1, 2, 3]
    assert not any(c.second for c in setup.simulated.contacts)
    assert np.abs(setup.simulated.centres[:, 1:] - setup.simulated.centres[0, 1:]).max() < 1e-4
    for a, b in combinations(setup.scene.objects, 2):
        assert np.hypot(a.position[0] - b.position[0], a.position[1] - b.position[1]) > 0.5


def test_words_of_events_are_true(setups):
    for setup in setups:
        scene = setup.simulated.scene
        text = caption(scene).text
        parsed = parse_caption(text)
        assert {o["colour"] for o in parsed.objects} == {o.colour for o in scene.objects}
        for said, motions in zip(parsed.objects, parsed.motions, strict=True):
            n = next(n for n, o in enumerate(scene.objects) if o.colour == said["colour"])
            step = setup.simulated.centres[-1, n] - setup.simulated.centres[0, n]
            for m in motions:
                axis, sign = WAYS[m.direction]
                assert sign * step[axis] > 0.4
        assert len(scene_graph(scene, scene.duration - 1).nodes) == len(scene.objects)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"family": "fall"}, "family"),
        ({"frames": 4}, "frames"),
        ({"frames": 16.0}, "frames"),
        ({"bystanders": 3}, "bystanders"),
        ({"composition": "held_out"}, "composition"),
        ({"patterns": ()}, "patterns"),
        ({"patterns": ("dotted",)}, "patterns"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        sample_physics(**({"family": "slide"} | arguments))


@pytest.mark.slow
def test_the_sheet_has_frames_curves_a_clip_and_the_record(tmp_path):
    paths = write_physics_sheet(tmp_path / "out", "slide", seed=1, size=24)
    assert [p.name for p in paths] == list(FILES) and all(p.is_file() for p in paths)
    assert {p.name for p in tmp_path.joinpath("out").iterdir()} == set(FILES)
    scene = Scene.from_json((tmp_path / "out" / "scene.json").read_text())
    assert [m.kind for o in scene.objects for m in o.motion] == ["sampled"]
    record = json.loads((tmp_path / "out" / "physics.json").read_text())
    assert record["family"] == "slide" and set(record["world"]) == {"gravity", "friction", "damping", "restitution"}
    assert len(record["kinetic"]) == 17 and record["kinetic"][0] > 10 * record["kinetic"][-1]
    assert record["contacts"][0]["second"] == 0 and record["starts"]["1"]["velocity"][2] == 0
    with Image.open(tmp_path / "out" / "scene.gif") as gif:
        assert 2 < gif.n_frames <= 16 and gif.size == (24, 24)  # frames that are alike are one
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size[0] in range(8 * 24, 8 * 24 + 30) and sheet.size[1] in range(2 * 24, 2 * 24 + 10)
    with Image.open(tmp_path / "out" / "curves.png") as curves:
        assert len(np.unique(np.asarray(curves.convert("L")))) > 20


def test_the_command_writes_it_and_names_what_it_does_not_know(tmp_path):
    given = ["--seed", "1", "--size", "8", "--out", str(tmp_path / "a")]
    run = CliRunner().invoke(app, ["diorama", "--physics", "slide", *given])
    assert run.exit_code == 0 and "physics.json" in run.output
    run = CliRunner().invoke(app, ["diorama", "--physics", "melt", "--out", str(tmp_path / "b")])
    assert run.exit_code != 0 and "melt" in str(run.exception) and not (tmp_path / "b").exists()
