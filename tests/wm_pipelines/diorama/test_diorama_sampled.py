import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp
from torch.nn.functional import grid_sample, max_pool2d

from wm_pipelines.diorama.language import caption, motion_words, said_motion, scene_graph
from wm_pipelines.diorama.motion import centre_at, pose_at, sample_motion, scene_at
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.primitives import Motion, sampled_motion
from wm_pipelines.diorama.render import MAPS, render, tracks
from wm_pipelines.diorama.rotations import UPRIGHT, leaning, product, yaw_and_tilt
from wm_pipelines.diorama.scene import (
    SHAPES,
    Camera,
    Scene,
    SceneObject,
    clear_relations,
    focal,
    look_at,
    project,
    rough_boxes,
)
from wm_pipelines.runtime.random import keyed

LYING = (math.cos(math.pi / 4), math.sin(math.pi / 4), 0.0, 0.0)


def tumble(rng: np.random.Generator, place, frames: int = 8) -> Motion:
    """A walk through all rotations, at most half a radian a frame, and through the air near `place`."""
    turns = Rotation.random(random_state=int(rng.integers(1 << 30)))
    quaternions = []
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    for _ in range(frames):
        x, y, z, w = turns.as_quat()
        quaternions.append((w, x, y, z))
        turns = Rotation.from_rotvec(axis * rng.uniform(0.2, 0.5)) * turns
    steps = np.cumsum(rng.uniform(-0.12, 0.12, (frames, 3)), axis=0)
    return sampled_motion(range(frames), np.array(place) + steps - steps[0], quaternions)


def tumbling(seed: int, shapes=SHAPES, camera: bool = False) -> Scene:
    rng = keyed("tumbling", seed)
    objects = []
    for n, shape in enumerate(shapes):
        place = (-1.4 + 0.95 * n, rng.uniform(-0.6, 1.2), rng.uniform(0.7, 1.3))
        motion = tumble(rng, place)
        yaw, tilt = yaw_and_tilt(motion.quaternions[0])
        look = {"pattern": "striped", "material": ("matte", "shiny")[n % 2], "size": ("small", "large")[n == seed % 4]}
        objects.append(
            SceneObject(
                n + 1,
                shape,
                ("red", "green", "blue", "yellow")[n],
                position=motion.positions[0],
                yaw=yaw,
                tilt=tilt,
                motion=(motion,),
                **look,
            )  # fmt: skip
        )
    path = (Motion("orbit", 0, 8, "clockwise", 0.3),) if camera else ()
    return Scene(tuple(objects), Camera(motion=path), duration=8)


# --- poses ----------------------------------------------------------------------------------------------------------


def test_poses_are_the_samples_at_their_times_and_between_them_as_scipy_has_it():
    for seed in range(5):
        scene = tumbling(seed)
        o = scene.objects[seed % 4]
        m = o.motion[0]
        position, quaternion = pose_at(o, scene, torch.tensor(m.times))
        assert position.tolist() == [list(p) for p in m.positions]
        assert quaternion.tolist() == [list(q) for q in m.quaternions]
        t = torch.from_numpy(keyed("times", seed).uniform(0, m.times[-1], 20))
        position, quaternion = pose_at(o, scene, t)
        for axis in range(3):
            np.testing.assert_allclose(position[:, axis], np.interp(t, m.times, np.array(m.positions)[:, axis]))
        w, x, y, z = np.array(m.quaternions).T
        expected = Slerp(m.times, Rotation.from_quat(np.stack([x, y, z, w], 1)))(t)
        ours = Rotation.from_quat(quaternion[:, [1, 2, 3, 0]].numpy())
        assert (expected.inv() * ours).magnitude().max() < 1e-7
        for early, late in ((-3.0, 0.0), (50.0, m.times[-1])):
            torch.testing.assert_close(pose_at(o, scene, early), pose_at(o, scene, late), rtol=0, atol=0)


def test_a_quaternion_and_its_negative_are_the_same_way_to_go():
    a, b = (1.0, 0.0, 0.0, 0.0), tuple(-v for v in leaning(0.6, UPRIGHT))
    o = SceneObject(1, "cube", "red", motion=(sampled_motion((0, 4), [(0, 0, 0)] * 2, (a, b)),))
    yaw, tilt = yaw_and_tilt(pose_at(o, Scene((o,)), 2.0)[1].tolist())
    assert yaw == pytest.approx(0.3) and tilt == UPRIGHT


def test_poses_are_differentiable_in_time():
    scene = tumbling(1)
    # 6.999: two samples apart; a sample itself is a kink
    t = torch.tensor([0.3, 2.5, 6.999, 9.0], dtype=torch.float64, requires_grad=True)
    for o in scene.objects:
        assert torch.autograd.gradcheck(lambda t, o=o: pose_at(o, scene, t), t)
    same = [(0.0, 0.0, 0.0)] * 3
    rest = SceneObject(1, "cube", "red", motion=(sampled_motion((0, 1, 5), same, [UPRIGHT] * 3),))
    assert torch.autograd.gradcheck(lambda t: pose_at(rest, Scene((rest,)), t), t)


def test_an_object_orbits_one_whose_motion_is_sampled():
    path = sampled_motion((0, 8), ((0, 0, 0), (0, 1, 0)), (UPRIGHT, LYING))
    centre = SceneObject(2, "cone", "blue", motion=(path,))
    orbit = Motion("orbit", 0, 8, "clockwise", 1.0, about=2)
    scene = Scene((SceneObject(1, "cube", "red", position=(1, 0, 0), motion=(orbit,)), centre))
    for t in (1.0, 4.0, 8.0):
        moon, middle = (pose_at(o, scene, t)[0].tolist() for o in scene.objects)
        assert math.dist(moon, middle) == pytest.approx(1)


def test_scene_at_keeps_the_tilt_and_renders_the_same():
    for seed in range(3):
        scene = tumbling(seed, camera=True)
        for t in (0.0, 2.25, 7.0):
            still = scene_at(scene, t)
            assert all(o.motion == () for o in still.objects)
            for a, b in zip(scene.objects, still.objects, strict=True):
                p, q = pose_at(a, scene, t)
                assert still.object(a.id).position == tuple(p.tolist())
                assert abs(sum(x * y for x, y in zip(q.tolist(), b.quaternion, strict=True))) == pytest.approx(1)
            a, b = (render(s, (u,), 24, ("ids", "depth")) for s, u in ((scene, t), (still, 0.0)))
            assert (a.ids == b.ids).float().mean() > 0.995
            assert ((a.depth - b.depth).abs() < 1e-3).float().mean() > 0.99


def test_a_tilted_solid_turns_about_the_vertical_and_moves_as_upright_ones_do():
    moves = (Motion("turn", 0, 8, "counterclockwise", 1.0), Motion("translate", 0, 8, (1, 0, 0), 0.5))
    o = SceneObject(1, "cylinder", "red", yaw=0.2, tilt=LYING, motion=moves)
    scene = Scene((o,))
    position, quaternion = pose_at(o, scene, 8.0)
    assert position.tolist() == pytest.approx([0.5, 0, 0])
    assert quaternion.tolist() == pytest.approx(list(leaning(1.2, LYING)))
    later = scene_at(scene, 8.0).objects[0]
    assert (later.yaw, later.tilt) == (pytest.approx(1.2), LYING)


def test_json_keeps_every_bit_and_says_nothing_new_of_older_scenes():
    for seed in range(2):
        scene = tumbling(seed)
        again = Scene.from_json(scene.to_json())
        assert again == scene and hash(again) == hash(scene)
        a, b = (render(s, (0, 3.7), 16, MAPS) for s in (scene, again))
        assert all(torch.equal(getattr(a, n).nan_to_num(-1.0), getattr(b, n).nan_to_num(-1.0)) for n in MAPS)
    old = Scene((SceneObject(1, "cube", "red", motion=(Motion("turn", 0, 4, "clockwise", 1.0),)),))
    assert not {"tilt", "times", "positions", "quaternions"} & set(old.to_json().replace('"', " ").split())
    assert Scene.from_json(old.to_json()) == old


def test_yaw_and_tilt_are_the_rotation_in_two_parts():
    for seed in range(50):
        x, y, z, w = Rotation.random(random_state=seed).as_quat()
        yaw, tilt = yaw_and_tilt((w, x, y, z))
        assert tilt[3] == 0 and math.hypot(*tilt) == pytest.approx(1)
        assert abs(np.dot(leaning(yaw, tilt), (w, x, y, z))) == pytest.approx(1)
    assert yaw_and_tilt((0.0, 1.0, 0.0, 0.0)) == (0.0, (0.0, 1.0, 0.0, 0.0))  # upside down, any yaw would do
    a, b = Rotation.random(2, random_state=3)
    x, y, z, w = (a * b).as_quat()
    ours = product(*(tuple(r.as_quat()[[3, 0, 1, 2]]) for r in (a, b)))
    assert abs(np.dot(ours, (w, x, y, z))) == pytest.approx(1)


# --- pictures -------------------------------------------------------------------------------------------------------


def silhouette(ids: torch.Tensor) -> torch.Tensor:
    x = ids[None].double()
    return (max_pool2d(x, 3, 1, 1) != -max_pool2d(-x, 3, 1, 1))[0]


def off_surface(o: SceneObject, p: np.ndarray) -> np.ndarray:
    """How far local points are from the solid's surface, metres."""
    half, height = o.half_width, o.height
    radial, z = np.hypot(p[:, 0], p[:, 1]), p[:, 2]
    if o.shape == "sphere":
        return np.abs(np.linalg.norm(p - (0, 0, half), axis=1) - half)
    if o.shape == "cube":
        return np.abs(np.abs(p - (0, 0, height / 2)).max(1) - half)
    side = half if o.shape == "cylinder" else half * (1 - z / height)
    ends = np.abs(z) if o.shape == "cone" else np.minimum(np.abs(z), np.abs(z - height))
    return np.minimum(ends, np.abs(radial - side))


def unproject(view: Camera, x, y, depth, aspect: float = 1.0) -> np.ndarray:
    """World points (N, 3) of frame coordinates and depths (N,)."""
    scale, axes = focal(view, 1), look_at(view.eye, view.target)
    return np.stack([(x - 0.5) * aspect / scale * depth, (y - 0.5) / scale * depth, depth], 1) @ axes + view.eye


@pytest.mark.parametrize("camera", [False, True])
def test_all_maps_of_tumbling_solids_agree(camera):
    for seed in range(3):
        scene, t = tumbling(10 + seed, camera=camera), 2.0 + seed
        out = render(scene, (t,), (48, 64), MAPS)
        ids, depth, normals = out.ids[0, 0], out.depth[0, 0], out.normals[0, 0].movedim(0, -1)
        view = scene_at(scene, t).camera
        y, x = np.mgrid[:48, :64] + 0.5
        for n, o in enumerate(scene.objects):
            mine = (ids == o.id).numpy()
            assert mine.any()
            points = unproject(view, x[mine] / 64, y[mine] / 48, depth.numpy()[mine], 64 / 48)
            position, q = (v.numpy() for v in pose_at(o, scene, t))
            turn = Rotation.from_quat(q[[1, 2, 3, 0]])
            local = turn.inv().apply(points - position)
            assert off_surface(o, local).max() < 2e-3
            # edges have two normals, and one of them may face away
            assert ((normals.numpy()[mine] * (np.array(view.eye) - points)).sum(1) > -1e-3).mean() > 0.97
            # a step against the normal leads off the surface
            inner = turn.inv().apply(points - 0.02 * normals.numpy()[mine] - position)
            assert (off_surface(o, inner) > 0.005).mean() > 0.9
            rows, columns = mine.nonzero()
            box = [columns.min() / 64, rows.min() / 48, (columns.max() + 1) / 64, (rows.max() + 1) / 48]
            assert out.boxes[0, 0, n].tolist() == pytest.approx(box)
            seen, amodal = out.boxes[0, 0, n], out.amodal_boxes[0, 0, n]
            assert (amodal[:2] <= seen[:2]).all() and (amodal[2:] >= seen[2:]).all()
            alone = render(replace(scene, objects=(o,), floor=False), (t,), (48, 64), ("ids", "amodal_boxes", "boxes"))
            assert out.visible[0, 0, n] == pytest.approx(mine.sum() / int((alone.ids > 0).sum()))
            grid = torch.tensor([64, 48, 64, 48])
            assert ((alone.amodal_boxes - alone.boxes)[0, 0, 0].abs() * grid).max() <= 2


@pytest.mark.parametrize("camera", [False, True])
def test_flow_of_tumbling_solids_leads_to_the_same_colour_in_the_next_frame(camera):
    errors, moved = [], 0
    for seed in range(4):
        scene, t = tumbling(20 + seed, camera=camera), 1.0 + seed
        out = render(scene, (t, t + 1), 64, ("albedo", "flow", "occlusion", "ids"))
        y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        target = torch.stack([x, y], -1) + out.flow[0, 0].movedim(0, -1)
        grid = (target / 32 - 1)[None]
        warped = grid_sample(out.albedo[:, 1], grid, align_corners=False)[0]
        edge = silhouette(out.ids[0, 1]).float()[None, None]
        fair = ((target > 1) & (target < 63)).all(-1) & ~out.occlusion[0, 0] & ~silhouette(out.ids[0, 0])
        fair &= grid_sample(edge, grid, align_corners=False)[0, 0] == 0
        on = fair & (out.ids[0, 0] > 0)
        moved += (out.flow[0, 0].norm(dim=0) > 0.5)[on].sum()
        errors.append((warped - out.albedo[0, 0]).abs().mean(0)[fair].mean())
        # and it leads to the same solid
        there = grid_sample(out.ids[0, 1][None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
        assert (there[on] == out.ids[0, 0][on]).all()
    assert moved > 200 and max(errors) < 0.02


def test_tracks_stay_on_tumbling_solids_and_go_with_the_flow():
    for seed in range(3):
        scene = tumbling(30 + seed, camera=seed == 1)
        xy, visible, ids = tracks(scene, range(8), 10, 64, seed=seed)
        out = render(scene, range(8), 64, ("ids", "flow"))
        assert set(ids.tolist()) == {1, 2, 3, 4} and visible[0].all() and not visible.all()
        for t in range(8):
            at = xy[t][visible[t]].floor().long().clamp(0, 63)
            seen = ~silhouette(out.ids[0, t])[at[:, 1], at[:, 0]]
            assert (out.ids[0, t][at[:, 1], at[:, 0]] == ids[visible[t]])[seen].all()
        at = xy[0].floor().long()
        torch.testing.assert_close(xy[1] - xy[0], out.flow[0, 0][:, at[:, 1], at[:, 0]].T, atol=5e-4, rtol=0)


def test_shadows_of_tilted_solids_fall_where_light_is_blocked():
    for seed in range(3):
        scene = scene_at(tumbling(40 + seed), 3.0)
        out = render(scene, size=40, maps=("rgb", "ids", "depth"))
        shade, floor = out.rgb[0, 0].sum(0), (out.ids[0, 0] == 0) & ~silhouette(out.ids[0, 0])
        y, x = (floor & (shade < 0.47 * shade[floor].max())).nonzero().numpy()[::5].T
        assert len(y) > 5
        light = np.array(scene.light.direction)
        for start in unproject(scene.camera, (x + 0.5) / 40, (y + 0.5) / 40, out.depth[0, 0].numpy()[y, x]):
            # an eye on the floor that looks at the light sees a solid in the middle of its picture
            eye = Camera(eye=tuple(start + light * 1e-3), target=tuple(start + light), fov_deg=1.0)
            assert render(replace(scene, camera=eye), size=3, maps=("ids",)).ids[0, 0].max() > 0


# --- boxes, relations, words ----------------------------------------------------------------------------------------


def test_rough_boxes_hold_tilted_solids():
    for seed in range(6):
        scene = scene_at(tumbling(50 + seed), 1.5)
        rough, drawn = rough_boxes(scene), render(scene, size=64, maps=("amodal_boxes",)).amodal_boxes[0, 0].numpy()
        assert (rough[:, :2] <= drawn[:, :2] + 1 / 64).all() and (rough[:, 2:] >= drawn[:, 2:] - 1 / 64).all()


def test_the_middle_of_a_tilted_solid_is_what_relations_and_graphs_go_by():
    for seed in range(6):
        scene, t = tumbling(60 + seed), 3.5
        still = scene_at(scene, t)
        for o in scene.objects:
            centre = centre_at(o, scene, t).tolist()
            assert list(still.object(o.id).centre) == pytest.approx(centre)
            axis = Rotation.from_quat(pose_at(o, scene, t)[1][[1, 2, 3, 0]].numpy()).apply((0, 0, 1))
            assert centre == pytest.approx((pose_at(o, scene, t)[0].numpy() + axis * o.height / 2).tolist())
        graph = scene_graph(scene, t)
        depths = project([o.centre for o in still.objects], still.camera)[1]
        assert {n.id: n.depth for n in graph.nodes} == pytest.approx(dict(zip((1, 2, 3, 4), depths, strict=True)))
        clear = clear_relations(still)
        for edge in graph.edges:
            assert (edge.predicate, edge.subject, edge.object) in clear
    # a long way from its base: a cone that points at the sphere is left of it by its middle, not by its base
    flat = leaning(-math.pi / 2, LYING)
    yaw, tilt = yaw_and_tilt(flat)
    cone = SceneObject(1, "cone", "red", position=(0.0, 0.0, 0.7), yaw=yaw, tilt=tilt)
    assert abs(cone.centre[2] - 0.7) < 1e-9 and abs(math.dist(cone.centre, cone.position) - cone.height / 2) < 1e-9


def path_of(*places, quaternion=UPRIGHT) -> SceneObject:
    motion = sampled_motion(range(len(places)), places, [quaternion] * len(places))
    yaw, tilt = yaw_and_tilt(quaternion)
    return SceneObject(1, "cube", "red", position=places[0], yaw=yaw, tilt=tilt, motion=(motion,))


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (((0, 0, 0), (0.4, 0, 0), (1, 0.1, 0)), "moving right"),
        (((0, 0, 0), (-0.4, 0, 0.3), (-1, 0.1, 0)), "moving left"),
        (((0, 0, 0), (0, 1, 0)), "moving away"),
        (((0, 1, 0), (0, 0, 0)), "moving towards the camera"),
        (((0, 0, 2), (0, 0, 0)), "moving down"),
        (((0, 0, 0), (1, 1, 0)), ""),  # neither right nor away
        (((0, 0, 0), (0.3, 0, 0)), ""),  # too little to say
        (((0, 0, 0), (1, 0, 0), (0, 0, 0)), ""),  # there and back
        (((0, 0, 0), (-0.3, 0, 0), (1, 0, 0)), ""),  # back and there
    ],
)
def test_a_sampled_motion_is_called_after_where_it_clearly_leads(places, words):
    scene = Scene((path_of(*places),), duration=4)
    text = caption(scene).text
    said = [(m.kind, m.direction) for m in parse_caption(text).motions[0]]
    if words:
        assert text.endswith(words) and said == [("translate", words.split()[1])]
    else:
        assert "moving" not in text and said == [] and said_motion(scene, 1) == ()
    with pytest.raises(ValueError, match="sampled"):
        motion_words(scene.objects[0].motion)


def test_captions_and_graphs_of_tumbling_scenes_read_back():
    for seed in range(4):
        scene = tumbling(70 + seed)
        for text in (caption(scene, seed=seed).text, caption(scene_at(scene, 4.0), seed=seed).text):
            parsed = parse_caption(text)
            assert {(o["colour"], o["shape"]) for o in parsed.objects} == {(o.colour, o.shape) for o in scene.objects}
        assert len(scene_graph(scene, 2.0).nodes) >= 3
    beside = SceneObject(9, "cube", "white", "small", position=(0.3, -1.6, 0.0))
    assert sample_motion(replace(scene, objects=(*scene.objects, beside)), "beside").duration == 8


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"times": (0,), "positions": [(0, 0, 0)], "quaternions": [UPRIGHT]}, "times"),
        ({"times": (0, 0)}, "start"),
        ({"times": (0, 2, 1, 3), "positions": [(0, 0, 0)] * 4, "quaternions": [UPRIGHT] * 4}, "times"),
        ({"times": (-1, 2)}, "start"),
        ({"times": (0, math.nan)}, "end"),
        ({"positions": [(0, 0, 0)]}, "positions"),
        ({"positions": [(0, 0), (0, 0)]}, "positions"),
        ({"positions": [(0, 0, 0), (0, 0, math.inf)]}, "positions"),
        ({"quaternions": [UPRIGHT] * 3}, "quaternions"),
        ({"quaternions": [UPRIGHT, (1.0, 0.1, 0, 0)]}, "quaternions"),
        ({"quaternions": [UPRIGHT, (0.0, 0, 0, 0)]}, "quaternions"),
    ],
)
def test_bad_samples_are_refused_by_name(fields, name):
    good = {"times": (0, 4), "positions": [(0, 0, 0)] * 2, "quaternions": [UPRIGHT] * 2}
    sampled_motion(**good)
    with pytest.raises(ValueError, match=f"`{name}`"):
        sampled_motion(**(good | fields))


def test_an_object_begins_where_its_samples_do_and_has_no_other_motion():
    motion = sampled_motion((0, 4), [(1, 0, 0), (2, 0, 0)], [LYING] * 2)
    with pytest.raises(ValueError, match="begins at"):
        SceneObject(1, "cube", "red", tilt=LYING, motion=(motion,))
    with pytest.raises(ValueError, match="begins at"):
        SceneObject(1, "cube", "red", position=(1, 0, 0), motion=(motion,))
    o = SceneObject(1, "cube", "red", position=(1, 0, 0), tilt=LYING, motion=(motion,))
    with pytest.raises(ValueError, match="begins at"):
        replace(o, position=(0.5, 0, 0))
    with pytest.raises(ValueError, match="alone"):
        replace(o, motion=(motion, Motion("turn", 0, 4, "clockwise", 1.0)))
    with pytest.raises(ValueError, match="`tilt`"):
        SceneObject(1, "cube", "red", tilt=(1.0, 1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="`times`"):
        Motion("still", 0, 4, times=(0, 4))
