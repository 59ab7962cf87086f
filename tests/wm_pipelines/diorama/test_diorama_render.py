import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import grid_sample, max_pool2d
from torch.utils._python_dispatch import TorchDispatchMode

from wm_pipelines.diorama.motion import camera_at, pose_at, sample_motion
from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.render import MAPS, render, tracks
from wm_pipelines.diorama.scene import (
    SHAPES,
    Camera,
    Light,
    Scene,
    SceneObject,
    intrinsics,
    sample_scene,
)

PIXEL_MAPS = ("rgb", "albedo", "ids", "depth", "normals", "flow", "occlusion")


def moving(i: int, count: int = 4, camera: bool = False) -> Scene:
    return sample_motion(sample_scene("render test", i, num_objects=count), "render test", i, camera=camera)


def equal(a, b) -> bool:
    """Bit-equal, also where both are NaN."""
    if a.is_floating_point():
        a, b = a.view(torch.int32), b.view(torch.int32)
    return torch.equal(a, b)


def one(shape: str, **fields) -> Scene:
    return Scene((SceneObject(1, shape, "green", yaw=0.4, **fields),))


def test_pictures_are_those_of_the_first_release():
    """The base checkpoints are trained on these pictures: a few pixels of every map, made before any speed-up."""
    with safe_open(str(Path(__file__).parent / "reference.safetensors"), "pt") as file:
        scenes = [Scene.from_json(line) for line in file.metadata()["scenes"].split("\n")]
        frozen = {name: file.get_tensor(name) for name in file.keys()}
    out = render(scenes, (0, 6.5), (24, 32), MAPS)
    # the same 48 places of 24 x 32 as were kept
    from wm_pipelines.runtime.random import keyed

    pick = torch.from_numpy(keyed("reference pixels").choice(24 * 32, 48, replace=False))
    for name, value in frozen.items():
        now = getattr(out, name)
        now = now.flatten(-2)[..., pick] if name in PIXEL_MAPS else now
        if value.is_floating_point():
            # rounding is another on each kind of processor, and more of it where a ray grazes a sphere or glints
            atol = 1e-5 if name in ("rgb", "normals", "flow") else 1e-6
            torch.testing.assert_close(now, value, rtol=1e-6, atol=atol, equal_nan=True, msg=lambda m, n=name: n + m)
        else:
            assert torch.equal(now, value.to(now.dtype)), name


def test_a_scene_renders_bit_equal_alone_in_any_batch_and_in_any_order():
    scenes = [moving(0), Scene(), moving(1, 2, camera=True), one("cone")]
    together = render(scenes, (0, 3), 20, MAPS)
    backward = render(scenes[::-1], (3, 0), 20, MAPS)
    for i, scene in enumerate(scenes):
        alone = render(scene, (0, 3), 20, MAPS)
        count = alone.object_ids.shape[1]
        for name in MAPS:
            a, b = getattr(alone, name)[0], getattr(together, name)[i]
            c = getattr(backward, name)[-1 - i].flip(0)
            if name in ("boxes", "amodal_boxes", "visible"):
                b, c = b[:, :count], c[:, :count]
            assert equal(a, b) and equal(a, c), name


def test_one_map_alone_is_the_map_among_all():
    scene = moving(2, 3)
    every = render(scene, (1.0,), 16, MAPS)
    for name in MAPS:
        assert equal(getattr(render(scene, (1.0,), 16, (name,)), name), getattr(every, name))


def test_json_round_trip_renders_bit_equal():
    for i in range(3):
        scene = replace(moving(10 + i, camera=i == 1), light=Light((0.3, -0.2, 0.9), 0.1 + 0.2))
        again = Scene.from_json(scene.to_json())
        assert again == scene
        a, b = (render(s, (0, 5), 16, MAPS) for s in (scene, again))
        assert all(equal(getattr(a, name), getattr(b, name)) for name in MAPS)


def test_the_renderer_multiplies_no_matrices():
    names = set()

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    still, moved = sample_scene("render test", 3, num_objects=4), moving(3, camera=True)
    with Record():
        render(still, size=12, maps=MAPS)
        tracks(moved, (0, 1), 2, 12)
    assert "mul" in names
    assert not names & {"mm", "bmm", "addmm", "baddbmm", "matmul", "mv", "dot", "einsum", "linear", "convolution"}


def silhouette(ids: torch.Tensor) -> torch.Tensor:
    """(H, W) bool: pixels whose 3 x 3 neighbourhood shows more than one id."""
    x = ids[None].double()
    return (max_pool2d(x, 3, 1, 1) != -max_pool2d(-x, 3, 1, 1))[0]


@pytest.mark.parametrize("camera", [False, True])
def test_flow_leads_to_the_same_colour_in_the_next_frame(camera):
    errors, moved = [], 0
    for i in range(4):
        scene, t = moving(20 + i, camera=camera), 3.0 + i
        out = render(scene, (t, t + 1), 64, ("albedo", "flow", "occlusion", "ids"))
        y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        target = torch.stack([x, y], -1) + out.flow[0, 0].movedim(0, -1)
        grid = (target / 32 - 1)[None]
        warped = grid_sample(out.albedo[:, 1], grid, align_corners=False)[0]
        edge = silhouette(out.ids[0, 1]).float()[None, None]
        inside = ((target > 1) & (target < 63)).all(-1)
        fair = inside & ~out.occlusion[0, 0] & ~silhouette(out.ids[0, 0])
        fair &= grid_sample(edge, grid, align_corners=False)[0, 0] == 0
        assert fair.float().mean() > 0.5
        moved += (out.flow[0, 0].norm(dim=0) > 0.2)[fair & (out.ids[0, 0] > 0)].sum()
        errors.append((warped - out.albedo[0, 0]).abs().mean(0)[fair].mean())
    assert moved > 100
    assert max(errors) < 0.02


def test_flow_of_a_point_is_where_its_solid_carries_it():
    scene = moving(31, camera=True)
    xy, visible, ids = tracks(scene, (2, 3), 12, 64)
    out = render(scene, (2,), 64, ("flow", "ids", "occlusion"))
    at = xy[0].floor().long()
    # tracks start on pixel centres, so flow there is exact
    flow = out.flow[0, 0][:, at[:, 1], at[:, 0]].T
    assert (out.ids[0, 0][at[:, 1], at[:, 0]] == ids).all()
    torch.testing.assert_close(xy[1] - xy[0], flow, atol=2e-4, rtol=0)
    inside = ((xy[1] > 0) & (xy[1] < 64)).all(-1)
    assert torch.equal(visible[1] & inside, ~out.occlusion[0, 0][at[:, 1], at[:, 0]] & inside)


def test_tracks_stay_on_their_object():
    for i in range(3):
        scene = moving(40 + i, camera=i == 1)
        times = range(0, 16, 3)
        xy, visible, ids = tracks(scene, times, 10, 64, seed=i)
        out = render(scene, times, 64, ("ids",))
        assert xy.shape == (6, len(ids), 2) and visible[0].all() and set(ids.tolist()) <= {1, 2, 3, 4}
        right = total = 0
        for t in range(6):
            edge = silhouette(out.ids[0, t])
            at = xy[t][visible[t]].floor().long().clamp(0, 63)
            seen = ~edge[at[:, 1], at[:, 0]]
            right += (out.ids[0, t][at[:, 1], at[:, 0]] == ids[visible[t]])[seen].sum()
            total += seen.sum()
        assert total > 30 and right == total


def world_points(scene: Scene, t: float, depth: torch.Tensor) -> np.ndarray:
    """(H, W, 3) float64 world points of the pixel centres, from K and T_cw alone."""
    height, width = depth.shape
    k, pose = intrinsics(scene.camera, height, width), camera_at(scene, t).numpy()
    y, x = np.mgrid[:height, :width] + 0.5
    z = depth.double().numpy()
    local = np.stack([(x - k[0, 2]) / k[0, 0] * z, (y - k[1, 2]) / k[1, 1] * z, z], -1)
    return (local - pose[:3, 3]) @ pose[:3, :3]


def surface(o: SceneObject, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far local points are from the solid's surface (metres) and the normals there, by its textbook equation."""
    half, height = o.half_width, o.height
    x, y, z = np.moveaxis(p, -1, 0)
    radial = np.hypot(x, y)
    up = np.zeros_like(p)
    up[..., 2] = np.sign(z - height / 2)
    side = np.stack([x, y, 0 * z], -1) / np.maximum(radial, 1e-9)[..., None]
    if o.shape == "sphere":
        q = p - (0, 0, half)
        return np.linalg.norm(q, axis=-1) - half, q / np.linalg.norm(q, axis=-1, keepdims=True)
    if o.shape == "cube":
        q = p / (half, half, height / 2) - (0, 0, 1)
        axis = np.abs(q).argmax(-1)[..., None]
        normal = np.zeros_like(q)
        np.put_along_axis(normal, axis, np.sign(np.take_along_axis(q, axis, -1)), -1)
        return (np.abs(q).max(-1) - 1) * half, normal
    if o.shape == "cylinder":
        cap = np.abs(z - height / 2) - height / 2
        on_cap = np.abs(cap) < np.abs(radial - half)
        return np.maximum(cap, radial - half), np.where(on_cap[..., None], up, side)
    slope = np.stack([side[..., 0], side[..., 1], 0 * z + half / height], -1)
    away = radial - half * (1 - z / height)
    return np.where(z < 1e-4, -z, away), slope / np.linalg.norm(slope, axis=-1, keepdims=True)


@pytest.mark.parametrize("camera", [False, True])
def test_depth_ids_normals_and_boxes_agree(camera):
    for i in range(3):
        scene, t = moving(50 + i, camera=camera), 4.5
        out = render(scene, (t,), (40, 56), MAPS)
        ids, points = out.ids[0, 0], world_points(scene, t, out.depth[0, 0])
        normals = out.normals[0, 0].movedim(0, -1).double().numpy()
        floor = (ids == 0).numpy()
        assert np.abs(points[floor, 2]).max() < 1e-4 and (normals[floor] == (0, 0, 1)).all()
        for n, o in enumerate(scene.objects):
            mine = ids == o.id
            position, (w, _, _, z) = (v.numpy() for v in pose_at(o, scene, t))
            yaw = 2 * math.atan2(z, w)
            turn = np.array([[math.cos(yaw), math.sin(yaw), 0], [-math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
            distance, normal = surface(o, (points[mine.numpy()] - position) @ turn.T)
            assert np.abs(distance).max() < 1e-3
            # edges of a cube or a cylinder have two normals
            off = np.abs(normals[mine.numpy()] @ turn.T - normal).max(-1) > 5e-3
            assert off.mean() < 0.05
            y, x = mine.nonzero().unbind(1)
            box = torch.stack([x.min() / 56, y.min() / 40, (x.max() + 1) / 56, (y.max() + 1) / 40])
            assert torch.equal(out.boxes[0, 0, n], box)
            amodal = out.amodal_boxes[0, 0, n]
            assert (amodal[:2] <= box[:2]).all() and (amodal[2:] >= box[2:]).all()
            whole = render(replace(scene, objects=(o,), floor=True), (t,), (40, 56), ("ids",)).ids > 0
            if not any(m.about for m in o.motion):
                assert out.visible[0, 0, n] == mine.sum() / whole.sum()


def test_amodal_box_is_tight_and_goes_past_the_frame():
    scene = Scene((SceneObject(1, "cylinder", "red", position=(2.4, 0.3, 0.0)),))
    narrow = render(scene, size=64, maps=("amodal_boxes", "boxes"))
    assert narrow.boxes[0, 0, 0, 2] == 1 < narrow.amodal_boxes[0, 0, 0, 2]
    wide = render(scene, size=(64, 128), maps=("amodal_boxes", "boxes"))
    assert (wide.boxes[0, 0, 0, 2] < 1) and wide.visible is None
    assert ((wide.amodal_boxes - wide.boxes).abs()[0, 0, 0] * torch.tensor([128, 64, 128, 64])).max() <= 2


def test_an_empty_scene_and_no_floor():
    out = render(Scene(), size=8, maps=MAPS)
    assert (out.ids == 0).all() and torch.isfinite(out.depth).all() and not out.occlusion.any()
    assert out.boxes.shape == (1, 1, 1, 4) and out.boxes.isnan().all() and (out.object_ids == 0).all()
    nothing = render(Scene(floor=False), size=8, maps=MAPS)
    assert (nothing.rgb == 0).all() and nothing.depth.isinf().all() and (nothing.normals == 0).all()
    assert (nothing.flow == 0).all() and nothing.occlusion.all()
    assert tracks(Scene(), (0, 1))[0].shape == (2, 0, 2)


@pytest.mark.parametrize("position", [(30.0, 0.0, 0.0), (0.0, -9.0, 0.0), (0.0, 400.0, 0.0)])
def test_an_object_off_screen_or_behind_the_camera_is_not_seen(position):
    inside = SceneObject(1, "cube", "red")
    scene = Scene((inside, SceneObject(2, "sphere", "blue", position=position)))
    out, alone = (render(s, size=16, maps=MAPS) for s in (scene, Scene((inside,))))
    for name in PIXEL_MAPS:
        assert equal(getattr(out, name), getattr(alone, name)), name
    assert out.boxes[0, 0, 1].isnan().all() and out.visible[0, 0, 1] == 0
    assert set(tracks(scene, (0,), 4, 16)[2].tolist()) == {1}


def test_a_camera_inside_a_solid_and_one_among_solids_see_what_is_there():
    inside = Scene((SceneObject(1, "cube", "red", position=(0.0, -5.6, 3.0)),))
    out = render(inside, size=6, maps=MAPS)
    assert (out.ids == 1).all() and (out.depth < 2).all()
    # one solid reaches behind the camera's plane
    near = Scene((SceneObject(1, "cylinder", "red", position=(0.5, -5.2, 2.4)),), floor=False)
    seen = render(near, size=24, maps=("ids", "depth", "rgb"))
    assert 0.2 < (seen.ids == 1).float().mean() < 1 and (seen.depth[seen.ids == 1] > 0).all()


def test_a_hidden_object_has_no_box_but_an_amodal_one():
    hider = SceneObject(1, "cube", "red", position=(0.0, -0.5, 0.0))
    hidden = SceneObject(2, "sphere", "blue", "small", position=(0.0, 0.9, 0.0))
    out = render(Scene((hider, hidden)), size=32, maps=MAPS)
    assert out.boxes[0, 0, 1].isnan().all() and out.visible[0, 0, 1] == 0
    assert torch.isfinite(out.amodal_boxes).all() and out.visible[0, 0, 0] == 1


def test_a_picture_of_one_pixel():
    out = render(one("sphere"), size=1, maps=MAPS)
    assert out.rgb.shape == (1, 1, 3, 1, 1) and out.ids.item() == 1
    assert out.boxes[0, 0, 0].tolist() == [0, 0, 1, 1]
    assert render(one("sphere"), size=(1, 5), maps=("ids",)).ids.shape == (1, 1, 1, 5)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"maps": ("rgb", "colour")}, "maps"),
        ({"maps": ()}, "maps"),
        ({"size": 0}, "size"),
        ({"size": (8, -1)}, "size"),
        ({"size": 8.5}, "size"),
        ({"times": ()}, "times"),
        ({"times": (0.0, math.nan)}, "times"),
        ({"scenes": []}, "scenes"),
        ({"colours": torch.zeros(2, 1, 3)}, "colours"),
        ({"positions": torch.zeros(1, 3)}, "positions"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        render(**({"scenes": one("cube")} | arguments))


def test_tracks_refuse_bad_arguments():
    with pytest.raises(ValueError, match="`points_per_object`"):
        tracks(one("cube"), (0,), 0)
    with pytest.raises(ValueError, match="`times`"):
        tracks(one("cube"), ())


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_through_shading_are_finite_and_those_of_differences(shape):
    scene = one(shape, material="shiny", pattern="striped")
    # a single face is bright and away from edges; there the picture is smooth in the position
    base = torch.zeros(1, 1, 1, 3)
    colours = torch.tensor([[[0.2, 0.5, 0.3]]])

    def picture(position, colour):
        return render(scene, size=24, maps=("rgb",), colours=colour, positions=position).rgb[0, 0]

    step, smooth = 4e-3, torch.ones(24, 24, dtype=torch.bool)
    differences = []
    middle = picture(base, colours)
    for axis in range(3):
        move = torch.zeros(1, 1, 1, 3)
        move[..., axis] = step
        plus, minus = picture(base + move, colours), picture(base - move, colours)
        differences.append((plus - minus) / (2 * step))
        # an edge, a stripe or a shadow jumps; shading does not
        smooth &= ((plus + minus - 2 * middle).abs().amax(0) < 2e-3) & ((plus - minus).abs().amax(0) < 0.03)
    smooth &= render(scene, size=24, maps=("ids",)).ids[0, 0] == 1
    smooth &= (middle < 0.99).all(0)
    assert smooth.sum() > 15
    for axis in range(3):
        position = base.clone().requires_grad_()
        colour = colours.clone().requires_grad_()
        weight = (torch.arange(24 * 24 * 3).reshape(3, 24, 24) % 7 / 7 + 0.2) * smooth
        grad, by_colour = torch.autograd.grad((picture(position, colour) * weight).sum(), (position, colour))
        expected = (differences[axis] * weight).sum()
        assert torch.isfinite(grad).all() and torch.isfinite(by_colour).all()
        scale = (differences[axis].abs() * weight).sum().item()
        assert abs(grad[0, 0, 0, axis] - expected) < 0.02 * scale + 0.01
    nudged = colours + torch.tensor([0.05, 0.0, 0.0])
    change = ((picture(base, nudged) - middle) * weight).sum() / 0.05
    assert by_colour[0, 0, 0] == pytest.approx(change.item(), rel=2e-3) and by_colour[0, 0, 0] > 0


def test_gradients_of_the_whole_picture_are_finite():
    scene = moving(60)
    assert not render(scene, size=8).rgb.requires_grad
    positions = torch.zeros(1, 2, 4, 3)
    for n, o in enumerate(scene.objects):
        positions[0, :, n] = torch.tensor(o.position)
    positions.requires_grad_()
    maps = [name for name in MAPS if name not in ("flow", "occlusion")]
    with pytest.raises(ValueError, match="`positions`"):
        render(scene, (0, 2), 16, MAPS, positions=positions)
    out = render(scene, (0, 2), 16, maps, positions=positions)
    (out.rgb.sum() + out.depth.sum() + out.normals.sum()).backward()
    assert torch.isfinite(positions.grad).all() and (positions.grad != 0).any()


def test_a_mirrored_scene_is_the_mirrored_picture():
    scene = sample_scene("mirror", 1, num_objects=4, patterns=("plain",))
    flipped = tuple(replace(o, position=(-o.position[0], *o.position[1:]), yaw=-o.yaw) for o in scene.objects)
    light = scene.light.direction
    other = replace(scene, objects=flipped, light=replace(scene.light, direction=(-light[0], *light[1:])))
    a, b = (render(s, size=32, maps=("rgb", "ids", "boxes")) for s in (scene, other))
    assert (a.ids == b.ids.flip(-1)).float().mean() > 0.995
    assert ((a.rgb - b.rgb.flip(-1)).abs() < 1e-4).float().mean() > 0.99
    assert ((a.boxes[..., 0] - (1 - b.boxes[..., 2])).abs() <= 1 / 32 + 1e-6).all()


def test_the_light_throws_shadows_away_from_itself():
    scene = Scene((SceneObject(1, "sphere", "red"),), light=Light((-1.0, 0.0, 1.0), 0.3))
    floor = render(scene, size=64).rgb[0, 0].sum(0)
    lit = floor.max()
    row, left, right = 34, floor[34, :20], floor[34, 44:]
    assert row and (left > 0.9 * lit).all() and right.min() < 0.5 * lit
    night = render(replace(scene, light=Light((0.0, 0.0, -1.0), 0.3)), size=8).rgb
    assert night.max() < 0.3 + 1e-6


def test_a_turning_striped_sphere_is_seen_to_turn():
    turn = (Motion("turn", 0, 8, "clockwise", 1.0),)
    for pattern, changes in (("striped", True), ("plain", False)):
        scene = Scene((SceneObject(1, "sphere", "yellow", pattern=pattern, motion=turn),), Camera())
        out = render(scene, (0, 2), 24, ("albedo",)).albedo[0]
        assert bool((out[0] - out[1]).abs().max() > 0.1) == changes
