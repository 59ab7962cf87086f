import itertools
import math
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample, max_pool2d

from wm_pipelines.diorama.cameras import camera_matrices, ring_cameras
from wm_pipelines.diorama.motion import pose_at, sample_motion
from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.render import MAPS, render, tracks
from wm_pipelines.diorama.scene import Camera, Scene, SceneObject, sample_scene


def moving(i: int, count: int = 3, chequered: bool = False) -> Scene:
    scene = sample_motion(sample_scene("cameras test", i, num_objects=count), "cameras test", i)
    return replace(scene, floor_pattern="chequered" if chequered else "plain")


def rig(count: int = 3, **options) -> list[Camera]:
    """Cameras around the scene, each of which moves in a way of its own."""
    ways = (("orbit", "clockwise", 0.3), ("dolly", "forward", 0.3), ("pan", "left", 0.1))
    moves = cycle(Motion(kind, 0, 12, way, speed) for kind, way, speed in ways)
    return [replace(c, motion=(next(moves),)) for c in ring_cameras(count, radius=6.5, **options)]


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit-equal, also where both are NaN."""
    if a.is_floating_point():
        a, b = a.contiguous().view(torch.int32), b.contiguous().view(torch.int32)
    return torch.equal(a, b)


@pytest.mark.parametrize(
    ("count", "radius", "elevation", "fov", "start"),
    [(1, 4.2, 32, 42, 0), (8, 4.2, 32, 42, 0), (5, 7.0, 0, 60, 33), (3, 2.5, 89, 30, -200)],
)
def test_a_ring_stands_evenly_around_its_target(count, radius, elevation, fov, start):
    target = (0.3, -0.2, 0.5)
    ring = ring_cameras(count, radius, elevation, fov, target, start)
    away = np.array([c.eye for c in ring]) - target
    assert len(ring) == count and all(c.target == target and c.fov_deg == fov and not c.motion for c in ring)
    assert np.linalg.norm(away, axis=1) == pytest.approx(radius, rel=1e-5)
    assert away[:, 2] == pytest.approx(radius * math.sin(math.radians(elevation)), abs=1e-5)
    angles = np.unwrap(np.arctan2(away[:, 0], -away[:, 1]))
    assert np.cos(angles[0] - math.radians(start)) == pytest.approx(1)
    assert np.diff(angles) == pytest.approx(2 * math.pi / count, abs=1e-4)


def test_the_ring_of_the_field_is_the_default_and_starts_in_front():
    assert ring_cameras(8) == ring_cameras(8, radius=4.2, elevation_deg=32.0, fov_deg=42.0)
    own = Camera()
    radius = math.dist(own.eye, own.target)
    front = ring_cameras(4, radius, math.degrees(math.asin((own.eye[2] - own.target[2]) / radius)))[0]
    assert front.eye == pytest.approx(own.eye, abs=1e-6)


@pytest.mark.parametrize("chequered", [False, True])
def test_one_camera_of_many_is_that_camera_alone_bit_for_bit(chequered):
    scenes = [moving(0, chequered=chequered), moving(1, 1), Scene()]
    cameras = [scenes[0].camera, *rig(2), Camera(eye=(0.5, -4.0, 0.6), target=(0.0, 0.0, 0.8))]
    many = render(scenes, (2, 5.5), (20, 28), MAPS, cameras=cameras)
    assert many.rgb.shape == (3, 4, 2, 3, 20, 28) and many.boxes.shape == (3, 4, 2, 3, 4)
    assert many.visible.shape == (3, 4, 2, 3) and many.object_ids.tolist() == [[1, 2, 3], [1, 0, 0], [0, 0, 0]]
    own = render(scenes, (2, 5.5), (20, 28), MAPS)
    for name in MAPS:
        assert equal(getattr(many, name)[:, 0], getattr(own, name)), name
    for v, camera in enumerate(cameras):
        alone = render(scenes[0], (2, 5.5), (20, 28), MAPS, cameras=[camera])
        for name in MAPS:
            assert equal(getattr(alone, name)[0, 0], getattr(many, name)[0, v]), name


def test_a_scene_at_rest_is_what_its_camera_alone_would_see():
    scene = sample_scene("cameras test", 5, num_objects=4)
    ring = ring_cameras(3)
    many = render(scene, size=24, maps=MAPS, cameras=ring)
    for v, camera in enumerate(ring):
        alone = render(replace(scene, camera=camera), size=24, maps=MAPS)
        assert all(equal(getattr(many, name)[0, v], getattr(alone, name)[0]) for name in MAPS)


def test_nothing_changes_in_a_scene_at_rest_before_cameras_at_rest():
    scene = replace(sample_scene("cameras test", 6, num_objects=3), floor_pattern="chequered")
    out = render(scene, (0, 3, 7), 24, MAPS, cameras=ring_cameras(4))
    for name in MAPS:
        value = getattr(out, name)[0]
        assert equal(value[:, 1], value[:, 0]) and equal(value[:, 2], value[:, 0]), name
    assert out.flow.abs().max() < 1e-4


def lifted(depth: torch.Tensor, k: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) float64 world points of the pixel centres."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) + 0.5 for n in depth.shape), indexing="ij")
    z = depth.double()
    local = torch.stack([(x - k[0, 2]) / k[0, 0] * z, (y - k[1, 2]) / k[1, 1] * z, z], -1)
    return (local - pose[:3, 3]) @ pose[:3, :3]


def projected(points: torch.Tensor, k: torch.Tensor, pose: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    q = points @ pose[:3, :3].T + pose[:3, 3]
    p = q @ k.T
    return p[..., :2] / p[..., 2:], q[..., 2]


def corners(values: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(4, P) values of the pixels around places (P, 2) that lie well inside, and their bilinear weights."""
    low = (place - 0.5).floor()
    u, v = (place - 0.5 - low).unbind(-1)
    x, y = low.long().unbind(-1)
    weights = torch.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])
    return torch.stack([values[y, x], values[y, x + 1], values[y + 1, x], values[y + 1, x + 1]]), weights


def test_a_point_that_one_camera_sees_is_where_the_others_see_it():
    """Depth lifts pixels to world points, which other cameras see at the same place, with the same id and depth."""
    size, seen = 72, {"floor": 0, "solids": 0, "hidden": 0}
    for i, t in ((10, 0.0), (11, 4.0), (12, 7.5)):
        scene, cameras = moving(i), rig(3, elevation_deg=25.0 + i)
        out = render(scene, (t,), size, ("ids", "depth", "normals"), cameras=cameras)
        k, poses = camera_matrices(scene, (t,), size, cameras)
        eyes = -(poses[:, 0, :3, :3].mT @ poses[:, 0, :3, 3:])[..., 0]
        for a, b in itertools.permutations(range(3), 2):
            ids, depth = out.ids[0, a, 0], out.depth[0, a, 0]
            points = lifted(depth, k[a], poses[a, 0])
            place, z = projected(points, k[b], poses[b, 0])
            normals = out.normals[0, a, 0].movedim(0, -1).double()
            facing = torch.nn.functional.cosine_similarity(normals, eyes[b] - points, dim=-1)
            inside = ((place > 1) & (place < size - 1)).all(-1) & depth.isfinite() & (z > 0)
            place, z, facing, ids = place[inside], z[inside], facing[inside], ids[inside]
            around, weights = corners(out.ids[0, b, 0], place)
            inverse = (corners(1 / out.depth[0, b, 0].double(), place)[0] * weights).sum(0)
            same = (around == ids).all(0)
            floor, front = same & (ids == 0), same & (ids > 0) & (facing > 0.3)
            # the inverse depth of a plane is linear in the picture
            assert (inverse * z - 1)[floor].abs().max() < 1e-4
            # solids are round; a solid's point may be behind another part of it only where it faces away
            assert (inverse * z - 1)[front].abs().median() < 2e-3 and (inverse * z - 1)[front].abs().max() < 0.06
            # nothing that is seen lies in front of what the other camera sees there
            assert (inverse * z - 1)[same].min() > -0.06
            # where something else turns up, that is before it (a tip may slip through between four pixels)
            other = (around != ids).all(0) & (around == around[0]).all(0) & ((ids == 0) | (facing > 0.3))
            assert ((inverse * z)[other] > 0.99).float().mean() > 0.98
            seen["hidden"] += other.sum()
            seen["floor"] += floor.sum()
            seen["solids"] += front.sum()
    assert seen["floor"] > 5000 and seen["solids"] > 700 and seen["hidden"] > 500


def silhouette(ids: torch.Tensor) -> torch.Tensor:
    """(H, W) bool: pixels whose 3 x 3 neighbourhood shows more than one id."""
    x = ids[None].double()
    return (max_pool2d(x, 3, 1, 1) != -max_pool2d(-x, 3, 1, 1))[0]


@pytest.mark.parametrize("chequered", [False, True])
def test_flow_leads_to_the_same_colour_in_the_next_frame_of_every_view(chequered):
    errors, moved = [], 0
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    for i in range(2):
        cameras = [*rig(3), ring_cameras(1, 6.0, start_deg=70)[0]]
        maps = ("albedo", "flow", "occlusion", "ids")
        out = render(moving(20 + i, chequered=chequered), (4, 5), 64, maps, cameras=cameras)
        for v in range(4):
            albedo, flow, occlusion, ids = (getattr(out, n)[0, v] for n in ("albedo", "flow", "occlusion", "ids"))
            target = torch.stack([x, y], -1) + flow[0].movedim(0, -1)
            grid = (target / 32 - 1)[None]
            warped = grid_sample(albedo[1:2], grid, align_corners=False)[0]
            edge = grid_sample(silhouette(ids[1]).float()[None, None], grid, align_corners=False)[0, 0]
            fair = ((target > 1) & (target < 63)).all(-1) & ~occlusion[0] & ~silhouette(ids[0]) & (edge == 0)
            assert fair.float().mean() > 0.5
            moved += (flow[0].norm(dim=0) > 0.2)[fair & (ids[0] > 0)].sum()
            errors.append((warped - albedo[0]).abs().mean(0)[fair].mean())
    assert moved > 150
    assert max(errors) < 0.02


def test_flow_of_the_floor_is_that_of_the_matrices():
    scene, cameras = moving(24), rig(3)
    out = render(scene, (3,), 32, ("ids", "depth", "flow"), cameras=cameras)
    k, poses = camera_matrices(scene, (3, 4), 32, cameras)
    for v in range(3):
        floor = out.ids[0, v, 0] == 0
        points = lifted(out.depth[0, v, 0], k[v], poses[v, 0])
        now, then = (projected(points, k[v], poses[v, t])[0] for t in (0, 1))
        assert ((then - now)[floor].T - out.flow[0, v, 0][:, floor]).abs().max() < 2e-3


def test_boxes_and_visible_shares_are_those_of_every_view():
    scene, cameras = moving(25), rig(4)
    out = render(scene, (0, 6), 48, ("ids", "boxes", "amodal_boxes", "visible"), cameras=cameras)
    found = 0
    for v, t, n in itertools.product(range(4), range(2), range(3)):
        mine = out.ids[0, v, t] == scene.objects[n].id
        box, amodal = out.boxes[0, v, t, n], out.amodal_boxes[0, v, t, n]
        if not mine.any():
            assert box.isnan().all() and out.visible[0, v, t, n] == 0
            continue
        y, x = mine.nonzero().unbind(1)
        assert torch.equal(box, torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 48)
        assert (amodal[:2] <= box[:2]).all() and (amodal[2:] >= box[2:]).all() and 0 < out.visible[0, v, t, n] <= 1
        found += 1
    assert found > 15


def test_tracks_are_the_same_points_in_every_view():
    scene, cameras, times = moving(30), rig(3), (0, 3, 6)
    xy, visible, ids = tracks(scene, times, 8, 64, cameras=cameras)
    assert xy.shape == (3, 3, len(ids), 2) and visible.shape == (3, 3, len(ids)) and set(ids.tolist()) == {1, 2, 3}
    assert visible[:, 0].any(0).all()  # each was chosen where a camera sees it at first
    k, poses = camera_matrices(scene, times, 64, cameras)
    out = render(scene, times, 64, ("ids", "depth"), cameras=cameras)
    checked = 0
    for v, t in itertools.product(range(3), range(3)):
        at = xy[v, t].floor().long()
        inside = visible[v, t] & ((at >= 0) & (at < 64)).all(-1)
        edge = silhouette(out.ids[0, v, t])
        shown = inside & ~edge[at[:, 1].clamp(0, 63), at[:, 0].clamp(0, 63)]
        assert torch.equal(out.ids[0, v, t][at[shown, 1], at[shown, 0]], ids[shown])
        # lines of sight from two cameras meet in the point
        w = (v + 1) % 3
        both = shown & visible[w, t]
        for p in both.nonzero()[:, 0].tolist():
            rows = []
            for camera in (v, w):
                m = k[camera] @ poses[camera, t, :3]
                rows += [xy[camera, t, p, 0].double() * m[2] - m[0], xy[camera, t, p, 1].double() * m[2] - m[1]]
            point = torch.linalg.svd(torch.stack(rows)).Vh[-1]
            z = projected(point[:3] / point[3], k[v], poses[v, t])[1]
            assert z == pytest.approx(out.depth[0, v, t][at[p, 1], at[p, 0]].item(), rel=0.1)
            checked += 1
    assert checked > 20
    alone = tracks(scene, times, 8, 64, seed=3)
    same = tracks(scene, times, 8, 64, seed=3, cameras=[scene.camera])
    assert equal(same[0][0], alone[0]) and torch.equal(same[1][0], alone[1]) and torch.equal(same[2], alone[2])


def test_matrices_of_a_scene_alone_and_of_cameras():
    scene = replace(moving(31), camera=rig(1)[0])
    k, pose = camera_matrices(scene, (0, 2), (30, 40))
    many_k, many = camera_matrices(scene, (0, 2), (30, 40), [scene.camera, Camera()])
    assert k.shape == (3, 3) and pose.shape == (2, 4, 4) and many_k.shape == (2, 3, 3) and many.shape == (2, 2, 4, 4)
    assert k.dtype == pose.dtype == torch.float64 and torch.equal(many_k[0], k) and torch.equal(many[0], pose)
    assert torch.equal(many[1, 0], many[1, 1]) and not torch.equal(pose[0], pose[1])
    out = render(scene, (0, 2), (30, 40), ("amodal_boxes",)).amodal_boxes[0]
    for t, time in enumerate((0, 2)):
        for n, o in enumerate(scene.objects):
            centre = pose_at(o, scene, time)[0] + torch.tensor([0, 0, o.height / 2])
            xy = projected(centre, k, pose[t])[0] / torch.tensor([40, 30])
            assert (out[t, n, :2] < xy).all() and (xy < out[t, n, 2:]).all()


def test_direction_words_stay_those_of_the_scenes_own_camera():
    ball = SceneObject(1, "sphere", "red", motion=(Motion("translate", 0, 8, "right", 1.0),))
    back = ring_cameras(1, 8.0, start_deg=180)
    out = render(Scene((ball,)), (0, 8), 32, ("boxes",), cameras=[Camera(), *back])
    middle = (out.boxes[0, :, :, 0, 0] + out.boxes[0, :, :, 0, 2]) / 2
    assert middle[0, 1] > middle[0, 0] + 0.1 and middle[1, 1] < middle[1, 0] - 0.1


def test_gradients_of_several_views_add_up():
    scene = moving(32, 2)
    cameras = ring_cameras(2, 6.0)

    def gradients(seen):
        colours = torch.rand(1, 2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
        positions = torch.tensor([[[o.position for o in scene.objects]]], requires_grad=True)
        out = render(scene, (0,), 24, ("rgb", "depth"), colours=colours, positions=positions, cameras=seen)
        (out.rgb.square().sum() + out.depth.sum()).backward()
        return colours.grad, positions.grad

    both, first, second = gradients(cameras), gradients(cameras[:1]), gradients(cameras[1:])
    for a, b, c in zip(both, first, second, strict=True):
        assert a.abs().sum() > 0
        torch.testing.assert_close(a, b + c, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: ring_cameras(0), "count"),
        (lambda: ring_cameras(2.5), "count"),
        (lambda: ring_cameras(3, radius=-1.0), "radius"),
        (lambda: ring_cameras(3, radius=math.nan), "radius"),
        (lambda: ring_cameras(3, elevation_deg=90.0), "elevation_deg"),
        (lambda: ring_cameras(3, elevation_deg=-5.0), "elevation_deg"),
        (lambda: ring_cameras(3, fov_deg=170.0), "fov_deg"),
        (lambda: ring_cameras(3, fov_deg=0.0), "fov_deg"),
        (lambda: ring_cameras(3, target=(0.0, math.inf, 0.0)), "target"),
        (lambda: ring_cameras(3, target=(0.0, 0.0)), "target"),
        (lambda: ring_cameras(3, start_deg=math.inf), "start_deg"),
        (lambda: Camera(eye=(0.0, 0.0, 5.0)), "eye"),
        (lambda: render(Scene(), cameras=[]), "cameras"),
        (lambda: render(Scene(), cameras=Camera()), "cameras"),
        (lambda: render(Scene(), cameras=[Camera(), "front"]), "cameras"),
        (lambda: tracks(Scene(), (0,), cameras=()), "cameras"),
        (lambda: camera_matrices(Scene(), (0,), 64, [None]), "cameras"),
        (lambda: camera_matrices(Scene(), ()), "times"),
        (lambda: camera_matrices(Scene(), (0,), 0), "size"),
    ],
)
def test_bad_values_are_refused_by_name(call, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        call()
