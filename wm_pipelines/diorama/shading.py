"""Colour and light: the pictures of solids and floor, lit and unlit, each pixel the mean of its samples (our design)."""

import math

import torch

from wm_pipelines.diorama.cast import Hits, View, at, floor_shadows, shadow_boxes, shadowed
from wm_pipelines.diorama.scene import CHEQUERS, FLOOR_ALBEDO
from wm_pipelines.diorama.solids import safe
from wm_pipelines.diorama.surface import Surface, floor_seen, surface
from wm_pipelines.diorama.world import World, dot, minus, unit


def shade(view: View, hits: Hits, wanted: set[str]) -> dict:
    """rgb and albedo, (F, 3, H, W): each the mean of the samples."""
    world = view.world
    on = surface(view, hits, normals="rgb" in wanted)
    albedo = _albedo(world, on)
    floor, squares = floor_seen(view), _squares(view)
    out = {}
    if "albedo" in wanted:
        out["albedo"] = _picture(view, on.ray, albedo, floor * squares)
    if "rgb" in wanted:
        ambient = world.ambient
        bright = ambient + (1.15 - ambient) * world.light[2].clamp_min(0)
        level = (floor * bright[:, None, None, None]).contiguous()
        dark = floor_shadows(view, shadow_boxes(world, view.width / view.height))
        level.view(-1)[dark] = at(ambient, dark // view.rays)
        out["rgb"] = _picture(view, on.ray, _lit(world, on, albedo), level * squares).clamp(0, 1)
    return out


@torch.no_grad()
def _squares(view: View) -> torch.Tensor:
    """(F, S, H, W), or a single 1.0 where every floor is plain: how bright the square of the floor is that a ray meets,
    as a multiple of the plain floor."""
    world = view.world
    chequered = (world.square > 0)[:, None, None, None]
    if not chequered.any():
        return torch.ones((), device=chequered.device)
    side = torch.where(chequered, world.square[:, None, None, None], 1.0)
    eye, rays = world.eye[..., None, None, None], view.everywhere()
    reach = -eye[2] / safe(rays[2])
    column, row = (((e + reach * r) / side).floor() for e, r in zip(eye[:2], rays[:2], strict=True))
    light, dark = CHEQUERS
    return torch.where(chequered, torch.where((column + row).remainder(2) == 0, light, dark), 1.0)


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


def _albedo(world: World, on: Surface) -> tuple:
    """Unlit colours (3 x (W,)); dark stripes turn about the solid's own z axis, so that a rotation shows."""
    x, y = on.local[:2]
    # a stripe is where six times the angle lies in the first 0.4 of a period: cos(6 a - 0.4 pi) > cos(0.4 pi)
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


def _lit(world: World, on: Surface, albedo) -> tuple:
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
