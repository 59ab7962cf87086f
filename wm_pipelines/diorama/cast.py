"""Which solid each ray meets first, looking only where something can be (our design).

Each solid is tried on the pixels of its own box in the picture, and what was hit is kept as flat lists. Solids of one
kind and about one box width are tried together, row by row: patches are (R, S, width), R rows of boxes with S samples
a pixel, and a number per row broadcasts over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wm_pipelines.diorama.solids import DISTANCE, EPS, FAR, outline, safe
from wm_pipelines.diorama.world import World, dot, minus, turn, turn_back, unit

WIDTHS = (4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384)
NEAR = 0.05  # metres in front of the camera's plane: what reaches nearer may be anywhere in the picture


@dataclass
class View:
    """The rays of one picture of every frame: `offsets` (x, y) in pixels from the pixel centres, one per sample."""

    world: World
    height: int
    width: int
    offsets: tuple[tuple[float, float], ...]

    @property
    def rays(self) -> int:
        """Rays of one frame; ray number ((frame * S + sample) * H + y) * W + x."""
        return len(self.offsets) * self.height * self.width

    def axes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """x (S, W) and y (S, H) of the rays, in picture heights from the middle."""
        device = self.world.eye.device
        moved = torch.tensor(self.offsets, device=device)
        x = (torch.arange(self.width, device=device) + 0.5 + moved[:, :1] - self.width / 2) / self.height
        y = (torch.arange(self.height, device=device) + 0.5 + moved[:, 1:] - self.height / 2) / self.height
        return x, y

    def everywhere(self) -> tuple:
        """Unit directions (3 x (F, S, H, W)) of all rays, or (1, ...) where all frames share one camera."""
        x, y = self.axes()
        camera, scale = self.world.camera, self.world.scale
        if (camera == camera[..., :1]).all() and (scale == scale[:1]).all():
            camera, scale = camera[..., :1], scale[:1]
        camera, scale = camera[..., None, None, None], scale[:, None, None, None]
        return unit(turn_back(camera, (x[:, None, :] / scale, y[:, :, None] / scale, torch.ones_like(scale))))


def at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values (..., K) at index (n,) -> (..., n)."""
    if values.dim() < 3:
        return values.index_select(-1, index)
    return values.flatten(0, 1).index_select(-1, index).unflatten(0, values.shape[:2])


@dataclass
class Hits:
    """What rays meet, as lists: solids of kind k stand in `solid[k]` (W numbers), their rays in `ray[k]`."""

    solid: list[torch.Tensor]
    ray: list[torch.Tensor]
    t: list[torch.Tensor]
    direction: list[tuple]  # 3 x (W,) unit, of the rays
    whole: torch.Tensor  # (K,) rays that meet the solid, hidden or not


@torch.no_grad()
def outlines(world: World, aspect: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (K, 4) in [0, 1] (beyond it outside the frame) around whole silhouettes, NaN where there is no solid; and
    the same for searching: all of the plane where a solid comes too near the camera for a box."""
    boxes = torch.full((len(world.kind), 4), torch.nan, device=world.eye.device)
    frame_of, search = world.frame_of, boxes.clone()
    for kind in range(len(DISTANCE)):
        solid = (world.kind == kind).nonzero()[:, 0]
        if len(solid) == 0:
            continue
        rotation, position = at(world.rotation, solid), at(world.position, solid)
        half, frame = at(world.half, solid), at(frame_of, solid)
        eye = at(world.eye, frame)
        to_eye = turn_back(rotation, minus(eye, position))
        points = turn(rotation[..., None], outline(kind, to_eye, half, at(world.height, solid)))
        points = tuple(p + o[:, None] for p, o in zip(points, position, strict=True))
        box, near = _frame_box(at(world.camera, frame), eye, at(world.scale, frame), points, aspect)
        boxes[solid] = box
        if kind == 0:  # from within, a sphere has no outline
            middle = to_eye[2] - half
            near = near | (dot((*to_eye[:2], middle), (*to_eye[:2], middle)) <= (half * 1.01).square())
        everything = torch.tensor([-torch.inf, -torch.inf, torch.inf, torch.inf], device=box.device)
        search[solid] = torch.where(near[:, None], everything, box)
    return boxes, search


def _frame_box(camera, eye, scale, points, aspect) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (K, 4) around points 3 x (K, M), and whether one of them is too near for a box."""
    q = turn(camera[..., None], minus(points, eye[..., None]))
    z = q[2].clamp_min(1e-3)
    x = 0.5 + scale[:, None] / aspect * q[0] / z
    y = 0.5 + scale[:, None] * q[1] / z
    return torch.stack([x.amin(1), y.amin(1), x.amax(1), y.amax(1)], dim=1), q[2].amin(1) < NEAR


@torch.no_grad()
def shadow_boxes(world: World, aspect: float) -> torch.Tensor:
    """Boxes (K, 4) around each solid's shadow on the floor, NaN where there is none."""
    device = world.eye.device
    frame = world.frame_of
    light = at(world.light, frame)
    corner = torch.tensor([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], device=device).T
    local = (corner[0] * world.half[:, None], corner[1] * world.half[:, None], corner[2] * world.height[:, None])
    points = tuple(p + o[:, None] for p, o in zip(turn(world.rotation[..., None], local), world.position, strict=True))
    reach = points[2] / safe(light[2])[:, None]
    points = tuple(p - reach * c[:, None] for p, c in zip(points, light, strict=True))
    eye = at(world.eye, frame)
    box, near = _frame_box(at(world.camera, frame), eye, at(world.scale, frame), points, aspect)
    everything = torch.tensor([-torch.inf, -torch.inf, torch.inf, torch.inf], device=device)
    box = torch.where(near[:, None], everything, box)
    none = (world.kind < 0) | (light[2] <= 0) | ~at(world.floor, frame)
    return torch.where(none[:, None], torch.nan, box)


def _patches(view: View, boxes: torch.Tensor):
    """Yields, for groups of rows: kind, solids (R,), rays (3 x (R, S, width)), ray numbers and whether each lies in
    its box and in the picture."""
    world, height, width = view.world, view.height, view.width
    device = boxes.device
    size = torch.tensor([width, height], dtype=torch.float32, device=device)
    # a hair wider, for rounding
    low = (boxes[:, :2] * size - 0.01).nan_to_num(1e9).clamp(min=0 * size, max=size).floor().long()
    high = (boxes[:, 2:] * size + 0.01).nan_to_num(-1e9).clamp(min=0 * size, max=size).ceil().long()
    used = ((high > low).all(1) & (world.kind >= 0)).nonzero()[:, 0]
    bucket = torch.bucketize((high - low)[used, 0], torch.tensor(WIDTHS, device=device))
    keys = world.kind[used] * len(WIDTHS) + bucket
    frame_of = world.frame_of
    x, y = view.axes()
    sample = torch.arange(len(view.offsets), device=device)
    for key in keys.unique().tolist():
        kind, wide = key // len(WIDTHS), WIDTHS[key % len(WIDTHS)]
        solid = used[keys == key]
        column = low[solid, :1] + torch.arange(wide, device=device)  # (k, wide)
        inside = column < high[solid, :1]
        column = column.clamp_max(width - 1)
        rows = high[solid, 1] - low[solid, 1]
        of = torch.arange(len(solid), device=device).repeat_interleave(rows)  # (R,)
        row = torch.arange(len(of), device=device) + (low[solid, 1] - rows.cumsum(0) + rows).index_select(0, of)
        frame = frame_of[solid]
        camera, scale = at(world.camera, frame), at(world.scale, frame)
        across = x[:, column].movedim(0, 1) / scale[:, None, None]
        down = y[:, row].T / scale.index_select(0, of)[:, None]
        ray = unit(
            (right[:, None, None] * across).index_select(0, of)
            + (below.index_select(0, of)[:, None] * down)[..., None]
            + ahead.index_select(0, of)[:, None, None]
            for right, below, ahead in zip(*camera, strict=True)
        )
        number = (frame.index_select(0, of)[:, None] * len(view.offsets) + sample) * height + row[:, None]
        number = (number * width)[..., None] + column.index_select(0, of)[:, None]
        yield kind, solid.index_select(0, of), ray, number, inside.index_select(0, of)[:, None]


def _down(world: World, frame: torch.Tensor, ray_z: torch.Tensor) -> torch.Tensor:
    """Distance to the floor along rays whose frame index broadcasts against them; FAR = none."""
    down = -at(world.eye, frame)[2].reshape(-1, *(1,) * (ray_z.dim() - 1)) / safe(ray_z)
    floor = at(world.floor, frame).reshape(-1, *(1,) * (ray_z.dim() - 1))
    return torch.where((down > EPS) & floor, down, FAR)


@torch.no_grad()
def cast(view: View, boxes: torch.Tensor) -> Hits:
    """The first solid that each ray from the camera meets before the floor."""
    world = view.world
    device, kinds = world.eye.device, len(DISTANCE)
    frame_of = world.frame_of
    local_eye = torch.stack(turn_back(world.rotation, minus(at(world.eye, frame_of), world.position)))
    solids, rays, distances, directions = ([[] for _ in range(kinds)] for _ in range(4))
    whole = torch.zeros(len(world.kind), dtype=torch.long, device=device)
    for kind, solid, ray, number, inside in _patches(view, boxes):
        o, d = _wide(local_eye, solid), turn_back(_wide(world.rotation, solid), ray)
        t = DISTANCE[kind](o, d, _wide(world.half, solid), _wide(world.height, solid))
        hit = (t < FAR) & inside
        found = hit.flatten(1).sum(1)
        whole.index_add_(0, solid, found)
        hit = hit.flatten().nonzero()[:, 0]
        mine = solid.repeat_interleave(found)
        t, number, *ray = (c.flatten().index_select(0, hit) for c in (t, number, *ray))
        above = t <= _down(world, frame_of.index_select(0, mine), ray[2])
        if not above.all():
            mine, t, number, *ray = (c[above] for c in (mine, t, number, *ray))
        solids[kind].append(mine)
        distances[kind].append(t)
        rays[kind].append(number)
        directions[kind].append(ray)
    # positive floats order as their bits do, so one number holds the distance and, for ties, the solid
    first = torch.full((world.frames * view.rays,), torch.iinfo(torch.long).max, device=device)
    hits = Hits([], [], [], [], whole)
    keys = []
    empty = torch.zeros(0, dtype=torch.long, device=device)
    for kind in range(kinds):
        hits.solid.append(torch.cat([empty, *solids[kind]]))
        hits.ray.append(torch.cat([empty, *rays[kind]]))
        hits.t.append(torch.cat([empty.float(), *distances[kind]]))
        hits.direction.append(tuple(map(torch.cat, zip([empty.float()] * 3, *directions[kind], strict=True))))
        keys.append((hits.t[kind].view(torch.int32).long() << 32) + hits.solid[kind])
        first.scatter_reduce_(0, hits.ray[kind], keys[kind], "amin")
    for kind in range(kinds):
        won = (first.index_select(0, hits.ray[kind]) == keys[kind]).nonzero()[:, 0]
        for values in (hits.solid, hits.ray, hits.t):
            values[kind] = values[kind].index_select(0, won)
        hits.direction[kind] = tuple(c.index_select(0, won) for c in hits.direction[kind])
    return hits


def _wide(values: torch.Tensor, solid: torch.Tensor) -> torch.Tensor:
    return at(values, solid)[..., None, None]


@torch.no_grad()
def floor_shadows(view: View, boxes: torch.Tensor) -> torch.Tensor:
    """Numbers of the rays whose point on the floor lies in a shadow; some may come twice."""
    world = view.world
    frame_of = world.frame_of
    local_light = torch.stack(turn_back(world.rotation, at(world.light, frame_of)))
    found = [torch.zeros(0, dtype=torch.long, device=world.eye.device)]
    for kind, solid, ray, number, inside in _patches(view, boxes):
        frame = frame_of.index_select(0, solid)
        down = _down(world, frame, ray[2])
        seen = inside & (down < FAR)
        down = torch.where(down < FAR, down, 0.0)
        start = [c + down * r for c, r in zip(_wide(world.eye, frame), ray, strict=True)]
        start[2] = start[2] + 2e-3
        o = turn_back(_wide(world.rotation, solid), minus(start, _wide(world.position, solid)))
        t = DISTANCE[kind](o, _wide(local_light, solid), _wide(world.half, solid), _wide(world.height, solid))
        hit = (seen & (t < FAR)).flatten().nonzero()[:, 0]
        found.append(number.flatten().index_select(0, hit))
    return torch.cat(found)


@torch.no_grad()
def shadowed(world: World, solid: torch.Tensor, start: Sequence[torch.Tensor], facing: torch.Tensor) -> torch.Tensor:
    """Whether something stands between points and the light, where it matters.

    Args:
        solid: (W,) the solids that the points lie on.
        start: 3 x (W,) the points, moved just off the surface.
        facing: (W,) cosine between normal and light.

    Returns:
        (W,) bool. A point of a matte solid that faces away counts as lit: nothing of it depends on that.
    """
    count, frame_of, kind_of = world.count, world.frame_of, world.kind
    light = at(world.light, frame_of)
    local_light = torch.stack(turn_back(world.rotation, light))
    away, shiny = facing <= 0, at(world.shiny, solid)
    middle, radius = _spheres(world)
    may = _may_shade(world, light, middle, radius).index_select(0, solid) & (shiny | ~away)[:, None]
    point, n = may.nonzero().unbind(1)
    other = at(frame_of, solid.index_select(0, point)) * count + n
    between = minus(at(middle, other), [s.index_select(0, point) for s in start])
    near = _in_the_way(between, at(light, other), at(radius, other) + 0.05).nonzero()[:, 0]
    point, other = point.index_select(0, near), other.index_select(0, near)
    # solids are convex: they shade themselves only where they face away, and that shows in highlights alone
    own = (away & shiny).nonzero()[:, 0]
    point, other = torch.cat([point, own]), torch.cat([other, solid.index_select(0, own)])
    kind = at(kind_of, other)
    dark = torch.zeros(len(solid), dtype=torch.bool, device=solid.device)
    for k in range(len(DISTANCE)):
        mine = (kind == k).nonzero()[:, 0]
        if len(mine) == 0:
            continue
        p, o = point.index_select(0, mine), other.index_select(0, mine)
        t = _from(world, k, o, tuple(s.index_select(0, p) for s in start), at(local_light, o))
        dark[p.index_select(0, (t < FAR).nonzero()[:, 0])] = True
    return dark


def _spheres(world: World) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (3, K) and radii (K,) of spheres around the solids."""
    up = tuple(world.rotation[i][2] * (world.height / 2) for i in range(3))
    middle = torch.stack([p + u for p, u in zip(world.position, up, strict=True)])
    return middle, (2 * world.half.square() + (world.height / 2).square()).sqrt()


def _in_the_way(between, light, reach: torch.Tensor) -> torch.Tensor:
    """Whether a line from a point towards the light comes within `reach` of a centre `between` away."""
    ahead = dot(between, light)
    return (dot(between, between) - ahead.square() < reach.square()) & (ahead > -reach)


def _may_shade(world: World, light, middle: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """(K, N) bool: whether solid n of the same frame, another one, can stand between a solid and the light."""
    shape = (world.frames, world.count)
    by_frame, radius = middle.unflatten(-1, shape), radius.view(shape)
    between = by_frame[..., None, :] - by_frame[..., None]  # (3, F, shaded, shading)
    can = _in_the_way(between, light.unflatten(-1, shape)[..., None], radius[..., None] + radius[:, None] + 0.05)
    can &= (world.kind.view(shape) >= 0)[:, None]
    can &= ~torch.eye(world.count, dtype=torch.bool, device=can.device)
    return can.flatten(0, 1)


def _from(world: World, kind: int, solid: torch.Tensor, origin, local_direction) -> torch.Tensor:
    """Distance (W,) from world points to one solid each, along directions in its axes."""
    o = turn_back(at(world.rotation, solid), minus(origin, at(world.position, solid)))
    return DISTANCE[kind](o, local_direction, at(world.half, solid), at(world.height, solid))


@torch.no_grad()
def hidden(
    world: World, boxes: torch.Tensor, point: Sequence[torch.Tensor], xy: Sequence[torch.Tensor], z: torch.Tensor
) -> torch.Tensor:
    """(F, P) bool: points the camera does not see, because they are behind it or something is nearer on the way.

    Args:
        boxes: (K, 4) search boxes in [0, 1].
        point: 3 x (F, P), metres. xy: 2 x (F, P), their places in the frame, [0, 1]. z: (F, P) depth.
    """
    frames, count, flat = world.frames, world.count, [c.reshape(-1) for c in point]
    out = z <= 0
    low_x, low_y, high_x, high_y = (b.reshape(frames, count, 1) for b in boxes.unbind(1))
    numbers, solids = [], []
    for n in range(count):
        around = (xy[0] > low_x[:, n] - 0.01) & (xy[0] < high_x[:, n] + 0.01)
        around &= (xy[1] > low_y[:, n] - 0.01) & (xy[1] < high_y[:, n] + 0.01)
        numbers.append(around.flatten().nonzero()[:, 0])
        solids.append(numbers[-1] // z.shape[1] * count + n)
    numbers, solids = torch.cat(numbers), torch.cat(solids)
    kinds = at(world.kind, solids)
    for kind in range(len(DISTANCE)):
        mine = (kinds == kind).nonzero()[:, 0]
        number, solid = numbers.index_select(0, mine), solids.index_select(0, mine)
        eye = at(world.eye, solid // count)
        ray = minus([c.index_select(0, number) for c in flat], eye)
        distance = dot(ray, ray).sqrt()
        direction = turn_back(at(world.rotation, solid), tuple(c / distance for c in ray))
        before = _from(world, kind, solid, eye, direction) <= distance - 5e-3
        out.view(-1)[number.index_select(0, before.nonzero()[:, 0])] = True
    # the floor hides what is under it
    frame, p = ((point[2] < -1e-4) & world.floor[:, None]).nonzero().unbind(1)
    if len(p):
        number = frame * z.shape[1] + p
        ray = minus([c.index_select(0, number) for c in flat], at(world.eye, frame))
        distance = dot(ray, ray).sqrt()
        before = _down(world, frame, ray[2] / distance) <= distance - 5e-3
        out.view(-1)[number.index_select(0, before.nonzero()[:, 0])] = True
    return out
