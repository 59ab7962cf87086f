"""A scene mirrored, and a scene run backwards, as states (our design)."""

from dataclasses import replace

import torch

from wm_pipelines.diorama.motion import pose_at, scene_at
from wm_pipelines.diorama.primitives import Motion, sampled_motion
from wm_pipelines.diorama.rotations import yaw_and_tilt
from wm_pipelines.diorama.scene import Camera, Scene, SceneObject

LEFT_RIGHT = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}
BACKWARDS = LEFT_RIGHT | {"forward": "back", "back": "forward"}
EASED_BACK = {"linear": "linear", "smooth": "smooth", "in": "out", "out": "in"}


def mirrored(scene: Scene) -> Scene:
    """`scene` with x and -x exchanged: what stands, moves or turns to the left does so to the right.

    Its picture is the flipped picture, but for the place of stripes: a striped solid is no mirror image of itself.
    """
    camera, light = scene.camera, scene.light
    return replace(
        scene,
        objects=tuple(_mirrored_object(o) for o in scene.objects),
        camera=replace(
            camera,
            eye=_flip(camera.eye),
            target=_flip(camera.target),
            motion=tuple(_mirrored_motion(m) for m in camera.motion),
        ),
        light=replace(light, direction=_flip(light.direction)),
    )


def _flip(v):
    return (-v[0], *v[1:])


def _flip_turn(q):
    """The rotation (w, x, y, z) as a mirror in the plane x = 0 shows it."""
    w, x, y, z = q
    return (w, x, -y, -z)


def _mirrored_object(o: SceneObject) -> SceneObject:
    motion = tuple(_mirrored_motion(m) for m in o.motion)
    return replace(o, position=_flip(o.position), yaw=-o.yaw, tilt=_flip_turn(o.tilt), motion=motion)


def _mirrored_motion(m: Motion) -> Motion:
    if m.kind == "sampled":
        return sampled_motion(m.times, [_flip(p) for p in m.positions], [_flip_turn(q) for q in m.quaternions])
    if isinstance(m.direction, tuple):
        return replace(m, direction=_flip(m.direction))
    return replace(m, direction=LEFT_RIGHT.get(m.direction, m.direction))


def backwards(scene: Scene) -> Scene:
    """The frames 0 .. duration - 1 of `scene` in reverse: each moving object has a sampled motion.

    Raises:
        ValueError: the camera stops, or does two things at once, which has no list of primitives backwards.
    """
    times = [float(t) for t in range(scene.duration)]
    objects = tuple(_backwards_object(o, scene, times) for o in scene.objects)
    return replace(scene, objects=objects, camera=_backwards_camera(scene))


def _backwards_object(o: SceneObject, scene: Scene, times: list[float]) -> SceneObject:
    if not o.motion or len(times) < 2:
        return replace(o, motion=())
    position, quaternion = (v.flip(0).tolist() for v in pose_at(o, scene, torch.tensor(times)))
    yaw, tilt = yaw_and_tilt(tuple(quaternion[0]))
    motion = (sampled_motion(times, position, quaternion),)
    return replace(o, position=tuple(position[0]), yaw=yaw, tilt=tilt, motion=motion)


def _backwards_camera(scene: Scene) -> Camera:
    last, camera = scene.duration - 1, scene.camera
    if not camera.motion or last == 0:
        return replace(camera, motion=())
    ordered = sorted(camera.motion, key=lambda m: m.start)
    clash = any(a.end > b.start for a, b in zip(ordered, ordered[1:], strict=False))
    if clash or any(m.kind == "stop" or m.end > last for m in ordered):
        raise ValueError(f"`camera.motion` is {camera.motion}; only primitives in turn, none a stop, go back")
    motion = [
        replace(
            m,
            start=last - m.end,
            end=last - m.start,
            direction=BACKWARDS.get(m.direction),
            easing=EASED_BACK[m.easing],
        )
        for m in reversed(ordered)
    ]
    return replace(scene_at(replace(scene, objects=()), last).camera, motion=tuple(motion))
