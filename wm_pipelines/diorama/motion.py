"""Motion of objects and camera as a list of primitives: closed-form in time and differentiable (our design).

Each primitive transforms the pose that the ones before it in the list lead to, by an amount that grows from 0 at
`start` to its whole at `end` and stays; so a pose at any time needs no integration, and primitives may overlap (moving
while turning). A sampled motion says where its object is instead, and is its only primitive. Direction words are meant
in the frame of the camera at t = 0: left, right, towards and away are horizontal, up and down vertical. Clockwise is
as seen from above.
"""

from dataclasses import replace

import numpy as np
import torch

from wm_pipelines.diorama.primitives import (
    CAMERA_KINDS,
    DIRECTIONS,
    EASINGS,
    MOTION_KINDS,
    OBJECT_KINDS,
    TURNS,
    Motion,
)
from wm_pipelines.diorama.rotations import UPRIGHT, product, rows, slerp, yaw_and_tilt
from wm_pipelines.diorama.scene import Camera, Scene, SceneObject, heading, project
from wm_pipelines.runtime.random import keyed


def pose_at(obj: SceneObject, scene: Scene, t: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pose of `obj` at time `t`.

    Args:
        t: frames, a number or a tensor of any shape (...); may need a gradient.

    Returns:
        position of the base centre, float64 (..., 3), metres; quaternion wxyz, float64 (..., 4).
    """
    t = torch.as_tensor(t, dtype=torch.float64)
    if _is_sampled(obj):
        return _between(obj.motion[0], t)
    position, yaw = _pose(obj, scene, t, ())
    zero = torch.zeros_like(yaw)
    turned = ((yaw / 2).cos(), zero, zero, (yaw / 2).sin())
    return position, torch.stack(turned if obj.tilt == UPRIGHT else product(turned, obj.tilt), dim=-1)


def centre_at(obj: SceneObject, scene: Scene, t: float | torch.Tensor) -> torch.Tensor:
    """The middle of the axis of `obj` at time `t` (...), float64 (..., 3), metres."""
    position, quaternion = pose_at(obj, scene, t)
    up = torch.stack([row[2] for row in rows(*quaternion.unbind(-1))], dim=-1)
    return position + up * (obj.height / 2)


def camera_at(scene: Scene, t: float | torch.Tensor) -> torch.Tensor:
    """World-to-camera transform T_cw at time `t` (...), float64 (..., 4, 4)."""
    eye, target = _view(scene.camera, scene.fps, torch.as_tensor(t, dtype=torch.float64))
    forward = target - eye
    forward = forward / forward.square().sum(-1, keepdim=True).sqrt()
    level = torch.stack([forward[..., 1], -forward[..., 0], torch.zeros_like(forward[..., 0])], dim=-1)
    right = level / level.square().sum(-1, keepdim=True).sqrt()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-2)  # (..., 3, 3)
    offset = -(rotation * eye[..., None, :]).sum(-1, keepdim=True)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(*rotation.shape[:-2], 1, 4)
    return torch.cat([torch.cat([rotation, offset], dim=-1), last], dim=-2)


def scene_at(scene: Scene, t: float) -> Scene:
    """The scene as it stands at time `t`: same objects and camera, moved there, without motion."""
    objects = []
    for o in scene.objects:
        if _is_sampled(o):
            position, quaternion = pose_at(o, scene, t)
            yaw, tilt = yaw_and_tilt(tuple(quaternion.tolist()))
        else:
            position, yaw = _pose(o, scene, torch.as_tensor(t, dtype=torch.float64), ())
            yaw, tilt = yaw.item(), o.tilt
        objects.append(replace(o, position=tuple(position.tolist()), yaw=yaw, tilt=tilt, motion=()))
    eye, target = _view(scene.camera, scene.fps, torch.as_tensor(t, dtype=torch.float64))
    camera = replace(scene.camera, eye=tuple(eye.tolist()), target=tuple(target.tolist()), motion=())
    return replace(scene, objects=tuple(objects), camera=camera)


def _amount(motions: tuple[Motion, ...], i: int, fps: float, t: torch.Tensor) -> tuple[Motion, torch.Tensor]:
    """What primitive i does by time t: the primitive whose kind and direction count, and metres or radians so far."""
    m = motions[i]
    seconds = (m.end - m.start) / fps
    progress = ((t - m.start) / (m.end - m.start)).clamp(0, 1)
    if m.kind != "stop":
        return m, m.speed * seconds * EASINGS[m.easing][0](progress)
    before = motions[i - 1] if i else None
    if before is None or before.kind in ("still", "stop", "bounce") or before.end != m.start:
        raise ValueError(
            f"a stop at frame {m.start} must follow, in the list, a primitive with a speed that ends there; "
            f"before it is {before}"
        )
    speed = before.speed * EASINGS[before.easing][1]
    # speed falls evenly to 0: half the way that it would have gone on
    return before, speed * seconds * (progress - progress * progress / 2)


def _spin(direction: str, amount: torch.Tensor) -> torch.Tensor:
    return amount if direction == "counterclockwise" else -amount


def _turned(vector: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """vector (..., 3) turned about z by angle (...), counter-clockwise seen from above."""
    c, s = angle.cos(), angle.sin()
    x, y, z = vector.unbind(-1)
    return torch.stack([c * x - s * y, s * x + c * y, z], dim=-1)


def _is_sampled(obj: SceneObject) -> bool:
    return bool(obj.motion) and obj.motion[0].kind == "sampled"


def _between(m: Motion, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Position (..., 3) and quaternion (..., 4) of a sampled motion at t: the samples themselves at their times."""
    times, positions, quaternions = (
        torch.tensor(v, dtype=torch.float64) for v in (m.times, m.positions, m.quaternions)
    )
    t = t.clamp(times[0], times[-1])
    i = (torch.searchsorted(times, t.detach().contiguous(), right=True) - 1).clamp(0, len(times) - 2)
    last = t >= times[-1]
    u = torch.where(last, 1.0, (t - times[i]) / (times[i + 1] - times[i]))
    position = (1 - u)[..., None] * positions[i] + u[..., None] * positions[i + 1]
    quaternion = slerp(quaternions[i], quaternions[i + 1], u)
    return position, torch.where(last[..., None], quaternions[-1], quaternion)


def _pose(obj: SceneObject, scene: Scene, t: torch.Tensor, trail: tuple[int, ...]):
    """Base position (..., 3) and yaw (...) at t (of a sampled motion, no yaw); `trail` holds the ids whose orbits led
    here."""
    if obj.id in trail:
        raise ValueError(f"objects {', '.join(map(str, (*trail, obj.id)))} orbit each other in a circle")
    position = torch.tensor(obj.position, dtype=torch.float64).expand(*t.shape, 3)
    yaw = torch.tensor(obj.yaw, dtype=torch.float64).expand(t.shape)
    if _is_sampled(obj):
        return _between(obj.motion[0], t)[0], torch.full_like(yaw, torch.nan)
    for i, segment in enumerate(obj.motion):
        if segment.kind not in OBJECT_KINDS:
            raise ValueError(f"object {obj.id} has a {segment.kind}; objects have {', '.join(OBJECT_KINDS)}")
        m, amount = _amount(obj.motion, i, scene.fps, t)
        if m.kind == "translate":
            position = position + amount[..., None] * towards(scene.camera, m.direction)
        elif m.kind == "turn":
            yaw = yaw + _spin(m.direction, amount)
        elif m.kind == "orbit":
            if m.about is None:
                raise ValueError(f"object {obj.id} has an orbit without `about`, the id of the object to go around")
            # the centre may move: turn about where it was when the orbit began, then follow it
            centre, seen = scene.object(m.about), (*trail, obj.id)
            begin = _pose(centre, scene, torch.full_like(t, segment.start), seen)[0]
            now = _pose(centre, scene, t.clamp(segment.start, segment.end), seen)[0]
            position = now + _turned(position - begin, _spin(m.direction, amount))
        elif m.kind == "bounce":
            # each hop is a parabola, 0 where it touches the floor and 1 in its middle
            hops = m.count * EASINGS[m.easing][0](((t - m.start) / (m.end - m.start)).clamp(0, 1))
            hop = hops - hops.detach().floor()
            height = 4 * m.height * hop * (1 - hop)
            position = position + torch.stack([torch.zeros_like(height)] * 2 + [height], dim=-1)
    return position, yaw


def towards(camera: Camera, direction: str | tuple[float, float, float]) -> torch.Tensor:
    """A unit vector (3,) in world axes, float64, of a direction word or of a vector."""
    if isinstance(direction, str):
        return torch.from_numpy(heading(camera, direction))
    vector = np.asarray(direction)
    return torch.from_numpy(vector / np.linalg.norm(vector))


def _view(camera: Camera, fps: float, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eye and target (..., 3) at t."""
    eye = torch.tensor(camera.eye, dtype=torch.float64).expand(*t.shape, 3)
    target = torch.tensor(camera.target, dtype=torch.float64).expand(*t.shape, 3)
    for i, segment in enumerate(camera.motion):
        if segment.kind not in CAMERA_KINDS or segment.about is not None:
            raise ValueError(f"the camera has {segment}; allowed: {', '.join(CAMERA_KINDS)}, orbit without about")
        m, amount = _amount(camera.motion, i, fps, t)
        if m.kind == "pan":
            target = eye + _turned(target - eye, amount if m.direction == "left" else -amount)
        elif m.kind == "orbit":
            eye = target + _turned(eye - target, _spin(m.direction, amount))
        elif m.kind == "dolly":
            axis = target - eye
            step = axis / axis.square().sum(-1, keepdim=True).sqrt() * amount[..., None]
            eye, target = (eye + step, target + step) if m.direction == "forward" else (eye - step, target - step)
    return eye, target


def sample_motion(scene: Scene, *key: str | int, camera: bool = False) -> Scene:
    """`scene` with the motions that belong to `key`: objects stay in the frame and apart from one another.

    Each object moves in one of the ways of `_program` or stays; an object whose draws all fail stays. The objects of a
    scene with `camera=True` may leave the frame, as the camera moves after they were placed.

    Raises:
        ValueError: the scene lasts fewer than 4 frames.
    """
    if scene.duration < 4:
        raise ValueError(f"`scene.duration` is {scene.duration}; a motion to be seen needs 4 frames or more")
    rng = keyed("motion", *key)
    for obj in scene.objects:
        if rng.random() < 0.25:
            continue
        for _ in range(12):
            moving = replace(obj, motion=_program(scene, obj, rng))
            trial = replace(scene, objects=tuple(moving if o.id == obj.id else o for o in scene.objects))
            if stays_clear(trial, moving):
                scene = trial
                break
    if camera:
        kind = ("pan", "orbit", "dolly")[rng.integers(3)]
        words = MOTION_KINDS[kind]
        speed = {"pan": 0.08, "orbit": 0.2, "dolly": 0.4}[kind]
        m = Motion(kind, 0, scene.duration, words[rng.integers(len(words))], speed, easing="smooth")
        scene = replace(scene, camera=replace(scene.camera, motion=(m,)))
    return scene


def _program(scene: Scene, obj: SceneObject, rng: np.random.Generator) -> tuple[Motion, ...]:
    end = scene.duration - 1
    half = scene.duration // 2
    flat, spin = DIRECTIONS[rng.integers(4)], TURNS[rng.integers(2)]
    metres, radians = round(rng.uniform(0.5, 1.2), 2), round(rng.uniform(0.8, 2.4), 2)
    others = [o.id for o in scene.objects if o.id != obj.id]
    choice = rng.integers(6)
    if choice == 0 and others:
        return (Motion("orbit", 0, end, spin, radians / 2, about=others[rng.integers(len(others))]),)
    if choice == 1:
        return (Motion("turn", 0, end, spin, radians),)
    if choice == 2:
        return (Motion("bounce", 0, end, height=round(rng.uniform(0.3, 0.7), 2), count=int(rng.integers(1, 4))),)
    if choice == 3:
        return (Motion("translate", 0, half, flat, metres), Motion("stop", half, end))
    if choice == 4:
        return (Motion("translate", 0, half, flat, metres), Motion("turn", half, end, spin, radians))
    return (Motion("translate", 0, end, flat, metres / 2, easing=("linear", "smooth")[rng.integers(2)]),)


def stays_clear(scene: Scene, obj: SceneObject) -> bool:
    """Whether every object stays whole in the frame, and `obj` apart from the others, in all frames of `scene`."""
    times = torch.arange(scene.duration, dtype=torch.float64)
    try:
        paths = {o.id: centre_at(o, scene, times).numpy() for o in scene.objects}
    except ValueError:  # two objects that would orbit each other
        return False
    for a in scene.objects:
        xy, depth = project(paths[a.id], scene.camera)
        margin = a.radius / np.maximum(depth, 1e-3)[:, None]
        if (depth < 1).any() or (xy < margin).any() or (xy > 1 - margin).any():
            return False
        for b in scene.objects:
            reach = 1.42 * (a.half_width + b.half_width)
            if b.id > a.id and (np.linalg.norm(paths[a.id][:, :2] - paths[b.id][:, :2], axis=1) < reach).any():
                return False
    return True
