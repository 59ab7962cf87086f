"""Analytic ray casting of Diorama scenes in torch (our design): pictures and every exact map, over scenes, cameras and
times.

Elementwise arithmetic only, so a scene renders bit-equal alone and in any batch. Differentiable in positions and
colours through shading and geometry, not through visibility: which solid a ray meets is found without gradients
(`cast.py`), then what it meets there is computed again with them (`surface.py`, `shading.py`). The floor is handled as
the background it mostly is.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from wm_pipelines.diorama.cast import Hits, View, at, cast, hidden, outlines
from wm_pipelines.diorama.scene import Camera, Scene
from wm_pipelines.diorama.shading import shade
from wm_pipelines.diorama.solids import EPS, FAR, safe
from wm_pipelines.diorama.surface import Surface, floor_seen, surface
from wm_pipelines.diorama.world import World, build_world, check_cameras, dot, look_from, minus, turn

SUPERSAMPLE = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
CENTRE = ((0.0, 0.0),)
MAPS = ("rgb", "albedo", "ids", "depth", "normals", "flow", "occlusion", "boxes", "amodal_boxes", "visible")
RAYS_AT_ONCE = 1 << 20


@dataclass
class RenderOutput:
    """What was asked for; B scenes, T times, N = most objects in a scene. Absent maps are None. Of V `cameras`, what
    is (B, T, ...) here is (B, V, T, ...).

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
    cameras: Sequence[Camera] | None = None,
) -> RenderOutput:
    """Renders every scene at every time, from its own camera or from each of several.

    Args:
        scenes: one scene or several (B).
        times: T times in frames.
        size: H = W, or (H, W), pixels, 1 or more.
        maps: names out of `MAPS`.
        colours: optional (B, N, 3) that replace the objects' colours, to differentiate through.
        positions: optional (B, T, N, 3) that replace the objects' base centres, to differentiate through; no flow and
            occlusion then, as they need the next frame.
        cameras: optional V cameras that look at every scene in place of its own. The scene's own still says what
            left, right, towards and away mean in the motions of its objects, so all of them see the same world.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    if not scenes:
        raise ValueError("`scenes` is empty; give one scene or more")
    height, width, times = *check_size(size), check_times(times)
    wanted, unknown = set(maps), [m for m in maps if m not in MAPS]
    if unknown or not wanted:
        got = repr(unknown[0]) if unknown else "no entry"
        raise ValueError(f"`maps` has {got}; known: {', '.join(MAPS)}")
    shape, moves = (len(scenes), len(times)), bool(wanted & {"flow", "occlusion"})
    cameras = check_cameras(cameras)
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
    ids = world.ids.reshape(*shape, -1)[:, 0]
    if cameras is not None:
        world = look_from(world, scenes, times, cameras)
        later = later and look_from(later, scenes, [t + 1 for t in times], cameras)
        shape = (len(scenes), len(cameras), len(times))
    step = max(1, RAYS_AT_ONCE // (height * width * len(SUPERSAMPLE)))
    parts = [
        _frames(world.take(some), later and later.take(some), height, width, wanted)
        for some in torch.arange(world.frames, device=world.scale.device).split(step)
    ]
    out = {name: torch.cat([p[name] for p in parts]).unflatten(0, shape) for name in wanted}
    return RenderOutput(object_ids=ids, **out)


def check_size(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(isinstance(s, int) and s >= 1 for s in sides):
        raise ValueError(f"`size` is {size!r}; a side or (height, width), whole pixels, 1 or more")
    return sides


def check_times(times: Iterable[float]) -> list[float]:
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
        out |= shade(view, cast(view, search), wanted)
    if wanted - {"rgb", "albedo", "amodal_boxes"}:
        view = View(world, height, width, CENTRE)
        out |= _exact_maps(view, later, cast(view, search), wanted)
    return {name: out[name] for name in wanted}


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
    on = surface(view, hits, normals="normals" in wanted)
    if "normals" in wanted:
        nothing = torch.zeros(world.frames * view.rays, device=ray.device)
        base = (nothing, nothing, floor_seen(view).float().expand(-1, 1, view.height, width).flatten())
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


def _flow(view: View, later: World, on: Surface, rays, down: torch.Tensor) -> dict:
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
    scene: Scene,
    times: Sequence[float],
    points_per_object: int = 16,
    size: int | tuple[int, int] = 64,
    seed: int = 0,
    cameras: Sequence[Camera] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Follows points fixed to the objects' surfaces, chosen among the pixels that the first frame shows of each.

    Args:
        cameras: as `render` takes them; the points are chosen among the first frames of all, and are the same in each.

    Returns:
        positions (T, P, 2) float32 pixels, visibility (T, P) bool, and (P,) int64 object ids; positions (V, T, P, 2)
        and visibility (V, T, P) where `cameras` are given.
    """
    from wm_pipelines.runtime.random import keyed

    height, width, times, cameras = *check_size(size), check_times(times), check_cameras(cameras)
    if points_per_object < 1:
        raise ValueError(f"`points_per_object` is {points_per_object!r}; it must be 1 or more")
    world, shape = build_world([scene], times, "cpu"), (len(times),)
    if cameras is not None:
        world, shape = look_from(world, [scene], times, cameras), (len(cameras), len(times))
    count = world.count
    view = View(world.take(torch.arange(0, world.frames, len(times))), height, width, CENTRE)
    on = surface(view, cast(view, outlines(view.world, width / height)[1]))
    rng = keyed("tracks", seed, len(scene.objects), points_per_object)
    picks = []
    for n in range(count):
        seen = (on.solid % count == n).nonzero()[:, 0]
        if len(seen):
            picks.append(seen[torch.from_numpy(rng.integers(len(seen), size=points_per_object))])
    pick = torch.cat(picks) if picks else torch.zeros(0, dtype=torch.long)
    solid = on.solid[pick] % count + torch.arange(world.frames)[:, None] * count  # (V * T, P)
    local = tuple(c[pick].repeat(world.frames) for c in on.local)
    point = turn(at(world.rotation, solid.reshape(-1)), local)
    point = tuple((a + b).view(solid.shape) for a, b in zip(point, at(world.position, solid.reshape(-1)), strict=True))
    x, y, z = _project(world.eye[..., None], world.camera[..., None], world.scale[:, None], point, height, width)
    visible = ~hidden(world, outlines(world, width / height)[1], point, (x / width, y / height), z)
    visible &= (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return torch.stack([x, y], dim=-1).unflatten(0, shape), visible.unflatten(0, shape), view.world.ids[on.solid[pick]]
