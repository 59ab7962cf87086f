"""Colour and light: pictures of solids and floor, lit and unlit, each pixel the mean of its samples (our design).

Most pixels show nothing but floor: those that samples of solids or shadows fall into are worked out sample by sample,
as columns of (S, P), and set into a picture of the bare floor.
"""

import math
from dataclasses import dataclass

import torch

from wm_pipelines.diorama.cast import Hits, View, at, floor_shadows, shadow_boxes, shadowed
from wm_pipelines.diorama.scene import CHEQUERS, FLOOR_ALBEDO
from wm_pipelines.diorama.solids import safe
from wm_pipelines.diorama.surface import Surface, floor_seen, surface
from wm_pipelines.diorama.world import World, dot, minus, unit


def shade(view: View, hits: Hits, wanted: set[str]) -> dict:
    """rgb and albedo, (F, 3, H, W): each the mean of the samples."""
    world, lit = view.world, "rgb" in wanted
    on = surface(view, hits, normals=lit)
    dark = floor_shadows(view, shadow_boxes(world, view.width / view.height)) if lit else on.ray[:0]
    spots = _spots(view, on.ray, dark)
    albedo = _albedo(world, on)
    floor, squares = floor_seen(view), _squares(view)
    seen, pattern = spots.at(floor), spots.at(squares)
    out = {}
    if "albedo" in wanted:
        out["albedo"] = _picture(view, spots, albedo, seen * pattern, floor * squares)
    if lit:
        bright = world.ambient + (1.15 - world.ambient) * world.light[2].clamp_min(0)
        level = seen * at(bright, spots.frame)
        level.view(-1)[spots.dark] = at(world.ambient, at(spots.frame, spots.dark % len(spots.frame)))
        bare = floor * bright[:, None, None, None] * squares
        out["rgb"] = _picture(view, spots, _lit(world, on, albedo), level * pattern, bare).clamp(0, 1)
    return out


@dataclass
class _Spots:
    """P pixels of F frames, and what falls into them."""

    pixel: torch.Tensor  # (P,), numbered (frame * H + y) * W + x
    frame: torch.Tensor  # (P,)
    inside: torch.Tensor  # (P,) y * W + x
    samples: int
    solid: torch.Tensor  # places in (S, P) of the rays that meet solids
    dark: torch.Tensor  # and of those that meet a shadow on the floor, unless a solid is before it

    def at(self, values: torch.Tensor) -> torch.Tensor:
        """(S, P) float out of (F or 1, S or 1, H or 1, W or 1)."""
        frame = self.frame if values.shape[0] > 1 else self.frame * 0
        if values.shape[1] == 1:
            return values.flatten().index_select(0, frame).float().expand(self.samples, -1)
        return values.flatten(2)[frame, :, self.inside].T.float().contiguous()


@torch.no_grad()
def _spots(view: View, solid: torch.Tensor, dark: torch.Tensor) -> _Spots:
    frames, samples, area = view.world.frames, len(view.offsets), view.height * view.width
    touched = torch.zeros(frames * area, dtype=torch.bool, device=solid.device)
    places = []
    for ray in (solid, dark):
        line = ray // area  # frame * S + sample
        frame = line // samples
        places.append((line - frame * samples, ray - (line - frame) * area))
        touched[places[-1][1]] = True
    pixel = touched.nonzero()[:, 0]
    slot = torch.empty(frames * area, dtype=torch.long, device=solid.device)
    slot[pixel] = torch.arange(len(pixel), device=solid.device)
    solid, dark = (sample * len(pixel) + slot.index_select(0, where) for sample, where in places)
    frame = pixel // area
    return _Spots(pixel, frame, pixel - frame * area, samples, solid, dark)


@torch.no_grad()
def _squares(view: View) -> torch.Tensor:
    """(F, S, H, W) how bright the square of the floor is that a ray meets, as a multiple of the plain floor; (1, ...)
    where it is the same in all frames."""
    world = view.world
    if not (world.square > 0).any():
        return torch.ones((1, 1, 1, 1), device=world.eye.device)
    eye, rays, square = world.eye[..., None, None, None], view.everywhere(), world.square[:, None, None, None]
    if len(rays[0]) == 1 and (eye == eye[:, :1]).all() and (square == square[:1]).all():
        eye, square = eye[:, :1], square[:1]
    chequered, side = square > 0, torch.where(square > 0, square, 1.0)
    reach = -eye[2] / safe(rays[2])
    column, row = (((e + reach * r) / side).floor() for e, r in zip(eye[:2], rays[:2], strict=True))
    light, dark = CHEQUERS
    return torch.where(chequered, torch.where((column + row).remainder(2) == 0, light, dark), 1.0)


def _picture(view: View, spots: _Spots, colour, level: torch.Tensor, bare: torch.Tensor) -> torch.Tensor:
    """(F, 3, H, W): the mean over samples of `colour` (3 x (W,)) where solids are and of the floor times `level`
    (S, P) elsewhere; outside the spots, of the floor times `bare` (F or 1, S or 1, H or 1, W or 1)."""
    share, shape = 1 / len(view.offsets), (view.world.frames, view.height, view.width)
    floor = sum(s * share for s in level.reshape(-1).scatter(0, spots.solid, 0.0).view(level.shape))
    bare = sum(s * share for s in bare.expand(-1, len(view.offsets), -1, -1).unbind(1))
    out = []
    for c, base in zip(colour, FLOOR_ALBEDO, strict=True):
        samples = torch.zeros(level.shape, device=level.device).view(-1).scatter(0, spots.solid, c * share)
        ground = (bare * base).expand(shape).reshape(-1)
        out.append(ground.scatter(0, spots.pixel, sum(samples.view(level.shape)) + floor * base).view(shape))
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
