"""Twelve drawings as a user brings them, each with its prompt and the places of what is named: flat shapes, pen and
marker outlines, a photographed sheet, photos of blocks. Made by code that the training never sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wm_pipelines.diorama.scene import COLOURS
from wm_pipelines.runtime.random import keyed

INK = {"red": (200, 30, 35), "blue": (30, 60, 190), "green": (30, 130, 50), "purple": (130, 40, 150)}


@dataclass(frozen=True)
class Thing:
    """What is drawn for one named object: its figure's centre and half width, in fractions of the picture's height."""

    colour: str
    shape: str
    x: float
    y: float
    half: float


@dataclass(frozen=True)
class Drawing:
    """`picture` (h, w, 3) uint8 and `ids` (h, w) uint8 of the same size: k marks the k-th of `things`."""

    name: str
    prompt: str
    things: tuple[Thing, ...]
    picture: np.ndarray
    ids: np.ndarray

    @property
    def phrase(self) -> str:
        """The first object's words, which the README's command binds to the edges."""
        return f"{self.things[0].colour} {self.things[0].shape}"

    def boxes(self) -> list[tuple[float, float, float, float]]:
        """Where each thing belongs in the square output: its box (x0, y0, x1, y1) after `fit="crop"`, in [0, 1]."""
        height, width = self.ids.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        cut = self.ids[top : top + side, left : left + side]
        found = []
        for number in range(1, len(self.things) + 1):
            y, x = np.nonzero(cut == number)
            found.append(tuple(float(v) / side for v in (x.min(), y.min(), x.max() + 1, y.max() + 1)))
        return found


def outline(thing: Thing, height: int, turn: float = 0.0) -> np.ndarray:
    """Points (N, 2) around the thing's figure, pixels of a picture of that height."""
    way = np.linspace(0, 1, 120, endpoint=False)
    if thing.shape == "sphere":
        points = np.stack([np.cos(2 * np.pi * way), np.sin(2 * np.pi * way)], 1)
    else:
        corners = {
            "cube": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
            "cone": [(0, -1.05), (1, 0.95), (-1, 0.95)],
            "cylinder": [(-0.8, -1.1), (0.8, -1.1), (0.8, 1.1), (-0.8, 1.1)],
        }[thing.shape]
        corners = np.array([*corners, corners[0]], dtype=float)
        side = np.minimum((way * (len(corners) - 1)).astype(int), len(corners) - 2)
        part = (way * (len(corners) - 1) - side)[:, None]
        points = corners[side] * (1 - part) + corners[side + 1] * part
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (points @ spin.T * thing.half + (thing.x, thing.y)) * height


def paper(height: int, width: int, grey: int = 255) -> np.ndarray:
    return np.full((height, width, 3), grey, np.uint8)


def _fill(canvas: np.ndarray, points: np.ndarray, colour) -> None:
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], colour, cv2.LINE_AA, shift=4)


def _ids(outlines: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    ids = np.zeros((height, width), np.uint8)
    for number, points in enumerate(outlines, 1):
        cv2.fillPoly(ids, [np.round(points).astype(np.int32)], number)
    return ids


def _bytes(colour: str) -> tuple[int, ...]:
    return tuple(round(255 * v) for v in COLOURS[colour])


def flat(things: Sequence[Thing], size: tuple[int, int] = (512, 512), ground: int = 255, turn: float = 0.0):
    """Figures filled with their colour on an even ground."""
    canvas, outlines = paper(*size, ground), [outline(t, size[0], turn) for t in things]
    for thing, points in zip(things, outlines, strict=True):
        _fill(canvas, points, _bytes(thing.colour))
    return canvas, _ids(outlines, *size)


def pen(
    things: Sequence[Thing],
    key: str,
    size: tuple[int, int] = (512, 512),
    width: int = 7,
    shake: float = 0.012,
    rounds: int = 1,
    gap: float = 0.0,
    ink: tuple[int, int, int] | None = (40, 40, 45),
):
    """Outlines by a shaking hand: `rounds` times round each figure, a share `gap` of the way left open.

    Args:
        ink: None takes a pen of the thing's colour.
    """
    canvas, outlines = paper(*size, 250), [outline(t, size[0]) for t in things]
    for number, (thing, points) in enumerate(zip(things, outlines, strict=True)):
        for again in range(rounds):
            rng = keyed("drawings", key, number, again)
            way = np.arange(len(points)) / len(points) * 2 * np.pi
            waves = sum(
                rng.normal(size=(1, 2)) / k * np.sin(k * way[:, None] + rng.uniform(0, 6.3, (1, 2)))
                for k in (1, 2, 3, 5)
            )
            start = int(rng.integers(len(points)))
            line = np.roll(points + shake * size[0] * waves, -start, 0)[: round(len(points) * (1 - gap)) + 1]
            line = line if gap else np.concatenate([line, line[:3]])
            colour = ink or INK[thing.colour]
            cv2.polylines(canvas, [np.round(line * 16).astype(np.int32)], False, colour, width, cv2.LINE_AA, 4)
    return canvas, _ids(outlines, *size)


def photo(picture: np.ndarray, ids: np.ndarray, key: str, tilt: float = 0.06, table: bool = True):
    """A photo of a flat picture: seen askew, unevenly lit, a little blurred, with the sensor's noise.

    Args:
        table: it lies on a table, whose edge may show; else the picture fills the frame.
    """
    rng = keyed("drawings photo", key)
    height, width = ids.shape
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    moved = corners + (rng.uniform(-tilt, tilt, (4, 2)) * (width, height)).astype(np.float32)
    across = cv2.getPerspectiveTransform(corners, moved)
    border = {"borderValue": (196, 184, 170)} if table else {"borderMode": cv2.BORDER_REPLICATE}
    seen = cv2.warpPerspective(picture, across, (width, height), **border)
    where = cv2.warpPerspective(ids, across, (width, height), flags=cv2.INTER_NEAREST)
    y, x = np.mgrid[:height, :width] / max(height, width)
    light = 0.78 + 0.3 * (0.6 * x + 0.4 * (1 - y))
    seen = cv2.GaussianBlur(seen.astype(np.float64) * light[..., None], (0, 0), 1.2)
    seen += rng.normal(0, 5, (height, width, 1)) + rng.normal(0, 2.5, (height, width, 3))
    return np.clip(seen, 0, 255).astype(np.uint8), where


def blocks(things: Sequence[Thing], key: str, size: tuple[int, int] = (480, 640)):
    """Solids on a table, drawn face by face, as from above and in front; then photographed."""
    height, width = size
    canvas, ids = paper(height, width), np.zeros(size, np.uint8)
    rows = np.linspace(0, 1, height)[:, None, None]
    canvas[:] = ((1 - rows) * (150, 138, 122) + rows * (178, 166, 148)).astype(np.uint8)
    for number, thing in enumerate(things, 1):
        at, half = np.array((thing.x, thing.y)) * height, thing.half * height
        colour = np.array(_bytes(thing.colour), float)
        _fill(canvas, at + half * (_ring(1.1, 0.3) + (0.25, 0.8)), (120, 110, 97))  # its shadow
        for points, light in _faces(thing.shape):
            points = at + half * np.array(points, float)
            _fill(canvas, points, tuple(np.clip(colour * light, 0, 255).tolist()))
            cv2.fillPoly(ids, [np.round(points).astype(np.int32)], number)
    return photo(canvas, ids, key, tilt=0.03, table=False)


def _ring(wide: float, high: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([wide * np.cos(turn), high * np.sin(turn)], 1)


def _faces(shape: str) -> list[tuple[np.ndarray, float]]:
    """Outlines (N, 2) of a solid's faces around (0, 0) at half width 1, from back to front, and how light they are."""
    if shape == "cube":
        left, front, right, back = np.array([(-1, -0.55), (-0.2, -0.2), (1, -0.6), (0.2, -0.95)])
        down = np.array([0, 1.4])
        return [
            ([left, front, front + down, left + 0.92 * down], 0.75),
            ([front, right, right + 0.92 * down, front + down], 0.55),
            ([left, front, right, back], 1.0),
        ]
    if shape == "sphere":
        steps = np.linspace(1, 0.1, 24)
        return [(_ring(s, s) - (1 - s) * np.array([0.25, 0.3]), 0.6 + 0.45 * (1 - s)) for s in steps]
    base = _ring(0.85, 0.3) + (0, 0.75)
    top = base - (0, 1.5) if shape == "cylinder" else np.array([(0, -1.15)])
    lid = [(top, 1.0)] if shape == "cylinder" else []
    dark = np.concatenate([base[base[:, 0] > 0.1], top[top[:, 0] > 0.1] if lid else top])
    return [(_hull(np.concatenate([base, top])), 0.75), (_hull(dark), 0.6), *lid]


def _hull(points: np.ndarray) -> np.ndarray:
    return cv2.convexHull(points.astype(np.float32))[:, 0]


def twelve() -> list[Drawing]:
    """The drawings, the README's own first. Colours and shapes are pairs that the base has seen."""
    pair = (Thing("red", "cube", 0.28, 0.55, 0.14), Thing("blue", "sphere", 0.72, 0.55, 0.15))
    wide = (Thing("purple", "sphere", 0.92, 0.6, 0.16), Thing("green", "cone", 0.42, 0.52, 0.15))
    three = (
        Thing("red", "sphere", 0.22, 0.4, 0.11), Thing("yellow", "cube", 0.5, 0.7, 0.12),
        Thing("blue", "cone", 0.78, 0.42, 0.12),
    )  # fmt: skip
    one = (Thing("cyan", "cube", 0.62, 0.58, 0.16),)
    inked = (Thing("orange", "cube", 0.7, 0.42, 0.13), Thing("purple", "sphere", 0.3, 0.62, 0.15))
    marked = (Thing("green", "sphere", 0.28, 0.5, 0.15), Thing("red", "cylinder", 0.72, 0.55, 0.15))
    faint = (Thing("yellow", "cone", 0.72, 0.62, 0.15), Thing("cyan", "cube", 0.3, 0.4, 0.12))
    coloured = (Thing("purple", "cylinder", 0.27, 0.55, 0.14), Thing("green", "sphere", 0.7, 0.42, 0.13))
    alike = (Thing("red", "sphere", 0.27, 0.55, 0.14), Thing("green", "sphere", 0.73, 0.55, 0.14))
    sheet = (Thing("blue", "cube", 0.9, 0.56, 0.14), Thing("orange", "cone", 0.45, 0.5, 0.14))
    toys = (Thing("red", "cube", 0.45, 0.6, 0.15), Thing("green", "cone", 0.95, 0.5, 0.15))
    rows = [
        ("flat, white paper", "a red cube left of a blue sphere", pair, flat(pair)),
        ("flat, grey, wide", "a purple sphere right of a green cone", wide, flat(wide, (360, 480), 205)),
        ("flat, three figures", "a red sphere, a yellow cube and a blue cone", three, flat(three, (256, 256))),
        ("flat, tilted", "a cyan cube", one, flat(one, (400, 400), 250, turn=0.25)),
        ("pen", "an orange cube right of a purple sphere", inked, pen(inked, "pen")),
        ("thick marker", "a green sphere left of a red cylinder", marked, pen(marked, "marker", (600, 600), 30)),
        ("pencil, left open", "a yellow cone right of a cyan cube", faint,
         pen(faint, "pencil", (300, 300), 4, gap=0.1, ink=(110, 110, 110))),
        ("coloured pens, twice round", "a purple cylinder left of a green sphere", coloured,
         pen(coloured, "coloured", (480, 480), 6, 0.014, rounds=2, ink=None)),
        ("two outlines alike", "a red sphere left of a green sphere", alike, pen(alike, "alike", (512, 512), 8)),
        ("photographed pen", "a blue cube right of an orange cone", sheet,
         photo(*pen(sheet, "sheet", (480, 640), 9), "sheet")),
        ("photographed flat", "a red cube left of a blue sphere", pair,
         photo(*flat(pair, (640, 640), 245), "flat", tilt=0.08)),
        ("photo of blocks", "a red cube left of a green cone", toys, blocks(toys, "blocks")),
    ]  # fmt: skip
    return [Drawing(name, prompt, things, *drawn) for name, prompt, things, drawn in rows]
