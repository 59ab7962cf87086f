import math
from dataclasses import replace

import pytest
import torch

from wm_pipelines.diorama.motion import camera_at, pose_at, sample_motion, scene_at
from wm_pipelines.diorama.primitives import EASINGS, Motion, motion_from_dict
from wm_pipelines.diorama.scene import Camera, Scene, SceneObject, look_at, project, sample_scene


def scene_of(*motions: Motion, others: tuple[SceneObject, ...] = (), **fields) -> Scene:
    return Scene((SceneObject(1, "cube", "red", position=(0.5, 0.2, 0.0), yaw=0.3, motion=motions), *others), **fields)


def place(scene: Scene, t: float, id: int = 1) -> tuple[float, ...]:
    return tuple(pose_at(scene.object(id), scene, t)[0].tolist())


def yaw(scene: Scene, t: float) -> float:
    w, x, y, z = pose_at(scene.objects[0], scene, t)[1].tolist()
    assert x == y == 0
    return 2 * math.atan2(z, w)


@pytest.mark.parametrize("easing", EASINGS)
def test_translate_covers_speed_times_time_and_holds_before_and_after(easing):
    scene = scene_of(Motion("translate", 2, 10, (0, 2, 0), speed=0.5, easing=easing))  # one second at 8 fps
    assert place(scene, 0) == place(scene, 2) == (0.5, 0.2, 0.0)
    assert place(scene, 10) == place(scene, 99) == pytest.approx((0.5, 0.7, 0.0))
    assert 0.2 < place(scene, 6)[1] < 0.7


@pytest.mark.parametrize(("word", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
@pytest.mark.parametrize("eye", [(0, -5.6, 3.4), (5, 3, 2), (-4, 4, 3)])
def test_direction_words_are_those_of_the_picture(word, axis, sign, eye):
    scene = scene_of(Motion("translate", 0, 8, word, speed=0.6), camera=Camera(eye=eye))
    xy, _ = project([place(scene, 0), place(scene, 8)], scene.camera)
    step = xy[1] - xy[0]
    assert sign * step[axis] > 0.05


@pytest.mark.parametrize("eye", [(0, -5.6, 3.4), (5, 3, 2)])
def test_towards_comes_nearer_and_away_goes_farther_on_the_floor(eye):
    for word, sign in (("towards", -1), ("away", 1)):
        scene = scene_of(Motion("translate", 0, 8, word, speed=0.6), camera=Camera(eye=eye))
        _, depth = project([place(scene, 0), place(scene, 8)], scene.camera)
        assert sign * (depth[1] - depth[0]) > 0.3
        assert place(scene, 8)[2] == 0


def test_counterclockwise_is_positive_about_z():
    assert yaw(scene_of(Motion("turn", 0, 8, "counterclockwise", 1.0)), 8) == pytest.approx(1.3)
    assert yaw(scene_of(Motion("turn", 0, 8, "clockwise", 1.0)), 8) == pytest.approx(-0.7)


def test_orbit_keeps_the_distance_to_a_centre_that_moves():
    path = Motion("translate", 0, 12, "away", 0.4)
    centre = SceneObject(2, "cone", "blue", position=(-0.5, 0.1, 0.0), motion=(path,))
    scene = scene_of(Motion("orbit", 4, 12, "clockwise", 2.0, about=2), others=(centre,))
    start = math.dist(place(scene, 4), place(scene, 4, 2))
    for t in (4, 6.5, 9, 12):
        assert math.dist(place(scene, t), place(scene, t, 2)) == pytest.approx(start)
    assert place(scene, 20) == place(scene, 12)

    def bearing(t):
        a, b = place(scene, t), place(scene, t, 2)
        return math.atan2(a[1] - b[1], a[0] - b[0])

    assert bearing(6) - bearing(4) == pytest.approx(-0.5)  # clockwise: 2 rad/s for a quarter of a second


def test_orbits_in_a_circle_are_an_error_that_names_the_objects():
    back = Motion("orbit", 0, 8, "clockwise", 1, about=1)
    other = SceneObject(2, "cone", "blue", position=(-1, 0, 0), motion=(back,))
    scene = scene_of(Motion("orbit", 0, 8, "clockwise", 1, about=2), others=(other,))
    with pytest.raises(ValueError, match="1, 2, 1"):
        pose_at(scene.objects[0], scene, 3.0)


def test_bounce_touches_the_floor_between_hops_and_never_goes_under_it():
    scene = scene_of(Motion("bounce", 0, 16, height=0.5, count=2))
    z = pose_at(scene.objects[0], scene, torch.linspace(0, 20, 81))[0][:, 2]
    assert z.min() >= 0 and z.max() == pytest.approx(0.5)
    assert place(scene, 8)[2] == place(scene, 16)[2] == 0.0
    assert place(scene, 4)[2] == pytest.approx(0.5)


def test_stop_takes_over_the_speed_and_ends_at_rest():
    scene = scene_of(Motion("translate", 0, 8, (1, 0, 0), 0.8), Motion("stop", 8, 16))

    def speed(t):
        t = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(pose_at(scene.objects[0], scene, t)[0][0], t)[0].item() * scene.fps

    assert speed(7.999) == pytest.approx(0.8)
    assert speed(8.001) == pytest.approx(0.8, abs=1e-3)
    assert speed(12.0) == pytest.approx(0.4)
    assert speed(15.999) == pytest.approx(0.0, abs=1e-3)
    assert place(scene, 16)[0] == pytest.approx(0.5 + 0.8 + 0.4)


@pytest.mark.parametrize(
    "motions", [(Motion("stop", 0, 4),), (Motion("turn", 0, 4, "clockwise"), Motion("stop", 6, 8))]
)
def test_a_stop_with_nothing_to_stop_is_an_error(motions):
    scene = scene_of(*motions)
    with pytest.raises(ValueError, match="stop at frame"):
        pose_at(scene.objects[0], scene, 1.0)


def test_poses_are_differentiable_in_time_and_vectorised():
    other = SceneObject(2, "cone", "blue", position=(-1.0, 0.0, 0.0))
    scene = scene_of(
        Motion("translate", 0, 6, "left", 0.5, easing="smooth"),
        Motion("turn", 2, 9, "clockwise", 1.0, easing="in"),
        Motion("orbit", 6, 12, "counterclockwise", 1.0, about=2),
        Motion("bounce", 3, 13, height=0.4, count=2),
        others=(other,),
    )
    # kinks (ends of primitives, landings of the bounce) are left out
    t = torch.tensor([1.1, 4.3, 7.7, 10.2, 20.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: pose_at(scene.objects[0], scene, t), t)
    position, quaternion = pose_at(scene.objects[0], scene, t.detach())
    for i, value in enumerate(t.tolist()):
        p, q = pose_at(scene.objects[0], scene, value)
        assert torch.equal(p, position[i]) and torch.equal(q, quaternion[i])
    torch.testing.assert_close(quaternion.square().sum(-1), torch.ones_like(t))


def test_a_camera_at_rest_is_the_cameras_look_at():
    scene = Scene(camera=Camera(eye=(3, -4, 2)))
    pose = camera_at(scene, 5.0)
    torch.testing.assert_close(pose[:3, :3], torch.from_numpy(look_at((3, -4, 2), scene.camera.target)))
    torch.testing.assert_close(pose @ torch.tensor([3.0, -4, 2, 1]).double(), torch.tensor([0.0, 0, 0, 1]).double())


@pytest.mark.parametrize(("kind", "word"), [("pan", "left"), ("orbit", "clockwise"), ("dolly", "forward")])
def test_camera_moves_keep_what_they_should(kind, word):
    camera = Camera(motion=(Motion(kind, 0, 8, word, 0.3),))
    still, moved = Camera(), scene_at(Scene(camera=camera), 8).camera
    pose = camera_at(Scene(camera=camera), 8)
    torch.testing.assert_close(pose[:3, :3], torch.from_numpy(look_at(moved.eye, moved.target)))
    torch.testing.assert_close(pose[:3, :3] @ pose[:3, :3].T, torch.eye(3).double())
    distance = math.dist(moved.eye, moved.target)
    assert distance == pytest.approx(math.dist(still.eye, still.target))
    centre_x = (project([(0, 0, 0)], moved)[0] - project([(0, 0, 0)], still)[0])[0, 0]
    if kind == "pan":  # the camera turns left, the world goes right
        assert moved.eye == still.eye and centre_x > 0.1
    elif kind == "orbit":  # clockwise from the south side is towards the west
        assert moved.target == pytest.approx(still.target) and moved.eye[0] < -0.5
    else:
        assert math.dist(moved.eye, still.eye) == pytest.approx(0.3) and moved.eye[1] > still.eye[1]


def test_camera_motion_is_differentiable():
    moves = (Motion("orbit", 0, 8, "clockwise", 0.5, easing="smooth"), Motion("dolly", 4, 12, "back", 0.4))
    scene = Scene(camera=Camera(motion=moves))
    t = torch.tensor([1.0, 6.0, 9.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: camera_at(scene, t), t)


def test_sampled_motion_is_keyed_round_trips_and_stays_in_the_frame():
    kinds = set()
    for i in range(12):
        scene = sample_motion(sample_scene("motion", i), "motion", i)
        assert scene == sample_motion(sample_scene("motion", i), "motion", i)
        assert Scene.from_json(scene.to_json()) == scene
        kinds |= {m.kind for o in scene.objects for m in o.motion}
        for t in (0, 5, scene.duration - 1):
            xy, _ = project([o.centre for o in scene_at(scene, t).objects], scene.camera)
            assert (xy > 0).all() and (xy < 1).all()
    assert kinds >= {"translate", "turn", "bounce", "stop"}
    assert scene_at(scene, 0).objects[0].position == pytest.approx(scene.objects[0].position)


def test_scene_at_has_no_motion_and_the_poses_of_that_time():
    scene = sample_motion(sample_scene("at", 1, num_objects=3), "at", 1, camera=True)
    later = scene_at(scene, 7.5)
    assert all(o.motion == () for o in later.objects) and later.camera.motion == ()
    for a, b in zip(scene.objects, later.objects, strict=True):
        torch.testing.assert_close(pose_at(a, scene, 7.5), pose_at(b, later, 0.0))
    torch.testing.assert_close(camera_at(scene, 7.5), camera_at(later, 0.0))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"kind": "fly"}, "kind"),
        ({"kind": "still", "start": 4, "end": 4}, "end"),
        ({"kind": "still", "start": -1}, "start"),
        ({"kind": "translate"}, "direction"),
        ({"kind": "translate", "direction": "north"}, "direction"),
        ({"kind": "translate", "direction": (0, 0, 0)}, "direction"),
        ({"kind": "turn", "direction": "left"}, "direction"),
        ({"kind": "still", "direction": "left"}, "direction"),
        ({"kind": "turn", "direction": "clockwise", "speed": -1.0}, "speed"),
        ({"kind": "turn", "direction": "clockwise", "speed": math.nan}, "speed"),
        ({"kind": "turn", "direction": "clockwise", "about": 2}, "about"),
        ({"kind": "still", "easing": "elastic"}, "easing"),
        ({"kind": "bounce"}, "height"),
    ],
)
def test_bad_primitives_are_refused_by_name(fields, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        motion_from_dict({"start": 0, "end": 8} | fields)


def test_unknown_fields_and_misplaced_primitives_are_refused():
    with pytest.raises(ValueError, match="'gravity'"):
        motion_from_dict({"kind": "still", "start": 0, "end": 8, "gravity": 9.8})
    scene = scene_of(Motion("pan", 0, 8, "left", 1.0))
    with pytest.raises(ValueError, match="object 1 has a pan"):
        pose_at(scene.objects[0], scene, 0.0)
    with pytest.raises(ValueError, match="camera has"):
        camera_at(replace(scene, camera=Camera(motion=(Motion("turn", 0, 8, "clockwise", 1),))), 0.0)
    with pytest.raises(ValueError, match="duration"):
        sample_motion(Scene(duration=3), "x")
