"""Analytic ray casting of Diorama scenes in torch (our design): pictures and every exact map, over scenes and times.

Elementwise arithmetic only, so a scene renders bit-equal alone and in any batch. Differentiable in positions and
colours through shading and geometry, not through visibility: which solid a ray meets is found without gradients
(`cast.py`), then what it meets there is computed again with them. The floor is handled as the background it mostly is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from wm_pipelines.diorama.cast import (
    Hits,
    View,
    at,
    cast,
    floor_shadows,
    hidden,
    outlines,
    shadow_boxes,
    shadowed,
)
from wm_pipelines.diorama.scene import FLOOR_ALBEDO, Scene
from wm_pipelines.diorama.solids import DISTANCE, EPS, FAR, NORMAL, safe
from wm_pipelines.diorama.world import World, build_world, dot, minus, turn, turn_back, unit

STRIPES = 6
SUPERSAMPLE = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
CENTRE = ((0.0, 0.0),)
MAPS = ("rgb", "albedo", "ids", "depth", "normals", "flow", "occlusion", "boxes", "amodal_boxes", "visible")
RAYS_AT_ONCE = 1 << 20


@dataclass
class RenderOutput:
    """What was asked for; B scenes, T times, N = most objects in a scene. Absent maps are None.

    rgb, albedo: (B, T, 3, H, W) float32 in [0, 1], sRGB; albedo is unlit. ids: (B, T, H, W) int64, 0 = background.
    depth: (B, T, H, W) float32 metres along the optical axis (inf where there is nothing).
    normals: (B, T, 3, H, W) float32, world axes, unit (0 where there is nothing).
    flow: (B, T, 2, H, W) float32 pixels from t to t + 1, (right, down). occlusion: (B, T, H, W) bool: the point is not
    visible at t + 1. boxes, amodal_boxes: (B, T, N, 4) float32 (x0, y0, x1, y1) in [0, 1], of the visible pixels (NaN
    when none) and of the whole silhouette, unclipped. visible: (B, T, N) float32 visible share of the silhouette in
    the frame. object_ids: (B, N) int64, 0 = no object.
    """

    rgb: torch.Tensor | None = None
    albedo: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    depth: torch.Tensor | None = None
    normals: torch.Tensor | None = None
    flow: torch.Tensor | None = None
    occlusion: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    amodal_boxes: torch.Tensor | None = None
    visible: torch.Tensor | None = None
    object_ids: torch.Tensor | None = None


def render(
    scenes: Scene | Sequence[Scene],
    times: Sequence[float] = (0.0,),
    size: int | tuple[int, int] = 64,
    maps: Sequence[str] = ("rgb", "ids", "depth"),
    device: str | torch.device = "cpu",
    colours: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
) -> RenderOutput:
    """Renders every scene at every time.

    Args:
        scenes: one scene or several (B).
        times: T times in frames.
        size: H = W, or (H, W), pixels, 1 or more.
        maps: names out of `MAPS`.
        colours: optional (B, N, 3) that replace the objects' colours, to differentiate through.
        positions: optional (B, T, N, 3) that replace the objects' base centres, to differentiate through; no flow and
            occlusion then, as they need the next frame.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    if not scenes:
        raise ValueError("`scenes` is empty; give one scene or more")
    height, width, times = *_size(size), _times(times)
    wanted, unknown = set(maps), [m for m in maps if m not in MAPS]
    if unknown or not wanted:
        got = repr(unknown[0]) if unknown else "no entry"
        raise ValueError(f"`maps` has {got}; known: {', '.join(MAPS)}")
    shape, moves = (len(scenes), len(times)), bool(wanted & {"flow", "occlusion"})
    world = build_world(scenes, [*times, *(t + 1 for t in times)] if moves else times, device)
    later = None
    if moves:
        if positions is not None:
            raise ValueError("`positions` say nothing of the next frame; leave flow and occlusion out of `maps`")
        first = torch.arange(len(scenes), device=world.scale.device)[:, None] * 2 * len(times)
        first = (first + torch.arange(len(times), device=first.device)).flatten()
        world, later = world.take(first), world.take(first + len(times))
    if colours is not None:
        _check("colours", colours, (len(scenes), world.count, 3))
        world.colour = colours.to(device)[:, None].expand(-1, len(times), -1, -1).reshape(-1, 3).T
    if positions is not None:
        _check("positions", positions, (*shape, world.count, 3))
        world.position = positions.to(device).reshape(-1, 3).T
    step = max(1, RAYS_AT_ONCE // (height * width * len(SUPERSAMPLE)))
    parts = [
        _frames(world.take(some), later and later.take(some), height, width, wanted)
        for some in torch.arange(world.frames, device=world.scale.device).split(step)
    ]
    out = {name: torch.cat([p[name] for p in parts]).unflatten(0, shape) for name in wanted}
    return RenderOutput(object_ids=world.ids.reshape(*shape, -1)[:, 0], **out)


def _size(size) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(isinstance(s, int) and s >= 1 for s in sides):
        raise ValueError(f"`size` is {size!r}; a side or (height, width), whole pixels, 1 or more")
    return sides


def _times(times) -> list[float]:
    times = [float(t) for t in times]
    if not times or not all(math.isfinite(t) for t in times):
        raise ValueError(f"`times` is {times}; give one finite time or more")
    return times


def _check(name: str, value: torch.Tensor, shape: tuple) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"`{name}` is {tuple(value.shape)}; for these scenes and times it must be {shape}")


def _frames(world: World, later: World | None, height: int, width: int, wanted: set[str]) -> dict:
    """The wanted maps of F frames, each (F, ...)."""
    out = {}
    boxes, search = outlines(world, width / height)
    if "amodal_boxes" in wanted:
        # outward to whole pixels, as the visible boxes are, so that one contains the other
        grid = torch.tensor([width, height], dtype=torch.float32, device=boxes.device)
        low, high = (boxes[:, :2] * grid).floor() / grid, (boxes[:, 2:] * grid).ceil() / grid
        out["amodal_boxes"] = torch.cat([low, high], dim=1).unflatten(0, (world.frames, -1))
    if wanted & {"rgb", "albedo"}:
        view = View(world, height, width, SUPERSAMPLE)
        out |= _colours(view, cast(view, search), wanted)
    if wanted - {"rgb", "albedo", "amodal_boxes"}:
        view = View(world, height, width, CENTRE)
        out |= _exact_maps(view, later, cast(view, search), wanted)
    return {name: out[name] for name in wanted}


# --- what the rays meet ---------------------------------------------------------------------------------------------


@dataclass
class _Surface:
    """W points on solids: solid, frame and ray numbers (W,); vectors are triples of (W,)."""

    solid: torch.Tensor
    frame: torch.Tensor
    ray: torch.Tensor
    t: torch.Tensor
    direction: tuple
    point: tuple  # world
    local: tuple  # in the solid's own axes
    normal: tuple  # world


def _surface(view: View, hits: Hits, normals: bool = True) -> _Surface:
    world = view.world
    frame_of = world.frame_of
    local_eye = torch.stack(turn_back(world.rotation, minus(at(world.eye, frame_of), world.position)))
    differentiable = torch.is_grad_enabled() and (world.position.requires_grad or world.rotation.requires_grad)
    parts = []
    for kind, (solid, ray, t) in enumerate(zip(hits.solid, hits.ray, hits.t, strict=True)):
        frame = at(frame_of, solid)
        direction = view.along(frame, ray)
        rotation, position = at(world.rotation, solid), at(world.position, solid)
        half, height = at(world.half, solid), at(world.height, solid)
        if differentiable:
            t = DISTANCE[kind](at(local_eye, solid), turn_back(rotation, direction), half, height)
        point = tuple(e + t * d for e, d in zip(at(world.eye, frame), direction, strict=True))
        local = turn_back(rotation, minus(point, position))
        normal = turn(rotation, _unit_safely(NORMAL[kind](local, half, height))) if normals else ()
        parts.append(_Surface(solid, frame, ray, t, direction, point, local, normal))
    return _Surface(*(_joined([getattr(p, f.name) for p in parts]) for f in fields(_Surface)))


def _joined(parts):
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(c) for c in zip(*parts, strict=True))
    return torch.cat(parts)


def _unit_safely(v) -> tuple:
    length = dot(v, v).clamp_min(1e-12).sqrt()
    return tuple(c / length for c in v)


def _floor_seen(view: View) -> torch.Tensor:
    """(F, S, H, W) bool: whether the ray goes down to the floor, where no solid is before it."""
    world = view.world
    x, y = view.axes()
    right, down, ahead = (c[:, None, None, None] for c in world.camera[:, 2])
    scale, eye = world.scale[:, None, None, None], world.eye[2][:, None, None, None]
    across, along = x[:, None, :] / scale * right, y[:, :, None] / scale * down + ahead
    # the floor is met where -eye / (across + along), in metres along the optical axis, lies between EPS and FAR
    ends = torch.stack([-eye / EPS, -eye / FAR])
    low, high = ends.amin(0), ends.amax(0)
    least, most = (across.amin((1, 2, 3), True) + along.amin((1, 2, 3), True)), (
        across.amax((1, 2, 3), True) + along.amax((1, 2, 3), True)
    )
    floor = world.floor[:, None, None, None]
    if ((least > low) & (most < high)).all():
        return floor.expand(-1, *along.shape[1:3], view.width)
    slope = across + along
    return (slope > low) & (slope < high) & floor


# --- colour and light -----------------------------------------------------------------------------------------------


def _colours(view: View, hits: Hits, wanted: set[str]) -> dict:
    """rgb and albedo, (F, 3, H, W): each the mean of the samples."""
    world = view.world
    on = _surface(view, hits, normals="rgb" in wanted)
    albedo = _albedo(world, on)
    floor = _floor_seen(view)
    out = {}
    if "albedo" in wanted:
        out["albedo"] = _picture(view, on.ray, albedo, floor.float())
    if "rgb" in wanted:
        ambient = world.ambient
        bright = ambient + (1.15 - ambient) * world.light[2].clamp_min(0)
        level = (floor * bright[:, None, None, None]).contiguous()
        dark = floor_shadows(view, shadow_boxes(world, view.width / view.height))
        level.view(-1)[dark] = at(ambient, dark // view.rays)
        out["rgb"] = _picture(view, on.ray, _lit(world, on, albedo), level).clamp(0, 1)
    return out


def _picture(view: View, ray: torch.Tensor, colour, floor: torch.Tensor) -> torch.Tensor:
    """(F, 3, H, W), the mean over samples of `colour` (3 x (W,)) at the rays and of the floor times `floor`."""
    shape, share = (view.world.frames, len(view.offsets), view.height, view.width), 1 / len(view.offsets)
    floor = floor.reshape(-1).scatter(0, ray, 0.0).view(shape)
    floor = sum(s * share for s in floor.unbind(1))
    out = []
    for c, base in zip(colour, FLOOR_ALBEDO, strict=True):
        samples = torch.zeros(shape, device=floor.device).view(-1).scatter(0, ray, c * share).view(shape)
        out.append(sum(samples.unbind(1)) + floor * base)
    return torch.stack(out, dim=1)


def _albedo(world: World, on: _Surface) -> tuple:
    """Unlit colours (3 x (W,)); dark stripes turn about the solid's own z axis, so that a rotation shows."""
    x, y = on.local[:2]
    # a stripe is where the angle times STRIPES lies in the first 0.4 of a period: cos(6 a - 0.4 pi) > cos(0.4 pi)
    real, imaginary = x * x - y * y, 2 * x * y
    r2 = x * x + y * y
    real, imaginary = (
        real * real * real - 3 * real * imaginary * imaginary,
        3 * real * real * imaginary - imaginary * imaginary * imaginary,
    )
    c, s = math.cos(0.4 * math.pi), math.sin(0.4 * math.pi)
    stripe = (real * c + imaginary * s > c * (r2 * r2 * r2)) & at(world.striped, on.solid)
    shade = torch.where(stripe, 0.45, 1.0)
    return tuple(at(row, on.solid) * shade for row in world.colour)


def _lit(world: World, on: _Surface, albedo) -> tuple:
    """Lambert with one hard shadow, and a Blinn-Phong highlight on shiny solids."""
    light, ambient = at(world.light, on.frame), at(world.ambient, on.frame)
    facing = dot(on.normal, light)
    start = tuple(p + n * 2e-3 for p, n in zip(on.point, on.normal, strict=True))
    dark = shadowed(world, on.solid, start, facing)
    direct = torch.where(dark, 0.0, facing.clamp_min(0))
    glint = dot(on.normal, unit(minus(light, on.direction))).clamp_min(0)
    for _ in range(5):  # to the power of 32
        glint = glint * glint
    glint = torch.where(at(world.shiny, on.solid) & ~dark, 0.6 * glint, 0.0)
    level = ambient + (1.15 - ambient) * direct
    return tuple(a * level + glint for a in albedo)


# --- exact maps at the pixel centres --------------------------------------------------------------------------------


def _exact_maps(view: View, later: World | None, hits: Hits, wanted: set[str]) -> dict:
    world, width = view.world, view.width
    picture = (world.frames, view.height, width)
    solid, ray = torch.cat(hits.solid), torch.cat(hits.ray)
    out = {}
    if "ids" in wanted:
        ids = torch.zeros(world.frames * view.rays, dtype=torch.long, device=ray.device)
        out["ids"] = ids.scatter(0, ray, at(world.ids, solid)).view(picture)
    if wanted & {"boxes", "visible"}:
        seen = torch.bincount(solid, minlength=len(world.kind))
        out["visible"] = (seen / hits.whole.clamp_min(1)).view(world.frames, -1)
        out["boxes"] = _boxes(view, solid, ray, seen > 0).view(world.frames, -1, 4)
    if not wanted & {"depth", "normals", "flow", "occlusion"}:
        return out
    on = _surface(view, hits, normals="normals" in wanted)
    if "normals" in wanted:
        nothing = torch.zeros(world.frames * view.rays, device=ray.device)
        base = (nothing, nothing, _floor_seen(view).float().flatten())
        normal = [b.scatter(0, ray, n).view(picture) for b, n in zip(base, on.normal, strict=True)]
        out["normals"] = torch.stack(normal, dim=1)
    if wanted & {"depth", "flow", "occlusion"}:
        rays = tuple(r.flatten(1) for r in view.everywhere())
        down = -world.eye[2][:, None] / safe(rays[2])
        down = torch.where((down > EPS) & world.floor[:, None], down, FAR)
    if "depth" in wanted:
        depth = torch.where(down < FAR, down * dot(rays, world.camera[2][..., None]), torch.inf)
        along = on.t * dot(on.direction, at(world.camera[2], on.frame))
        out["depth"] = depth.flatten().scatter(0, ray, along).view(picture)
    return out | _flow(view, later, on, rays, down) if later is not None else out


def _boxes(view: View, solid: torch.Tensor, ray: torch.Tensor, some: torch.Tensor) -> torch.Tensor:
    """(K, 4) in [0, 1], of the visible pixels; NaN where there are none."""
    pixel = ray - at(view.world.frame_of, solid) * view.rays
    row = pixel // view.width
    ends = []
    for place, length in ((pixel - row * view.width, view.width), (row, view.height)):
        line = torch.zeros(len(some), length, dtype=torch.int32, device=pixel.device)
        line.view(-1)[solid * length + place] = 1
        ends.append((line.argmax(1) / length, (length - line.flip(1).argmax(1)) / length))
    (x0, x1), (y0, y1) = ends
    return torch.where(some[:, None], torch.stack([x0, y0, x1, y1], dim=1), torch.nan)


# --- motion between frames ------------------------------------------------------------------------------------------


def _project(eye, camera, scale, point, height: int, width: int) -> tuple:
    """Pixels x, y and depth z of world points."""
    q = turn(camera, minus(point, eye))
    z = q[2]
    scale = scale * height / torch.where(z.abs() < 1e-6, 1e-6, z)
    return q[0] * scale + width / 2, q[1] * scale + height / 2, z


def _flow(view: View, later: World, on: _Surface, rays, down: torch.Tensor) -> dict:
    world, height, width = view.world, view.height, view.width
    floor = down < FAR
    reach = torch.where(floor, down, 0.0)
    points = [e[:, None] + reach * r for e, r in zip(world.eye, rays, strict=True)]
    if torch.equal(world.eye, later.eye) and torch.equal(world.camera, later.camera):
        # the floor stands still before a camera that does
        x, y = torch.arange(width, device=down.device) + 0.5, torch.arange(height, device=down.device) + 0.5
        flat = torch.zeros(world.frames, height, width, device=down.device)
        flow = [flat.flatten()] * 2
        after = [(flat + x).flatten(1), (flat + y[:, None]).flatten(1), flat.flatten(1) + 1]
    else:
        before, after = (
            _project(w.eye[..., None], w.camera[..., None], w.scale[:, None], points, height, width)
            for w in (world, later)
        )
        flow = [torch.where(floor, a - b, 0.0).flatten() for a, b in zip(after[:2], before[:2], strict=True)]
    moved = turn(at(later.rotation, on.solid), on.local)
    moved = tuple(m + p for m, p in zip(moved, at(later.position, on.solid), strict=True))
    now, then = (
        _project(at(w.eye, on.frame), at(w.camera, on.frame), at(w.scale, on.frame), p, height, width)
        for w, p in ((world, on.point), (later, moved))
    )
    picture = (world.frames, height, width)
    flow = [f.scatter(0, on.ray, t - n).view(picture) for f, t, n in zip(flow, then[:2], now[:2], strict=True)]
    for c, m in zip((*points, *after), (*moved, *then), strict=True):
        c.view(-1).scatter_(0, on.ray, m)
    seen = floor.flatten().scatter(0, on.ray, True).view(world.frames, -1)
    place = (after[0] / width, after[1] / height)
    occlusion = hidden(later, outlines(later, width / height)[1], points, place, after[2]) | ~seen
    return {"flow": torch.stack(flow, dim=1), "occlusion": occlusion.view(picture)}


def tracks(
    scene: Scene, times: Sequence[float], points_per_object: int = 16, size: int | tuple[int, int] = 64, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Follows points fixed to the objects' surfaces, chosen among the pixels that the first frame shows of each.

    Returns:
        positions (T, P, 2) float32 pixels, visibility (T, P) bool, and (P,) int64 object ids.
    """
    from wm_pipelines.runtime.random import keyed

    height, width, times = *_size(size), _times(times)
    if points_per_object < 1:
        raise ValueError(f"`points_per_object` is {points_per_object!r}; it must be 1 or more")
    world = build_world([scene], times, "cpu")
    rng = keyed("tracks", seed, len(scene.objects), points_per_object)
    view = View(world.take(torch.tensor([0])), height, width, CENTRE)
    on = _surface(view, cast(view, outlines(view.world, width / height)[1]))
    picks = []
    for n in range(world.count):
        seen = (on.solid == n).nonzero()[:, 0]
        if len(seen):
            picks.append(seen[torch.from_numpy(rng.integers(len(seen), size=points_per_object))])
    pick = torch.cat(picks) if picks else torch.zeros(0, dtype=torch.long)
    solid = on.solid[pick] + torch.arange(world.frames)[:, None] * world.count  # (T, P)
    shape, solid = solid.shape, solid.reshape(-1)
    local = tuple(c[pick].repeat(world.frames) for c in on.local)
    point = turn(at(world.rotation, solid), local)
    point = tuple((a + b).view(shape) for a, b in zip(point, at(world.position, solid), strict=True))
    x, y, z = _project(world.eye[..., None], world.camera[..., None], world.scale[:, None], point, height, width)
    visible = ~hidden(world, outlines(world, width / height)[1], point, (x / width, y / height), z)
    visible &= (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return torch.stack([x, y], dim=-1), visible, world.ids[on.solid[pick]]
