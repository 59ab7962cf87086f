"""Analytic ray casting of Diorama scenes in torch (our design): pictures and every exact map, over scenes and times.

Elementwise arithmetic only, so a scene renders bit-equal alone and in any batch. Differentiable in poses and colours
through shading and geometry, not through visibility. One pass finds, for each ray, the nearest of the solids and the
floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from wm_pipelines.diorama.scene import COLOURS, FLOOR_ALBEDO, SHAPES, Scene, focal, look_at

EPS = 1e-4
FAR = 1e6
STRIPES = 6
SUPERSAMPLE = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
MAPS = ("rgb", "albedo", "ids", "depth", "normals", "flow", "occlusion", "boxes", "amodal_boxes", "visible")


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


@dataclass
class _World:
    """Numbers of F frames (scene x time) with up to N solids each; every entry is (F, N, ...) or (F, ...)."""

    kind: torch.Tensor  # (F, N) index into SHAPES, -1 = no object
    half: torch.Tensor  # (F, N)
    height: torch.Tensor  # (F, N)
    colour: torch.Tensor  # (F, N, 3)
    striped: torch.Tensor  # (F, N) bool
    shiny: torch.Tensor  # (F, N) bool
    position: torch.Tensor  # (F, N, 3)
    rotation: torch.Tensor  # (F, N, 3, 3) local to world
    ids: torch.Tensor  # (F, N)
    eye: torch.Tensor  # (F, 3)
    camera: torch.Tensor  # (F, 3, 3) world to camera
    scale: torch.Tensor  # (F,) focal length for a picture of height 1
    light: torch.Tensor  # (F, 3) unit
    ambient: torch.Tensor  # (F,)
    floor: torch.Tensor  # (F,) bool
    groups: list = field(default_factory=list)


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
        positions: optional (B, T, N, 3) that replace the objects' base centres, to differentiate through.
    """
    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    height, width = (size, size) if isinstance(size, int) else size
    unknown = [m for m in maps if m not in MAPS]
    if unknown:
        raise ValueError(f"`maps` has {unknown[0]!r}; known: {', '.join(MAPS)}")
    if not scenes or len(times) == 0:
        raise ValueError(f"`scenes` has {len(scenes)} and `times` {len(times)} entries; give at least one of each")
    if min(height, width) < 1:
        raise ValueError(f"`size` is {size!r}; both sides must be 1 pixel or more")
    shape = (len(scenes), len(times))
    world = _world(scenes, times, device)
    if colours is not None:
        world.colour = colours[:, None].expand(-1, len(times), -1, -1).reshape(world.colour.shape)
    if positions is not None:
        world.position = positions.reshape(world.position.shape)
    out = RenderOutput(object_ids=world.ids.reshape(*shape, -1)[:, 0])
    wanted = set(maps)
    if wanted & {"rgb", "albedo"}:
        lit = shade = 0.0
        for offset in SUPERSAMPLE:
            hit = _cast(world, world.eye, _rays(world, height, width, offset))
            albedo = _albedo(world, hit)
            shade = shade + albedo / len(SUPERSAMPLE) if "albedo" in wanted else shade
            lit = lit + _light(world, hit, albedo) / len(SUPERSAMPLE) if "rgb" in wanted else lit
        if "rgb" in wanted:
            out.rgb = lit.clamp(0, 1).reshape(*shape, height, width, 3).movedim(-1, 2)
        if "albedo" in wanted:
            out.albedo = shade.reshape(*shape, height, width, 3).movedim(-1, 2)
    if wanted - {"rgb", "albedo", "amodal_boxes"}:
        _centre_maps(out, world, scenes, times, shape, height, width, wanted)
    if "amodal_boxes" in wanted:
        # outward to whole pixels, as the visible boxes are, so that one contains the other
        grid = torch.tensor([width, height], dtype=torch.float32, device=world.eye.device)
        low, high = _amodal_boxes(world, width / height).reshape(*shape, -1, 4).split(2, dim=-1)
        out.amodal_boxes = torch.cat([(low * grid).floor() / grid, (high * grid).ceil() / grid], dim=-1)
    return out


def _centre_maps(out, world, scenes, times, shape, height, width, wanted) -> None:
    rays = _rays(world, height, width, (0.0, 0.0))
    hit = _cast(world, world.eye, rays, keep="visible" in wanted)
    picture = (*shape, height, width)
    if wanted & {"ids", "boxes", "visible"}:
        ids = torch.where(hit.index >= 0, world.ids.gather(1, hit.index.clamp_min(0)), 0)
        out.ids = ids.reshape(picture)
    if "depth" in wanted:
        forward = _dot(rays, world.camera[:, None, 2])
        out.depth = torch.where(hit.t < FAR, hit.t * forward, torch.inf).reshape(picture)
    if "normals" in wanted:
        normal = torch.where((hit.t < FAR)[..., None], hit.normal, 0.0)
        out.normals = normal.reshape(*picture, 3).movedim(-1, 2)
    if wanted & {"flow", "occlusion"}:
        later = _world(scenes, [t + 1 for t in times], world.eye.device)
        flow, hidden = _flow(world, later, hit, height, width)
        out.flow = flow.reshape(*picture, 2).movedim(-1, 2)
        out.occlusion = hidden.reshape(picture)
    if wanted & {"boxes", "visible"}:
        mine = ids[:, None] == world.ids[:, :, None]  # (F, N, P)
        mine &= (world.ids > 0)[..., None]
        out.boxes = _mask_boxes(mine.reshape(*mine.shape[:2], height, width)).reshape(*shape, -1, 4)
        if "visible" in wanted:
            whole = (hit.each < FAR).sum(-1)
            out.visible = (mine.sum(-1) / whole.clamp_min(1)).reshape(*shape, -1)


def tracks(
    scene: Scene, times: Sequence[float], points_per_object: int = 16, size: int | tuple[int, int] = 64, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Follows points fixed to the objects' surfaces.

    Returns:
        positions (T, P, 2) float32 pixels, visibility (T, P) bool, and (P,) int64 object ids.
    """
    from wm_pipelines.random import keyed

    height, width = (size, size) if isinstance(size, int) else size
    world = _world([scene], times, "cpu")
    rng = keyed("tracks", seed, len(scene.objects), points_per_object)
    frames, count = world.kind.shape
    # start points are chosen on what the first frame's camera sees, so that they are seen at least once
    hit = _cast(world, world.eye, _rays(world, height, width, (0.0, 0.0)))
    index, local = [], []
    for n in range(count):
        seen = (hit.index[0] == n).nonzero()[:, 0]
        if len(seen) == 0:
            continue
        pick = seen[torch.from_numpy(rng.integers(len(seen), size=points_per_object))]
        index += [n] * points_per_object
        local.append(hit.local[0, pick])
    if not index:
        return torch.zeros(frames, 0, 2), torch.zeros(frames, 0, dtype=torch.bool), torch.zeros(0, dtype=torch.long)
    index = torch.tensor(index)[None].expand(frames, -1)
    local = torch.cat(local)[None].expand(frames, -1, -1)
    point = _to_world(world, index, local)
    xy, _ = _project(world, point, height, width)
    visible = _sees(world, point) & (xy >= 0).all(-1) & (xy[..., 0] <= width) & (xy[..., 1] <= height)
    return xy, visible, world.ids[0][index[0]]


# --- geometry -------------------------------------------------------------------------------------------------------


@dataclass
class _Hit:
    index: torch.Tensor  # (F, P) solid, -1 = floor or nothing
    t: torch.Tensor  # (F, P) distance along the ray, FAR = nothing
    point: torch.Tensor  # (F, P, 3) world
    local: torch.Tensor  # (F, P, 3) in the solid's own axes, or world for the floor
    normal: torch.Tensor  # (F, P, 3) world
    ray: torch.Tensor  # (F, P, 3)
    each: torch.Tensor | None = None  # (F, N, P) distance to each solid


def _world(scenes, times, device) -> _World:
    count = max(1, max(len(s.objects) for s in scenes))
    rows: dict[str, list] = {k: [] for k in ("kind", "half", "height", "colour", "striped", "shiny", "ids")}
    poses, rotations, eyes, cameras = [], [], [], []
    for scene in scenes:
        pad = count - len(scene.objects)
        rows["kind"].append([SHAPES.index(o.shape) for o in scene.objects] + [-1] * pad)
        rows["half"].append([o.half_width for o in scene.objects] + [1.0] * pad)
        rows["height"].append([o.height for o in scene.objects] + [1.0] * pad)
        rows["colour"].append([COLOURS[o.colour] for o in scene.objects] + [(0.0,) * 3] * pad)
        rows["striped"].append([o.pattern == "striped" for o in scene.objects] + [False] * pad)
        rows["shiny"].append([o.material == "shiny" for o in scene.objects] + [False] * pad)
        rows["ids"].append([o.id for o in scene.objects] + [0] * pad)
        for t in times:
            position, rotation = _poses(scene, t, pad)
            poses.append(position)
            rotations.append(rotation)
            eye, camera = _camera(scene, t)
            eyes.append(eye)
            cameras.append(camera)

    def frames(name, dtype):
        value = torch.tensor(rows[name], dtype=dtype)
        return value.repeat_interleave(len(times), dim=0).to(device)

    def scene_value(values, dtype=torch.float32):
        return torch.tensor(values, dtype=dtype).repeat_interleave(len(times), dim=0).to(device)

    light = torch.tensor([s.light.direction for s in scenes])
    light = light / light.square().sum(-1, keepdim=True).sqrt()
    world = _World(
        kind=frames("kind", torch.long),
        half=frames("half", torch.float32),
        height=frames("height", torch.float32),
        colour=frames("colour", torch.float32),
        striped=frames("striped", torch.bool),
        shiny=frames("shiny", torch.bool),
        ids=frames("ids", torch.long),
        position=torch.stack(poses).float().to(device),
        rotation=torch.stack(rotations).float().to(device),
        eye=torch.stack(eyes).float().to(device),
        camera=torch.stack(cameras).float().to(device),
        scale=scene_value([focal(s.camera, 1) for s in scenes]),
        light=light.repeat_interleave(len(times), dim=0).to(device),
        ambient=scene_value([s.light.ambient for s in scenes]),
        floor=scene_value([s.floor for s in scenes], torch.bool),
    )
    for kind, _ in enumerate(SHAPES):
        frame, solid = (world.kind == kind).nonzero(as_tuple=True)
        if len(frame):
            world.groups.append((kind, frame, solid))
    return world


def _poses(scene: Scene, t: float, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    positions, rotations = [], []
    for o in scene.objects:
        if o.motion:
            from wm_pipelines.diorama.motion import pose_at

            position, quaternion = pose_at(o, scene, t)
        else:
            position = torch.tensor(o.position, dtype=torch.float64)
            yaw = torch.tensor(o.yaw, dtype=torch.float64)
            zero = torch.zeros_like(yaw)
            quaternion = torch.stack([(yaw / 2).cos(), zero, zero, (yaw / 2).sin()])
        positions.append(position)
        rotations.append(_matrix(quaternion))
    for _ in range(pad):
        positions.append(torch.zeros(3))
        rotations.append(torch.eye(3))
    dtype = positions[0].dtype if positions else torch.float32
    return (
        torch.stack([p.to(dtype) for p in positions]) if positions else torch.zeros(0, 3),
        torch.stack([r.to(dtype) for r in rotations]) if rotations else torch.zeros(0, 3, 3),
    )


def _camera(scene: Scene, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    if scene.camera.motion:
        from wm_pipelines.diorama.motion import camera_at

        pose = camera_at(scene, t)
        rotation = pose[:3, :3]
        return -(rotation * pose[:3, 3:]).sum(0), rotation
    rotation = torch.from_numpy(look_at(scene.camera.eye, scene.camera.target))
    return torch.tensor(scene.camera.eye, dtype=torch.float64), rotation


def _matrix(q: torch.Tensor) -> torch.Tensor:
    w, x, y, z = (q / q.square().sum().sqrt()).unbind()
    return torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]),
        ]
    )


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _turn(rotation: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """rotation (..., 3, 3) applied to v (..., 3), elementwise."""
    return torch.stack([_dot(rotation[..., i, :], v) for i in range(3)], dim=-1)


def _turn_back(rotation: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.stack([_dot(rotation[..., :, i], v) for i in range(3)], dim=-1)


def _rays(world: _World, height: int, width: int, offset: tuple[float, float]) -> torch.Tensor:
    """Unit directions (F, H*W, 3) through the pixel centres moved by `offset` pixels."""
    device = world.eye.device
    x = (torch.arange(width, device=device) + 0.5 + offset[0] - width / 2) / height
    y = (torch.arange(height, device=device) + 0.5 + offset[1] - height / 2) / height
    y, x = torch.meshgrid(y, x, indexing="ij")
    f = world.scale[:, None]
    local = torch.stack(
        [(x.reshape(1, -1) / f), (y.reshape(1, -1) / f), torch.ones_like(f).expand(-1, height * width)], dim=-1
    )
    ray = _turn_back(world.camera[:, None], local)
    return ray / _dot(ray, ray).sqrt()[..., None]


def _solid_distance(world: _World, origin: torch.Tensor, ray: torch.Tensor) -> torch.Tensor:
    """Distance (F, N, P) to each solid from `origin` (F, 3) or (F, P, 3) along unit `ray`; FAR = none."""
    points = max(ray.shape[1], origin.shape[1] if origin.dim() == 3 else 1)
    frames, count = world.kind.shape
    out = torch.full((frames, count, points), FAR, device=ray.device)
    origin = origin[:, None] if origin.dim() == 2 else origin
    for kind, frame, solid in world.groups:
        rotation = world.rotation[frame, solid][:, None]
        o = _turn_back(rotation, origin[frame] - world.position[frame, solid][:, None])
        d = _turn_back(rotation, ray[frame])
        half, height = world.half[frame, solid][:, None], world.height[frame, solid][:, None]
        t = _INTERSECT[kind](o.unbind(-1), d.unbind(-1), half, height)
        out = out.index_put((frame, solid), t.expand(-1, points))
    return out


def _first(near, far, ok):
    """The smallest of near <= far that is ahead of the origin."""
    t = torch.where(near > EPS, near, far)
    return torch.where(ok & (t > EPS), t, FAR)


def _quadratic(a, b, c):
    """Roots of a t^2 + 2 b t + c; the gradient stays finite where there are none."""
    disc = b * b - a * c
    ok = disc > 0
    root = torch.where(ok, disc, 1.0).sqrt()
    a = torch.where(a.abs() < 1e-9, torch.full_like(a, 1e-9), a)
    t0, t1 = (-b - root) / a, (-b + root) / a
    return torch.minimum(t0, t1), torch.maximum(t0, t1), ok


def _safe(d):
    return torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)


def _hit_sphere(o, d, half, height):
    z = o[2] - half
    b = o[0] * d[0] + o[1] * d[1] + z * d[2]
    c = o[0] * o[0] + o[1] * o[1] + z * z - half * half
    near, far, ok = _quadratic(torch.ones_like(b), b, c)
    return _first(near, far, ok)


def _hit_cube(o, d, half, height):
    near, far = None, None
    for axis, (low, high) in enumerate(((-half, half), (-half, half), (torch.zeros_like(half), height))):
        inverse = 1.0 / _safe(d[axis])
        t0, t1 = (low - o[axis]) * inverse, (high - o[axis]) * inverse
        t0, t1 = torch.minimum(t0, t1), torch.maximum(t0, t1)
        near = t0 if near is None else torch.maximum(near, t0)
        far = t1 if far is None else torch.minimum(far, t1)
    return _first(near, far, near < far)


def _hit_cylinder(o, d, half, height):
    near, far, ok = _quadratic(
        d[0] * d[0] + d[1] * d[1], o[0] * d[0] + o[1] * d[1], o[0] * o[0] + o[1] * o[1] - half * half
    )
    inverse = 1.0 / _safe(d[2])
    t0, t1 = -o[2] * inverse, (height - o[2]) * inverse
    near, far = torch.maximum(near, torch.minimum(t0, t1)), torch.minimum(far, torch.maximum(t0, t1))
    return _first(near, far, ok & (near < far))


def _hit_cone(o, d, half, height):
    k = (half / height).square()
    z = o[2] - height
    a = d[0] * d[0] + d[1] * d[1] - k * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] - k * z * d[2]
    c = o[0] * o[0] + o[1] * o[1] - k * z * z
    t0, t1, ok = _quadratic(a, b, c)
    best = torch.full_like(t0, FAR)
    for t in (t0, t1):
        at = o[2] + t * d[2]
        best = torch.minimum(best, torch.where(ok & (t > EPS) & (at >= 0) & (at <= height), t, FAR))
    t = -o[2] / _safe(d[2])
    x, y = o[0] + t * d[0], o[1] + t * d[1]
    return torch.minimum(best, torch.where((t > EPS) & (x * x + y * y <= half * half), t, FAR))


_INTERSECT = (_hit_sphere, _hit_cube, _hit_cylinder, _hit_cone)


def _cast(world: _World, origin: torch.Tensor, ray: torch.Tensor, keep: bool = False) -> _Hit:
    each = _solid_distance(world, origin, ray)
    t, index = each.min(dim=1)
    origin = origin[:, None] if origin.dim() == 2 else origin
    down = -origin[..., 2] / _safe(ray[..., 2])
    down = torch.where((down > EPS) & world.floor[:, None], down, FAR)
    index = torch.where((t < FAR) & (t <= down), index, -1)
    t = torch.minimum(t, down)
    point = origin + torch.where(t < FAR, t, 0.0)[..., None] * ray
    solid = index.clamp_min(0)
    rotation = _gather(world.rotation, solid)
    local = _turn_back(rotation, point - _gather(world.position, solid))
    normal = _normal(world, index, solid, rotation, local)
    on_solid = (index >= 0)[..., None]
    return _Hit(index, t, point, torch.where(on_solid, local, point), normal, ray, each if keep else None)


def _gather(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values (F, N, ...) at index (F, P) -> (F, P, ...)."""
    frame = torch.arange(values.shape[0], device=values.device)[:, None]
    return values[frame, index]


def _normal(world, index, solid, rotation, local) -> torch.Tensor:
    kind = _gather(world.kind, solid)
    half, height = _gather(world.half, solid), _gather(world.height, solid)
    x, y, z = local.unbind(-1)
    zero = torch.zeros_like(x)
    sphere = torch.stack([x, y, z - half], dim=-1)
    u, v, w = x / half, y / half, (2 * z - height) / height
    au, av, aw = u.abs(), v.abs(), w.abs()
    cube = torch.stack(
        [
            torch.where((au >= av) & (au >= aw), u, zero),
            torch.where((av > au) & (av >= aw), v, zero),
            torch.where((aw > au) & (aw > av), w, zero),
        ],
        dim=-1,
    )
    radial = (x * x + y * y).clamp_min(1e-12).sqrt()
    cap = (z > height - 1e-3) | (z < 1e-3)
    flat = torch.stack([zero, zero, torch.where(z > height / 2, 1.0, -1.0)], dim=-1)
    cylinder = torch.where((cap & (radial < half - 1e-3))[..., None], flat, torch.stack([x, y, zero], dim=-1))
    base = (z < 1e-3) & (radial < half - 1e-3)
    cone = torch.where(base[..., None], flat, torch.stack([x, y, radial * half / height], dim=-1))
    normal = torch.where((kind == 0)[..., None], sphere, cube)
    normal = torch.where((kind == 2)[..., None], cylinder, normal)
    normal = torch.where((kind == 3)[..., None], cone, normal)
    normal = normal / _dot(normal, normal).clamp_min(1e-12).sqrt()[..., None]
    up = torch.stack([zero, zero, torch.ones_like(x)], dim=-1)
    return torch.where((index >= 0)[..., None], _turn(rotation, normal), up)


# --- light ----------------------------------------------------------------------------------------------------------


def _albedo(world: _World, hit: _Hit) -> torch.Tensor:
    """Unlit colour (F, P, 3); dark stripes turn about the solid's own z axis, so that a rotation shows."""
    solid = hit.index.clamp_min(0)
    colour = _gather(world.colour, solid)
    angle = torch.atan2(hit.local[..., 1], hit.local[..., 0]) * (STRIPES / (2 * torch.pi))
    stripe = _gather(world.striped, solid) & (torch.remainder(angle, 1.0) < 0.4)
    colour = torch.where(stripe[..., None], colour * 0.45, colour)
    floor = torch.tensor(FLOOR_ALBEDO, device=colour.device)
    colour = torch.where((hit.index >= 0)[..., None], colour, floor)
    return torch.where((hit.t < FAR)[..., None], colour, 0.0)


def _light(world: _World, hit: _Hit, albedo: torch.Tensor) -> torch.Tensor:
    """Lambert with one hard shadow, and a Blinn-Phong highlight on shiny solids."""
    light = world.light[:, None]
    facing = _dot(hit.normal, light).clamp_min(0)
    start = hit.point + hit.normal * 2e-3
    shadowed = (_solid_distance(world, start, light) < FAR).any(1)
    direct = torch.where(shadowed, 0.0, facing)
    ambient = world.ambient[:, None]
    colour = albedo * (ambient + (1.15 - ambient) * direct)[..., None]
    middle = light - hit.ray
    middle = middle / _dot(middle, middle).sqrt()[..., None]
    glint = _dot(hit.normal, middle).clamp_min(0) ** 32
    shiny = (hit.index >= 0) & _gather(world.shiny, hit.index.clamp_min(0)) & ~shadowed
    return colour + torch.where(shiny, 0.6 * glint, 0.0)[..., None]


# --- motion between frames, boxes -----------------------------------------------------------------------------------


def _to_world(world: _World, index: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    solid = index.clamp_min(0)
    moved = _turn(_gather(world.rotation, solid), local) + _gather(world.position, solid)
    return torch.where((index >= 0)[..., None], moved, local)


def _project(world: _World, point: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    q = _turn(world.camera[:, None], point - world.eye[:, None])
    z = q[..., 2]
    scale = world.scale[:, None] * height / torch.where(z.abs() < 1e-6, 1e-6, z)
    return torch.stack([q[..., 0] * scale + width / 2, q[..., 1] * scale + height / 2], dim=-1), z


def _sees(world: _World, point: torch.Tensor) -> torch.Tensor:
    """Whether the camera sees each point (F, P, 3): in front of it, with nothing nearer on the way."""
    ray = point - world.eye[:, None]
    distance = _dot(ray, ray).sqrt()
    ray = ray / distance[..., None]
    t = _solid_distance(world, world.eye, ray).amin(1)
    down = -world.eye[:, None, 2] / _safe(ray[..., 2])
    t = torch.minimum(t, torch.where((down > EPS) & world.floor[:, None], down, FAR))
    return (t > distance - 5e-3) & (_dot(ray, world.camera[:, None, 2]) > 0)


def _flow(world, later, hit, height, width) -> tuple[torch.Tensor, torch.Tensor]:
    point = _to_world(later, hit.index, hit.local)
    now, _ = _project(world, hit.point, height, width)
    then, _ = _project(later, point, height, width)
    seen = (hit.t < FAR)[..., None]
    return torch.where(seen, then - now, 0.0), ~_sees(later, point) | ~seen[..., 0]


def _mask_boxes(mask: torch.Tensor) -> torch.Tensor:
    """(F, N, H, W) bool -> (F, N, 4) in [0, 1]; NaN where the mask is empty."""
    height, width = mask.shape[-2:]
    rows, columns = mask.any(-1), mask.any(-2)
    some = rows.any(-1)

    def ends(line, length):
        first = line.int().argmax(-1)
        last = length - line.flip(-1).int().argmax(-1)
        return first / length, last / length

    x0, x1 = ends(columns, width)
    y0, y1 = ends(rows, height)
    return torch.where(some[..., None], torch.stack([x0, y0, x1, y1], dim=-1), torch.nan)


def _amodal_boxes(world: _World, aspect: float, sides: int = 96) -> torch.Tensor:
    """Boxes of whole silhouettes (F, N, 4), from outlines that contain them."""
    frames, count = world.kind.shape
    out = torch.full((frames, count, 4), torch.nan, device=world.eye.device)
    angle = torch.arange(sides, device=world.eye.device) * (2 * torch.pi / sides)
    wide = 1.0 / torch.cos(torch.tensor(torch.pi / sides))
    ring = torch.stack([angle.cos() * wide, angle.sin() * wide, torch.zeros_like(angle)], dim=-1)
    square = torch.tensor([(x, y, 0.0) for x in (-1.0, 1.0) for y in (-1.0, 1.0)], device=ring.device)
    for kind, frame, solid in world.groups:
        half, height = world.half[frame, solid][:, None], world.height[frame, solid][:, None]
        position, rotation = world.position[frame, solid], world.rotation[frame, solid]
        eye, camera, scale = world.eye[frame], world.camera[frame], world.scale[frame]
        if kind == 0:
            centre = position + _turn(rotation, torch.stack([0 * half, 0 * half, half], dim=-1)[:, 0])
            to_eye = eye - centre
            distance = _dot(to_eye, to_eye).sqrt()[:, None]
            axis = to_eye / distance
            # the circle where sight lines touch the sphere
            side = torch.stack([axis[:, 1], -axis[:, 0], torch.zeros_like(axis[:, 0])], dim=-1)
            side = side / _dot(side, side).clamp_min(1e-12).sqrt()[:, None]
            other = torch.linalg.cross(axis, side)
            reach = half * (1 - (half / distance).square()).clamp_min(0).sqrt()
            middle = centre + axis * (half.square() / distance)
            outline = middle[:, None] + reach[..., None] * (
                ring[None, :, :1] * side[:, None] + ring[None, :, 1:2] * other[:, None]
            )
        else:
            base = square if kind == 1 else ring
            low = base[None] * half[..., None]
            up = torch.tensor([0.0, 0.0, 1.0], device=ring.device) * height[..., None]
            local = torch.cat([low, low + up] if kind != 3 else [low, up], dim=1)
            outline = _turn(rotation[:, None], local) + position[:, None]
        q = _turn(camera[:, None], outline - eye[:, None])
        z = q[..., 2].clamp_min(1e-3)
        x = 0.5 + scale[:, None] / aspect * q[..., 0] / z
        y = 0.5 + scale[:, None] * q[..., 1] / z
        out[frame, solid] = torch.stack([x.amin(1), y.amin(1), x.amax(1), y.amax(1)], dim=-1)
    return out
