import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from wm_pipelines.diorama.cameras import camera_matrices, ring_cameras
from wm_pipelines.diorama.motion import sample_motion
from wm_pipelines.diorama.render import MAPS, render
from wm_pipelines.diorama.scene import CHEQUERS, FLOOR_ALBEDO, Camera, Light, Scene, SceneObject, sample_scene

EXACT = tuple(m for m in MAPS if m not in ("rgb", "albedo"))


def scene(i: int, square: float = 0.8, count: int = 3) -> Scene:
    drawn = sample_motion(sample_scene("floor test", i, num_objects=count), "floor test", i, camera=i % 2 == 1)
    return replace(drawn, floor_pattern="chequered", floor_square=square)


def plain(chequered: Scene) -> Scene:
    return replace(chequered, floor_pattern="plain")


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.is_floating_point():
        a, b = a.contiguous().view(torch.int32), b.contiguous().view(torch.int32)
    return torch.equal(a, b)


def test_scenes_with_plain_floors_are_written_as_before_and_old_files_load():
    old = sample_scene("floor test", 0, num_objects=2)
    state = json.loads(old.to_json())
    assert set(state) == {"diorama", "objects", "camera", "light", "floor", "duration", "fps"}
    assert state["diorama"] == 1
    assert Scene.from_json(json.dumps(state)) == old and old.floor_pattern == "plain"


@pytest.mark.parametrize(
    "change",
    [
        {"floor_pattern": "chequered"},
        {"floor_pattern": "chequered", "floor_square": 0.3},
        {"floor_square": 0.1 + 0.2},
        {"floor_pattern": "chequered", "floor": False},
    ],
)
def test_new_fields_come_back(change):
    new = replace(sample_scene("floor test", 1, num_objects=2), **change)
    again = Scene.from_json(new.to_json())
    assert again == new
    assert equal(render(again, size=12, maps=("rgb",)).rgb, render(new, size=12, maps=("rgb",)).rgb)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"floor_pattern": "tiled"}, "`floor_pattern` is 'tiled'"),
        ({"floor_square": 0.0}, "`floor_square`"),
        ({"floor_square": -1.0}, "`floor_square`"),
        ({"floor_square": math.inf}, "`floor_square`"),
        ({"floor_square": math.nan}, "`floor_square`"),
    ],
)
def test_bad_floors_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(Scene(), **change)
    if all(math.isfinite(v) for v in change.values() if isinstance(v, float)):
        with pytest.raises(ValueError, match=message):
            Scene.from_json(json.dumps(json.loads(Scene().to_json()) | change))
    with pytest.raises(ValueError, match="unknown field 'floor_colour' in Scene"):
        Scene.from_json(json.dumps(json.loads(Scene().to_json()) | {"floor_colour": "red"}))


@pytest.mark.parametrize("square", [0.4, 0.8, 1.7])
@pytest.mark.parametrize(
    "camera", [Camera(), ring_cameras(3, 5.0, 40, start_deg=25)[1], Camera((1.0, -4.0, 0.5), (0.0, 0.0, 0.9))]
)
def test_every_sample_has_the_colour_of_its_square(square, camera):
    """Against K, T_cw and the floor's equation in float64: the mean of four samples, but where one is near an edge."""
    size = 40
    empty = Scene(camera=camera, floor_pattern="chequered", floor_square=square)
    albedo = render(empty, size=size, maps=("albedo",)).albedo[0, 0].double().numpy()
    k, pose = (m.numpy() for m in camera_matrices(empty, (0,), size))
    eye = -pose[0, :3, :3].T @ pose[0, :3, 3]
    expected, sure = np.zeros((size, size)), np.ones((size, size), bool)
    for dx in (0.25, 0.75):
        for dy in (0.25, 0.75):
            y, x = np.mgrid[:size, :size].astype(float)
            ray = np.stack([(x + dx - k[0, 2]) / k[0, 0], (y + dy - k[1, 2]) / k[1, 1], np.ones_like(x)], -1)
            ray = ray @ pose[0, :3, :3]
            down = ray[..., 2] < -1e-6
            at = eye[:2] + (-eye[2] / np.where(down, ray[..., 2], -1.0))[..., None] * ray[..., :2]
            cell = np.floor(at / square)
            level = np.where(cell.sum(-1) % 2 == 0, *CHEQUERS)
            expected += np.where(down, level, 0.0) / 4
            away = np.abs(at / square - np.round(at / square)).min(-1) * square
            sure &= ~down | ((away > 1e-3) & (np.linalg.norm(at - eye[:2], axis=-1) < 200))
            sure &= np.abs(ray[..., 2]) > 1e-6
    assert sure.mean() > 0.8 and 0.1 < (expected > 1).mean() < 0.8
    for c, base in enumerate(FLOOR_ALBEDO):
        assert np.abs(albedo[c] - expected * base)[sure].max() < 1e-6
    between = (np.abs(expected - np.array(CHEQUERS)[:, None, None]).min(0) > 0.05) & sure
    assert between.mean() > 0.02  # edges are soft


def test_only_colours_change_with_the_floor():
    for i in range(4):
        chequered = scene(i)
        a, b = (render(s, (0, 3.5), (20, 28), MAPS) for s in (chequered, plain(chequered)))
        assert all(equal(getattr(a, name), getattr(b, name)) for name in EXACT)
        # a pixel all of whose neighbours show a solid has no sample of the floor
        solid = torch.nn.functional.avg_pool2d((a.ids > 0).float(), 3, 1, 1).flatten(0, 1) == 1
        for name in ("rgb", "albedo"):
            x, y = (getattr(r, name).flatten(0, 1).movedim(1, -1) for r in (a, b))
            assert equal(x[solid], y[solid]) and not equal(x, y)


def test_light_and_shadow_fall_on_squares_as_on_a_plain_floor():
    chequered = replace(scene(4), light=Light((-1.0, 0.3, 0.6)))
    a, b = (render(s, (2,), 48, ("rgb", "albedo", "ids")) for s in (chequered, plain(chequered)))
    floor = a.ids[0, 0] == 0
    floor = -torch.nn.functional.max_pool2d(-floor[None].float(), 3, 1, 1)[0] == 1
    squares = a.albedo[0, 0] / b.albedo[0, 0]
    # where the four samples lie in one square, light is the same share of it; some lie in a shadow
    pure = floor & ((squares[0] - CHEQUERS[0]).abs().lt(1e-5) | (squares[0] - CHEQUERS[1]).abs().lt(1e-5))
    torch.testing.assert_close((a.rgb / b.rgb)[0, 0][:, pure], squares[:, pure], rtol=1e-4, atol=0)
    shade = (b.rgb / b.albedo)[0, 0, 0][pure]
    assert shade.max() > 0.75 and (shade < 0.5).any()


def test_floors_do_not_mix_in_a_batch():
    scenes = [scene(5), plain(scene(5)), scene(6, 0.3), plain(scene(7)), replace(scene(8), floor=False)]
    together = render(scenes, (0, 4), 20, ("rgb", "albedo"), cameras=None)
    for i, each in enumerate(scenes):
        alone = render(each, (0, 4), 20, ("rgb", "albedo"))
        assert all(equal(getattr(together, name)[i], getattr(alone, name)[0]) for name in ("rgb", "albedo"))
    assert equal(together.albedo[4, 0][:, :2, :2], torch.zeros(3, 2, 2))


def test_gradients_are_those_before_a_plain_floor():
    chequered = replace(scene(9, count=2), camera=Camera())

    def gradients(s):
        colours = torch.full((1, 2, 3), 0.4, requires_grad=True)
        positions = torch.tensor([[[o.position for o in s.objects]]], requires_grad=True)
        out = render(s, (0,), 24, ("rgb", "albedo", "depth"), colours=colours, positions=positions)
        (out.rgb.sum() + out.albedo.sum() + out.depth.sum()).backward()
        return colours.grad, positions.grad

    for a, b in zip(gradients(chequered), gradients(plain(chequered)), strict=True):
        assert a.abs().sum() > 0 and equal(a, b)


def test_albedo_knows_no_light_and_no_shadow():
    tall = SceneObject(1, "cone", "red", material="shiny")
    lights = [Light((-0.9, 0.2, 0.5)), Light((0.9, 0.2, 0.3), 0.0), Light((0.0, 0.0, -1.0), 1.0)]
    out = render([Scene((tall,), light=light) for light in lights], size=32, maps=("rgb", "albedo", "ids"))
    assert equal(out.albedo[1], out.albedo[0]) and equal(out.albedo[2], out.albedo[0])
    assert not equal(out.rgb[1], out.rgb[0])
    bare = torch.tensor(FLOOR_ALBEDO)[:, None, None]
    whole = torch.nn.functional.max_pool2d((out.ids[0] > 0).float(), 3, 1, 1)[0] == 0
    assert ((out.albedo[0, 0] - bare).abs()[:, whole] < 1e-6).all()
    assert ((out.rgb[0, 0] / bare)[0, whole] < 0.5).any()  # the lit picture has a shadow there


def test_what_moves_changes_albedo_only_where_it_was_and_is():
    """Shadows would change the floor elsewhere: counterfactuals are judged on albedo."""
    still, gone = scene(10), replace(scene(10), objects=scene(10).objects[1:])
    a, b = (render(s, (5,), 48, ("rgb", "albedo", "ids")) for s in (still, gone))
    touched = torch.nn.functional.max_pool2d((a.ids[0] == still.objects[0].id).float(), 3, 1, 1)[0] > 0
    assert equal(a.albedo[0, 0][:, ~touched], b.albedo[0, 0][:, ~touched])
    assert not equal(a.rgb[0, 0][:, ~touched], b.rgb[0, 0][:, ~touched])
