"""Conditions as people bring them, for training: a scene redrawn by a hand instead of read off its exact render.

Our design. A drawing keeps only what a person would put down of each object: its outline, or a plain figure in its
place (square, disc, triangle, rectangle for cube, sphere, cone, cylinder), never the floor, a shadow or an inner edge.
It is made as flat colours, as pen strokes on paper, as a finished map of white strokes, or as a photo of the solids
themselves on another ground; the first two may be photographed. Whatever is not a finished map goes through the same
resizing and the same extractors as a user's picture does. Everything is drawn from the generator that is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from wm_pipelines.flexecontrol.conditions.resizing import resize_marks, resize_photo
from wm_pipelines.media.conditions import SPARSE, depth_to_map, extract, seg_from_ids

POINTS = 96  # around an outline
MEDIA = {"flat": 0.35, "pen": 0.3, "marks": 0.2, "solids": 0.15}  # how often each is used
FIGURES = 0.5  # share of drawings with plain figures instead of the true outlines
PHOTOGRAPHED = 0.35
MISSING = 0.12  # share of drawings of several objects that leave one out
SIDES = (40, 256)  # of the canvases, pixels; conditions are 64


@dataclass(frozen=True)
class Drawn:
    """A drawn scene of H x W.

    Attributes:
        photo: (3,H,W) float32 in [0, 1], what an extractor is given; None for a finished map.
        marks: (3,H,W) float32 in [0, 1], the finished map of every sparse type; None for a photo.
        ids: (H,W) uint8, where the objects were drawn, 0 = nowhere.
    """

    photo: torch.Tensor | None
    marks: torch.Tensor | None
    ids: np.ndarray


# ---- outlines: (N, 2) points x, y in pixels of the scene's own grid, pixel (0, 0) from 0 to 1 ----


def contour(mask: np.ndarray, points: int = POINTS) -> np.ndarray:
    """The outline of the largest part of a bool mask (H,W), evenly spaced and without its pixel steps."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    way = max(found, key=len)[:, 0].astype(float) + 0.5
    way = _evenly(way, points)
    return sum(np.roll(way, shift, 0) for shift in (-1, 0, 1)) / 3


def figure(shape: str, box: Sequence[float], rng: np.random.Generator, points: int = POINTS) -> np.ndarray:
    """The plain figure that stands for a solid, in about the box (x0, y0, x1, y1): its sides vary by a tenth.

    A square may be turned, a triangle's tip may lean, a cylinder is a rectangle with straight or round ends.
    """
    x0, y0, x1, y1 = box
    half = np.array([x1 - x0, y1 - y0]) / 2
    even = rng.random()  # how far width and height are made equal
    half = ((1 - even) * half + even * half.mean()) * rng.uniform(0.92, 1.08, 2)
    turn = 0.0
    if shape == "sphere":
        angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
        unit = np.stack([np.cos(angle), np.sin(angle)], 1)
    elif shape == "cone":
        unit = np.array([(rng.uniform(-0.2, 0.2), -1), (1, 1), (-1, 1)])
        turn = rng.uniform(-0.08, 0.08)
    elif shape == "cylinder":
        bulge = rng.choice((0.0, 0.15, 0.3))
        end = np.linspace(-1, 1, 9)
        arch = bulge * np.sqrt(1 - end**2)
        unit = np.concatenate([np.stack([end, -1 + bulge - arch], 1), np.stack([-end, 1 - bulge + arch], 1)])
    else:
        unit = np.array([(-1.0, -1.0), (1, -1), (1, 1), (-1, 1)])
        turn = rng.uniform(-0.8, 0.8) if rng.random() < 0.25 else rng.uniform(-0.1, 0.1)
        unit = unit * (1 - 0.25 * abs(turn))  # a turned square needs more room
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return _evenly((unit * half) @ spin.T + ((x0 + x1) / 2, (y0 + y1) / 2), points)


def shaken(outline: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """An outline by an unsteady hand: slow waves of about `amount` pixels."""
    angle = np.linspace(0, 2 * np.pi, len(outline), endpoint=False)[:, None]
    waves = sum(
        rng.normal(size=(1, 2)) / k**0.7 * np.sin(k * angle + rng.uniform(0, 2 * np.pi, (1, 2)))
        for k in (1, 2, 3, 5, 8)
    )
    return outline + amount * waves


def askew(outlines: Mapping[int, np.ndarray], side: int, rng: np.random.Generator, most: float) -> dict:
    """Outlines as seen by a camera that is not quite in front: no corner of the picture moves by more than `most`."""
    corners = np.array([(0, 0), (side, 0), (side, side), (0, side)], np.float32)
    moved = corners + rng.uniform(-most, most, (4, 2)).astype(np.float32)
    across = cv2.getPerspectiveTransform(corners, moved)
    return {k: cv2.perspectiveTransform(line[None].astype(float), across)[0] for k, line in outlines.items()}


def _evenly(way: np.ndarray, points: int) -> np.ndarray:
    """A closed way resampled to `points` at equal distances."""
    closed = np.concatenate([way, way[:1]])
    far = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.linspace(0, far[-1], points, endpoint=False)
    return np.stack([np.interp(at, far, closed[:, axis]) for axis in (0, 1)], 1)


# ---- what is put on the canvas; `scale` is canvas pixels per pixel of the scene ----


def fill(canvas: np.ndarray, outline: np.ndarray, scale: float, colour: Sequence[float] | float) -> None:
    """The inside of an outline, in place."""
    cv2.fillPoly(canvas, [_fixed(outline, scale)], colour, cv2.LINE_AA if canvas.ndim == 3 else cv2.LINE_8, 4)


def stroke(
    canvas: np.ndarray,
    outline: np.ndarray,
    scale: float,
    colour: Sequence[float] | float,
    rng: np.random.Generator,
    width: float,
    open_share: float = 0.0,
) -> None:
    """An outline by a pen, in place: from a random start, in three pieces of slightly different width.

    Args:
        width: pixels of the scene. open_share: of the way, left out in one or several gaps.
    """
    line = np.roll(outline, -int(rng.integers(len(outline))), 0)
    line = np.concatenate([line, line[: int(rng.integers(1, 6))]])  # it closes, and runs on a little
    drawn = np.ones(len(line), bool)
    gaps = int(rng.integers(1, 4)) if open_share else 0
    for _ in range(gaps):
        start = int(rng.integers(len(line)))
        drawn[start : start + max(1, round(open_share / gaps * len(line)))] = False
    for piece in np.array_split(np.arange(len(line)), 3):
        thick = max(1, round(width * scale * rng.uniform(0.8, 1.2)))
        ends = np.append(piece, piece[-1] + 1) if piece[-1] + 1 < len(line) else piece  # pieces touch
        for run in np.split(ends, np.nonzero(~drawn[ends])[0]):
            run = run[drawn[run]]
            if len(run) > 1:
                cv2.polylines(canvas, [_fixed(line[run], scale)], False, colour, thick, cv2.LINE_AA, 4)


def _fixed(outline: np.ndarray, scale: float) -> np.ndarray:
    """Points as OpenCV draws them with four fractional bits; its pixel centres are whole numbers."""
    return np.round((outline * scale - 0.5) * 16).astype(np.int32)


def photographed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A float picture (S,S,3) of 0 to 255 as a phone's camera sees it: uneven light, blur, noise, the sheet's edge."""
    side = len(picture)
    y, x = np.mgrid[:side, :side] / side - 0.5
    if rng.random() < 0.4:  # the sheet ends within the picture, in one or two corners or along a side
        table = np.ones((side, side), np.uint8)
        inset = rng.uniform(-0.12, 0.1, (4, 2)) * side
        corners = np.array([(0, 0), (side, 0), (side, side), (0, side)]) + inset * [(1, 1), (-1, 1), (-1, -1), (1, -1)]
        cv2.fillPoly(table, [np.round(corners).astype(np.int32)], 0)
        picture = np.where(table[..., None] > 0, rng.uniform(20, 235, 3), picture)
    slope = rng.uniform(-0.5, 0.5, 2)
    light = rng.uniform(0.7, 1.1) * (1 + slope[0] * x + slope[1] * y - rng.uniform(0, 0.4) * (x**2 + y**2))
    picture = picture * (light[..., None] * rng.uniform(0.93, 1.07, 3))
    picture = cv2.GaussianBlur(picture, (0, 0), max(0.3, rng.uniform(0, 0.012) * side))
    grain = rng.uniform(1, 8) * min(1, max(0.4, side / 256))  # what is shrunk later loses some
    picture = picture + rng.normal(0, grain, (side, side, 1)) + rng.normal(0, grain / 2, picture.shape)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _, packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))])
        picture = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return picture.astype(float)


def _ground(rng: np.random.Generator) -> np.ndarray:
    """The colour of the paper: mostly white, also grey, coloured or dark."""
    kind = rng.random()
    if kind < 0.6:
        return np.full(3, rng.uniform(225, 255))
    return np.full(3, rng.uniform(60, 225)) if kind < 0.85 else rng.uniform(0, 255, 3)


def _apart(colour: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """The colour, or black or white where nobody would see it on that ground."""
    if np.abs(colour - ground).max() > 60:
        return colour
    return np.zeros(3) if ground.mean() > 127 else np.full(3, 255.0)


# ---- a scene, drawn ----


def draw(
    rgb: np.ndarray, ids: np.ndarray, looks: Mapping[int, tuple[str, Sequence[float]]], rng: np.random.Generator
) -> Drawn:
    """A drawing of a scene.

    Args:
        rgb: (H,H,3) uint8, its render. ids: (H,H) integers, 0 = floor.
        looks: id -> shape and colour (sRGB in [0, 1]) of each object, the farthest first.
    """
    side = len(ids)
    medium = str(rng.choice(list(MEDIA), p=list(MEDIA.values())))
    present = [k for k in looks if (ids == k).sum() > 3]
    if len(present) > 1 and rng.random() < MISSING:
        present.remove(present[int(rng.integers(len(present)))])
    if medium == "solids":
        return _solids(rgb, ids, present, rng)
    lines = _outlines(ids, {k: looks[k][0] for k in present}, rng)
    where = np.zeros((side, side), np.uint8)
    for k, line in lines.items():
        fill(where, line, 1.0, k)
    canvas_side = int(np.exp(rng.uniform(*np.log(SIDES))))
    scale = canvas_side / side
    if medium == "marks":
        canvas = np.zeros((canvas_side, canvas_side), np.uint8)
        _by_pen(canvas, lines, scale, dict.fromkeys(lines, round(rng.uniform(150, 255))), 0, rng, _width(rng))
        marks = resize_marks(torch.from_numpy(canvas).float()[None] / 255, (side, side))
        return Drawn(None, marks.expand(3, -1, -1).contiguous(), where)
    ground = _ground(rng)
    canvas = np.ones((canvas_side, canvas_side, 3)) * ground
    own = rng.random() < 0.8  # else any colours
    colours = {k: np.array(looks[k][1]) * 255 if own else rng.uniform(0, 255, 3) for k in lines}
    if medium == "flat":
        for k, line in lines.items():
            fill(canvas, line, scale, _apart(colours[k], ground).tolist())
        if rng.random() < 0.2:  # filled in, with a line around
            _by_pen(canvas, lines, scale, dict.fromkeys(lines, (30, 30, 30)), None, rng, rng.uniform(0.5, 1.5))
    else:
        one = rng.uniform(0, 110) * np.ones(3)
        inks = {k: _apart(one if rng.random() < 0.6 else colours[k], ground).tolist() for k in lines}
        paper = ground.tolist() if rng.random() < 0.7 else None
        _by_pen(canvas, lines, scale, inks, paper, rng, _width(rng))
    if rng.random() < PHOTOGRAPHED:
        canvas = photographed(canvas, rng)
    return Drawn(_as_photo(canvas, side), None, where)


def _width(rng: np.random.Generator) -> float:
    """Of a pen, in pixels of the scene: mostly thin."""
    return float(np.exp(rng.uniform(np.log(0.5), np.log(4))))


def _outlines(ids: np.ndarray, shapes: Mapping[int, str], rng: np.random.Generator) -> dict[int, np.ndarray]:
    """An outline for each object, true or a plain figure, shaken, shifted and seen askew by a pixel or two."""
    plain, amount, lines = rng.random() < FIGURES, rng.choice((0.0, 0.3, 0.7, 1.0)) * rng.random(), {}
    for k, shape in shapes.items():
        mask = ids == k
        if plain:
            y, x = np.nonzero(mask)
            line = figure(shape, (x.min(), y.min(), x.max() + 1, y.max() + 1), rng)
        else:
            line = contour(mask)
        middle = line.mean(0)
        line = (line - middle) * rng.uniform(0.92, 1.08) + middle + rng.uniform(-1, 1, 2)
        lines[k] = shaken(line, rng, amount)
    return askew(lines, len(ids), rng, rng.choice((0.0, 2.0)))


def _by_pen(canvas, lines, scale, inks, paper, rng, width) -> None:
    """Strokes around the outlines, once or twice; with `paper`, nearer things hide the lines of farther ones."""
    rounds, again = int(rng.integers(1, 3)), rng.uniform(0.2, 0.8)
    gaps = rng.random()
    open_share = rng.uniform(0.25, 0.5) if gaps < 0.1 else rng.uniform(0.03, 0.15) if gaps < 0.45 else 0.0
    for k, line in lines.items():
        if paper is not None:
            fill(canvas, line, scale, paper)
        for n in range(rounds):
            stroke(canvas, shaken(line, rng, again * n), scale, inks[k], rng, width, open_share)


def _solids(rgb: np.ndarray, ids: np.ndarray, present: Sequence[int], rng: np.random.Generator) -> Drawn:
    """The solids themselves, shadows included, on another ground and in another light, photographed."""
    shown = np.isin(ids, present)
    floor = rgb[ids == 0].reshape(-1, 3)
    even = np.median(floor, 0) if len(floor) else np.full(3, 127.0)
    ground = _ground(rng)
    picture = np.where(shown[..., None], rgb, rgb / np.maximum(even, 1) * ground)
    picture[(ids > 0) & ~shown] = ground
    photo = _as_photo(photographed(picture, rng), len(ids))
    return Drawn(photo, None, np.where(shown, ids, 0).astype(np.uint8))


def _as_photo(picture: np.ndarray, side: int) -> torch.Tensor:
    """A picture (S,S,3) of 0 to 255 at the condition's size, as the pipeline brings a user's photo there."""
    photo = torch.from_numpy(np.clip(picture, 0, 255).astype(np.float32)).permute(2, 0, 1) / 255
    return resize_photo(photo, (side, side))


# ---- its condition maps ----


def drawn_map(
    kind: str, drawn: Drawn, depth: torch.Tensor, rng: np.random.Generator, palette_seed: object = 0
) -> torch.Tensor:
    """The map (3,H,W) float32 in [0, 1] of one type.

    Sparse types: the finished strokes, or what the type's extractor finds in the photo. Segmentation: the drawn
    places as flat blobs, sometimes blocky, or the regions of the photo. Depth: `rough_depth`.

    Args:
        depth: (H,W) metres, the scene's own.
    """
    if kind in SPARSE:
        return drawn.marks if drawn.photo is None else extract(kind, drawn.photo)
    if kind == "depth":
        return rough_depth(depth, torch.from_numpy(drawn.ids), rng)
    if drawn.photo is not None and rng.random() < 0.2:
        return extract("seg", drawn.photo, palette_seed=palette_seed)
    ids = drawn.ids
    if rng.random() < 0.25:
        cells = int(rng.choice((12, 16, 24, 32)))
        small = cv2.resize(ids, (cells, cells), interpolation=cv2.INTER_NEAREST)
        ids = cv2.resize(small, ids.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return seg_from_ids(torch.from_numpy(ids.astype(np.int64)), palette_seed)


def rough_depth(depth: torch.Tensor, ids: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A depth map as a person or an estimator makes it: (3,H,W), near = 1.

    The true one, the objects alone, or one grey for each drawn object; then perhaps blurred, in few steps, or with
    another tone curve. Never inverted.

    Args:
        depth: (H,W) metres. ids: (H,W), where the objects were drawn.
    """
    near = depth_to_map(depth)[0].numpy()
    base = rng.random()
    if base < 0.35:
        near = np.where(ids.numpy() > 0, near, 0.0)
    elif base < 0.7:
        flat = np.zeros_like(near)
        for k in np.unique(ids.numpy())[1:]:
            flat[ids.numpy() == k] = np.clip(near[ids.numpy() == k].mean() + rng.uniform(-0.1, 0.25), 0.15, 1)
        near = flat
    if rng.random() < 0.4:
        near = cv2.GaussianBlur(near.astype(np.float32), (0, 0), rng.uniform(0.6, 2.5))
    if rng.random() < 0.25:
        steps = int(rng.integers(3, 8))
        near = np.round(near * steps) / steps
    near = near ** np.exp(rng.uniform(-0.7, 0.7))
    if near.max() > 0:
        near = near / near.max() * rng.uniform(0.85, 1)
    return torch.from_numpy(near.astype(np.float32)).expand(3, -1, -1).contiguous()
