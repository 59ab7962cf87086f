"""The four solids in their own axes (centre of the base at the origin, z up): where rays meet them, their normals and
outlines (our design).

Vectors are triples of tensors that broadcast against one another. Elementwise arithmetic only, and finite gradients
where a ray misses.
"""

from collections.abc import Sequence

import torch

EPS = 1e-4
FAR = 1e6


def _first(near, far, ok):
    """The smaller of near <= far that is ahead of the origin."""
    t = torch.where(near > EPS, near, far)
    return torch.where(ok & (t > EPS), t, FAR)


def safe(d: torch.Tensor) -> torch.Tensor:
    """d, kept from zero."""
    return torch.where(d.abs() < 1e-9, 1e-9, d)


def _quadratic(a, b, c):
    """Roots of a t^2 + 2 b t + c; the gradient stays finite where there are none."""
    disc = b * b - a * c
    ok = disc > 0
    root = torch.where(ok, disc, 1.0).sqrt()
    a = safe(a)
    t0, t1 = (-b - root) / a, (-b + root) / a
    return torch.minimum(t0, t1), torch.maximum(t0, t1), ok


def _hit_sphere(o, d, half, height):
    z = o[2] - half
    b = o[0] * d[0] + o[1] * d[1] + z * d[2]
    c = o[0] * o[0] + o[1] * o[1] + z * z - half * half
    disc = b * b - c
    ok = disc > 0
    root = torch.where(ok, disc, 1.0).sqrt()
    return _first(-b - root, -b + root, ok)


def _hit_cube(o, d, half, height):
    near, far = None, None
    for axis, (low, high) in enumerate(((-half, half), (-half, half), (torch.zeros_like(half), height))):
        inverse = 1.0 / safe(d[axis])
        t0, t1 = (low - o[axis]) * inverse, (high - o[axis]) * inverse
        t0, t1 = torch.minimum(t0, t1), torch.maximum(t0, t1)
        near = t0 if near is None else torch.maximum(near, t0)
        far = t1 if far is None else torch.minimum(far, t1)
    return _first(near, far, near < far)


def _hit_cylinder(o, d, half, height):
    near, far, ok = _quadratic(
        d[0] * d[0] + d[1] * d[1], o[0] * d[0] + o[1] * d[1], o[0] * o[0] + o[1] * o[1] - half * half
    )
    inverse = 1.0 / safe(d[2])
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
    best = FAR
    for t in (t0, t1):
        at = o[2] + t * d[2]
        side = torch.where(ok & (t > EPS) & (at >= 0) & (at <= height), t, FAR)
        best = side.clamp_max(best) if isinstance(best, float) else torch.minimum(best, side)
    t = -o[2] / safe(d[2])
    x, y = o[0] + t * d[0], o[1] + t * d[1]
    return torch.minimum(best, torch.where((t > EPS) & (x * x + y * y <= half * half), t, FAR))


# by index into SHAPES: (origin, unit direction, half width, height) -> distance to the surface, FAR = none
DISTANCE = (_hit_sphere, _hit_cube, _hit_cylinder, _hit_cone)


def _normal_sphere(p, half, height):
    return p[0], p[1], p[2] - half


def _normal_cube(p, half, height):
    u, v, w = p[0] / half, p[1] / half, (2 * p[2] - height) / height
    au, av, aw = u.abs(), v.abs(), w.abs()
    return (
        torch.where((au >= av) & (au >= aw), u, 0.0),
        torch.where((av > au) & (av >= aw), v, 0.0),
        torch.where((aw > au) & (aw > av), w, 0.0),
    )


def _normal_cylinder(p, half, height):
    x, y, z = p
    cap = ((z > height - 1e-3) | (z < 1e-3)) & (_radial(x, y) < half - 1e-3)
    flat = torch.where(z > height / 2, 1.0, -1.0)
    return torch.where(cap, 0.0, x), torch.where(cap, 0.0, y), torch.where(cap, flat, 0.0)


def _normal_cone(p, half, height):
    x, y, z = p
    radial = _radial(x, y)
    base = (z < 1e-3) & (radial < half - 1e-3)
    return torch.where(base, 0.0, x), torch.where(base, 0.0, y), torch.where(base, -1.0, radial * half / height)


def _radial(x, y):
    return (x * x + y * y).clamp_min(1e-12).sqrt()


# by index into SHAPES: (point on the surface, half width, height) -> outward normal, not yet unit
NORMAL = (_normal_sphere, _normal_cube, _normal_cylinder, _normal_cone)


def outline(
    kind: int, to_eye: Sequence[torch.Tensor], half: torch.Tensor, height: torch.Tensor, sides: int = 96
) -> tuple:
    """Points (3 x (K, M)) whose hull holds the silhouette as seen from `to_eye` (local axes), for K solids."""
    angle = torch.arange(sides, device=half.device) * (2 * torch.pi / sides)
    wide = 1.0 / torch.cos(torch.tensor(torch.pi / sides))
    ring = torch.stack([angle.cos(), angle.sin()]) * wide
    half, height = half[:, None], height[:, None]
    if kind == 0:
        # the circle where sight lines touch the sphere
        v = (to_eye[0][:, None], to_eye[1][:, None], to_eye[2][:, None] - half)
        distance = (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).sqrt()
        axis = tuple(c / distance for c in v)
        level = (axis[0] * axis[0] + axis[1] * axis[1]).sqrt()
        upright = level < 1e-5
        level = torch.where(upright, 1.0, level)
        side = (torch.where(upright, 1.0, axis[1] / level), -axis[0] / level, torch.zeros_like(level))
        other = (
            axis[1] * side[2] - axis[2] * side[1],
            axis[2] * side[0] - axis[0] * side[2],
            axis[0] * side[1] - axis[1] * side[0],
        )
        reach = half * (1 - (half / distance).square()).clamp_min(0).sqrt()
        middle = tuple(c * (half.square() / distance) for c in axis)
        points = [m + reach * (ring[0] * s + ring[1] * o) for m, s, o in zip(middle, side, other, strict=True)]
        return points[0], points[1], points[2] + half
    if kind == 1:
        ring = torch.tensor([(-1.0, -1.0, 1.0, 1.0), (-1.0, 1.0, -1.0, 1.0)], device=half.device)
    x, y = ring[0] * half, ring[1] * half
    low, top = torch.zeros_like(x), height.expand_as(x)
    if kind == 3:
        tip = torch.zeros_like(height)
        return torch.cat([x, tip], 1), torch.cat([y, tip], 1), torch.cat([low, height], 1)
    return torch.cat([x, x], 1), torch.cat([y, y], 1), torch.cat([low, top], 1)
