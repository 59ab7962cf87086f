import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import (
    COLOURS,
    HELD_OUT,
    HELD_OUT_RELATIONS,
    SHAPES,
    SIZES,
    Camera,
    Light,
    Scene,
    SceneObject,
    clear_relations,
    intrinsics,
    is_held_out,
    look_at,
    project,
    rough_boxes,
    sample_scene,
)


def lab(rgb) -> np.ndarray:
    """sRGB in [0, 1] to CIELAB under D65 (CIE 1976; IEC 61966-2-1)."""
    c = np.asarray(rgb, dtype=np.float64)
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = (np.array(matrix) * linear).sum(1) / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_every_two_colours_are_far_apart():
    assert lab((1, 1, 1)) == pytest.approx([100, 0, 0], abs=0.02)
    for a, b in itertools.combinations(COLOURS, 2):
        assert np.linalg.norm(lab(COLOURS[a]) - lab(COLOURS[b])) >= 25, (a, b)


def test_what_never_moves():
    assert SHAPES == ("sphere", "cube", "cylinder", "cone") and SIZES == {"small": 0.5, "large": 0.78}
    assert tuple(COLOURS) == ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "white")
    assert (Camera().eye, Camera().target, Camera().fov_deg) == ((0.0, -5.6, 3.4), (0.0, 0.0, 0.35), 42.0)
    assert (Light().direction, Light().ambient) == ((-0.45, -0.55, 1.0), 0.45)


def test_a_quarter_of_the_pairs_is_held_out_evenly():
    assert len(HELD_OUT) == len(COLOURS) * len(SHAPES) / 4
    assert {c for c, _ in HELD_OUT} == set(COLOURS)
    assert all(sum(s == shape for _, s in HELD_OUT) == 2 for shape in SHAPES)
    assert len(HELD_OUT_RELATIONS) == 2


@pytest.mark.parametrize("composition", ["train", "held_out", "all"])
def test_compositions_show_the_pairs_they_should(composition):
    pairs, held = set(), []
    for i in range(60):
        scene = sample_scene("composition", i, composition=composition)
        shape = {o.id: o.shape for o in scene.objects}
        pairs |= {(o.colour, o.shape) for o in scene.objects}
        relations = {(p, shape[a], shape[b]) for p, a, b in clear_relations(scene)}
        held.append(is_held_out(scene))
        if composition == "train":
            assert not relations & HELD_OUT_RELATIONS
    if composition == "train":
        assert not pairs & HELD_OUT and not any(held) and len(pairs) == 24
    elif composition == "held_out":
        assert pairs == HELD_OUT and all(held)
    else:
        assert pairs & HELD_OUT and pairs - HELD_OUT and any(held) and not all(held)


def test_a_held_out_relation_alone_holds_a_scene_out():
    cube = SceneObject(1, "cube", "red", position=(-1.2, 0.0, 0.0))
    sphere = SceneObject(2, "sphere", "red", position=(1.2, 0.0, 0.0))
    assert is_held_out(Scene((cube, sphere)))
    swapped = (replace(cube, position=sphere.position), replace(sphere, position=cube.position))
    assert not is_held_out(Scene(swapped))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_as_many_objects_as_asked(count):
    scene = sample_scene("count", 1, num_objects=count)
    assert [o.id for o in scene.objects] == list(range(1, count + 1))
    assert len({(o.colour, o.shape) for o in scene.objects}) == count


def test_objects_do_not_overlap_and_are_seen_well_at_the_start():
    """Measured on pictures: at least 60% of each silhouette is seen, at least 6 pixels wide and high at 64 x 64."""
    scenes = [sample_scene("seen", i, composition="all", num_objects=(3, 4)) for i in range(24)]
    out = render(scenes, size=128, maps=("boxes", "visible", "amodal_boxes"))
    for scene, visible, whole in zip(scenes, out.visible[:, 0], out.amodal_boxes[:, 0], strict=True):
        n = len(scene.objects)
        assert visible[:n].min() >= 0.6
        # boxes go outward to whole pixels of 128
        assert (whole[:n, 2:] - whole[:n, :2]).min() * 64 >= 6
        assert whole[:n].min() >= 0 and whole[:n].max() <= 1
        for a, b in itertools.combinations(scene.objects, 2):
            reach = a.half_width + b.half_width
            assert math.dist(a.position[:2], b.position[:2]) >= reach - 1e-6


def test_min_pixels_makes_objects_larger():
    scenes = [sample_scene("large", i, num_objects=(1, 2), min_pixels=12.0) for i in range(16)]
    boxes = render(scenes, size=128, maps=("amodal_boxes",)).amodal_boxes[:, 0]
    for scene, box in zip(scenes, boxes, strict=True):
        sides = (box[:, 2:] - box[:, :2])[: len(scene.objects)]
        assert sides.min() * 64 >= 0.88 * 12  # as the docstring says


def test_rough_boxes_hold_what_is_drawn():
    scenes = [sample_scene("rough", i, num_objects=4) for i in range(6)]
    boxes = render(scenes, size=64, maps=("boxes",)).boxes[:, 0]
    for scene, seen in zip(scenes, boxes.numpy(), strict=True):
        rough = rough_boxes(scene)
        assert (rough[:, :2] <= seen[:, :2] + 1 / 64).all() and (rough[:, 2:] >= seen[:, 2:] - 1 / 64).all()


def test_the_key_alone_decides_the_scene():
    assert sample_scene("a", 3) == sample_scene("a", 3)
    assert len({sample_scene("a", i).to_json() for i in range(30)}) == 30
    assert sample_scene("a", "3") != sample_scene("a", 3)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    sample_scene("a", 4)
    assert (np.random.get_state()[1] == before).all()


def test_options_of_sampling():
    for i in range(10):
        scene = sample_scene("options", i, num_objects=3, same_shape=True, patterns=("plain",))
        assert len({o.shape for o in scene.objects}) == 1 and len({o.colour for o in scene.objects}) == 3
        assert all(o.pattern == "plain" for o in scene.objects)


def test_json_round_trip():
    motion = (Motion("orbit", 0, 4, "clockwise", 0.1 + 0.2, about=1), Motion("stop", 4, 6))
    scene = sample_scene("json", 1, num_objects=3)
    scene = replace(
        scene,
        objects=(*scene.objects[:2], replace(scene.objects[2], motion=motion)),
        camera=replace(scene.camera, motion=(Motion("pan", 0, 3, "left", 0.1),)),
        light=Light((0.1, 0.2, 0.3), 0.25),
        floor=False,
        duration=9,
        fps=12.5,
    )
    assert Scene.from_json(scene.to_json()) == scene


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diorama": 2}, "version is 2"),
        ({"diorama": None}, "version is None"),
        ({"sky": 1}, "unknown field 'sky' in Scene"),
        ({"objects": [{"id": 1, "shape": "cube", "colour": "red", "mass": 2}]}, "unknown field 'mass' in SceneObject"),
        ({"objects": [{"id": 1, "shape": "cube"}]}, "'colour' is missing in SceneObject"),
        ({"objects": 5}, "`objects`"),
        ({"camera": [1]}, "`camera`|Camera"),
    ],
)
def test_json_that_is_not_a_scene_is_refused(change, message):
    data = json.loads(Scene().to_json()) | change
    with pytest.raises(ValueError, match=message):
        Scene.from_json(json.dumps(data))


def test_text_that_is_no_scene_is_refused():
    for text in ("[]", "{", "3"):
        with pytest.raises(ValueError):
            Scene.from_json(text)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SceneObject(0, "cube", "red"), "id"),
        (lambda: SceneObject(1, "torus", "red"), "shape"),
        (lambda: SceneObject(1, "cube", "pink"), "colour"),
        (lambda: SceneObject(1, "cube", "red", "huge"), "size"),
        (lambda: SceneObject(1, "cube", "red", pattern="dotted"), "pattern"),
        (lambda: SceneObject(1, "cube", "red", material="glass"), "material"),
        (lambda: SceneObject(1, "cube", "red", position=(0.0, math.nan, 0.0)), "position"),
        (lambda: SceneObject(1, "cube", "red", position=(0.0, 0.0)), "position"),
        (lambda: SceneObject(1, "cube", "red", yaw=math.inf), "yaw"),
        (lambda: Camera(fov_deg=0.5), "fov_deg"),
        (lambda: Camera(fov_deg=math.nan), "fov_deg"),
        (lambda: Camera(eye=(0.0, 0.0, 4.0)), "eye"),
        (lambda: Camera(eye=(0.0, math.inf, 4.0)), "eye"),
        (lambda: Light(direction=(0.0, 0.0, 0.0)), "direction"),
        (lambda: Light(direction=(0.0, math.nan, 1.0)), "direction"),
        (lambda: Light(ambient=1.5), "ambient"),
        (lambda: Scene((SceneObject(1, "cube", "red"),) * 2), "objects"),
        (lambda: Scene(duration=0), "duration"),
        (lambda: Scene(fps=0.0), "fps"),
        (lambda: sample_scene("x", num_objects=9), "num_objects"),
        (lambda: sample_scene("x", num_objects=()), "num_objects"),
        (lambda: sample_scene("x", composition="test"), "composition"),
        (lambda: sample_scene("x", patterns=()), "patterns"),
        (lambda: sample_scene("x", patterns=("dotted",)), "patterns"),
        (lambda: sample_scene("x", min_pixels=64.0), "min_pixels"),
        (lambda: sample_scene("x", num_objects=4, composition="held_out", same_shape=True), "num_objects"),
        (lambda: Scene().object(3), "3"),
    ],
)
def test_bad_values_are_refused_by_name(make, name):
    with pytest.raises(ValueError, match=name):
        make()


def test_camera_axes_are_right_down_forward():
    camera = Camera()
    axes = look_at(camera.eye, camera.target)
    assert axes @ axes.T == pytest.approx(np.eye(3)) and np.linalg.det(axes) == pytest.approx(1)
    xy, z = project([(0, 0, 0.35), (1, 0, 0.35), (0, 0, 1.0), (0, 1, 0.35)], camera)
    assert xy[0] == pytest.approx((0.5, 0.5)) and z[0] == pytest.approx(math.dist(camera.eye, camera.target))
    assert xy[1, 0] > 0.5 and xy[2, 1] < 0.5 and z[3] > z[0]
    k = intrinsics(camera, 48, 64)
    assert (k[0, 2], k[1, 2]) == (32, 24) and k[0, 0] == k[1, 1]
    assert 2 * math.degrees(math.atan(24 / k[1, 1])) == pytest.approx(camera.fov_deg)


def test_mirrored_scenes_have_mirrored_relations():
    mirror = {"left of": "right of", "right of": "left of"}
    for i in range(20):
        scene = sample_scene("mirrored", i, num_objects=3, composition="all")
        flipped = tuple(replace(o, position=(-o.position[0], *o.position[1:]), yaw=-o.yaw) for o in scene.objects)
        expected = {(mirror.get(p, p), a, b) for p, a, b in clear_relations(scene)}
        assert clear_relations(replace(scene, objects=flipped)) == expected
