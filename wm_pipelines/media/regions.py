"""Regions as they are drawn: boxes and free shapes in fractions of the picture, as JSON and as masks (our design).

`{"version": 1, "shapes": [{"box": [x0, y0, x1, y1]}, {"polygon": [[x, y], [x, y], [x, y]]}]}`; the region is all of
them together.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wm_pipelines.runtime.readers import concise, parse_json

VERSION = 1
MOST_SHAPES = 100
MOST_POINTS = 20_000
FINER = 4
"""Points of a pixel along each side at which a polygon is looked at."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """A polygon without its last side, in fractions of the picture; a box is one of four corners.

    Args:
        points: at least three, each in [0, 1].
        box: whether it is to be written as a box, its first and third points the upper left and lower right corner.
    """

    points: tuple[Point, ...]
    box: bool = False


@concise()
def read_regions(text: str) -> list[Shape]:
    """The shapes of a region's JSON.

    Raises:
        ValueError: text that is no JSON, another version, an unknown field, a box or polygon outside the picture or
            without area; it names the shape.
    """
    try:
        data = parse_json(text)
    except ValueError as error:
        raise ValueError(f"a region is JSON: {error}") from None
    if not isinstance(data, dict) or set(data) != {"version", "shapes"}:
        raise ValueError("a region is a JSON object with version and shapes")
    if data["version"] != VERSION or isinstance(data["version"], bool):
        raise ValueError(f"the region has version {data['version']!r:.100}; this package reads version {VERSION}")
    shapes = data["shapes"]
    if not isinstance(shapes, list) or not 0 < len(shapes) <= MOST_SHAPES:
        raise ValueError(f"shapes must be a list of 1 to {MOST_SHAPES} shapes")
    return [_shape(item, f"shapes[{n}]") for n, item in enumerate(shapes)]


def write_regions(shapes: list[Shape]) -> str:
    """JSON that `read_regions` reads back to the same shapes."""
    listed = [
        {"box": [*shape.points[0], *shape.points[2]]} if shape.box else {"polygon": [list(p) for p in shape.points]}
        for shape in shapes
    ]
    return json.dumps({"version": VERSION, "shapes": listed})


def region_mask(shapes: list[Shape], height: int, width: int) -> torch.Tensor:
    """The region as a mask, float32 `(1, H, W)`: the share of each pixel that lies in a shape, in sixteenths.

    What crosses itself is filled all over. A shape of no sample has its first point's, so that none is nothing.

    Raises:
        ValueError: a size below 1.
    """
    if min(height, width) < 1:
        raise ValueError(f"the mask would be {height}x{width}; both must be at least 1")
    fine = np.zeros((height * FINER, width * FINER), np.uint8)
    for shape in shapes:
        points = np.array(shape.points)
        _fill(fine, points * [width * FINER, height * FINER])
        x, y = points[0] * [width, height]
        fine[min(int(y), height - 1) * FINER, min(int(x), width - 1) * FINER] = 1
    return torch.from_numpy(fine).float().view(1, height, FINER, width, FINER).mean((2, 4))


def _fill(fine: np.ndarray, points: np.ndarray) -> None:
    """Set the samples whose middles lie in a polygon that winds around them (in units of samples)."""
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    first, last = np.ceil(np.array([y0.min(), y0.max()]) - 0.5).clip(0, len(fine)).astype(int)
    slope = (x1 - x0) / np.where(y1 == y0, 1, y1 - y0)
    for row in range(first, last):
        y = row + 0.5
        crossed = (y0 <= y) != (y1 <= y)
        x = (x0 + (y - y0) * slope)[crossed]
        order = np.argsort(x, kind="stable")
        winding = np.where(y1 > y0, 1, -1)[crossed][order].cumsum()
        edges = np.ceil(x[order] - 0.5).astype(int)
        for begin, end, around in zip(edges, edges[1:], winding, strict=False):
            if around:
                fine[row, begin:end] = 1


def _shape(item: Any, name: str) -> Shape:
    if not isinstance(item, dict) or set(item) not in ({"box"}, {"polygon"}):
        raise ValueError(f'{name} must be {{"box": [x0, y0, x1, y1]}} or {{"polygon": [[x, y], ..]}}')
    if "box" in item:
        x0, y0, x1, y1 = _numbers(item["box"], 4, f"{name}.box")
        if x1 <= x0 or y1 <= y0:
            raise ValueError(f"{name}.box is {item['box']}; it must have x0 < x1 and y0 < y1")
        return Shape(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), box=True)
    points = item["polygon"]
    if not isinstance(points, list) or not 3 <= len(points) <= MOST_POINTS:
        raise ValueError(f"{name}.polygon must be a list of 3 to {MOST_POINTS} points")
    read = tuple(tuple(_numbers(point, 2, f"{name}.polygon[{n}]")) for n, point in enumerate(points))
    x, y = np.array(read).T
    if abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) < 1e-9 and np.ptp(x) * np.ptp(y) < 1e-9:
        raise ValueError(f"{name}.polygon has no area")
    return Shape(read)


def _numbers(values: Any, count: int, name: str) -> list[float]:
    given = values if isinstance(values, list) else []
    found = [float(v) for v in given if isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1]
    if len(given) != count or len(found) != count:
        raise ValueError(f"{name} is {values!r:.100}; it must be {count} numbers from 0 to 1")
    return found
