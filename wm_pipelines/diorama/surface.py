"""The points that rays meet on solids, and where they see the floor (our design)."""

from dataclasses import dataclass, fields

import torch

from wm_pipelines.diorama.cast import Hits, View, at
from wm_pipelines.diorama.solids import DISTANCE, EPS, FAR, NORMAL
from wm_pipelines.diorama.world import dot, minus, turn, turn_back


@dataclass
class Surface:
    """W points on solids: solid, frame and ray numbers (W,); vectors are triples of (W,)."""

    solid: torch.Tensor
    frame: torch.Tensor
    ray: torch.Tensor
    t: torch.Tensor
    direction: tuple
    point: tuple  # world
    local: tuple  # in the solid's own axes
    normal: tuple  # world


def surface(view: View, hits: Hits, normals: bool = True) -> Surface:
    world = view.world
    frame_of = world.frame_of
    local_eye = torch.stack(turn_back(world.rotation, minus(at(world.eye, frame_of), world.position)))
    differentiable = torch.is_grad_enabled() and (world.position.requires_grad or world.rotation.requires_grad)
    parts = []
    for kind, (solid, ray, t, direction) in enumerate(zip(hits.solid, hits.ray, hits.t, hits.direction, strict=True)):
        frame = at(frame_of, solid)
        rotation, position = at(world.rotation, solid), at(world.position, solid)
        half, height = at(world.half, solid), at(world.height, solid)
        if differentiable:
            t = DISTANCE[kind](at(local_eye, solid), turn_back(rotation, direction), half, height)
        point = tuple(e + t * d for e, d in zip(at(world.eye, frame), direction, strict=True))
        local = turn_back(rotation, minus(point, position))
        normal = turn(rotation, _unit_safely(NORMAL[kind](local, half, height))) if normals else ()
        parts.append(Surface(solid, frame, ray, t, direction, point, local, normal))
    return Surface(*(_joined([getattr(p, f.name) for p in parts]) for f in fields(Surface)))


def _joined(parts):
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(c) for c in zip(*parts, strict=True))
    return torch.cat(parts)


def _unit_safely(v) -> tuple:
    length = dot(v, v).clamp_min(1e-12).sqrt()
    return tuple(c / length for c in v)


def floor_seen(view: View) -> torch.Tensor:
    """(F, S, H, W) bool: whether the ray goes down to the floor, where no solid is before it; (F, 1, 1, 1) where all
    rays do, and whether there is one."""
    world = view.world
    x, y = view.axes()
    right, down, ahead = (c[:, None, None, None] for c in world.camera[:, 2])
    scale, eye = world.scale[:, None, None, None], world.eye[2][:, None, None, None]
    across, along = x[:, None, :] / scale * right, y[:, :, None] / scale * down + ahead
    # the floor is met where -eye / (across + along), in metres along the optical axis, lies between EPS and FAR
    ends = torch.stack([-eye / EPS, -eye / FAR])
    low, high = ends.amin(0), ends.amax(0)
    least, most = (
        (across.amin((1, 2, 3), True) + along.amin((1, 2, 3), True)),
        (across.amax((1, 2, 3), True) + along.amax((1, 2, 3), True)),
    )
    floor = world.floor[:, None, None, None]
    if ((least > low) & (most < high)).all():
        return floor
    slope = across + along
    return (slope > low) & (slope < high) & floor
