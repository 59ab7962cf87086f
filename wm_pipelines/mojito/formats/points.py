"""Paths of points: KJNodes, TRACKS, MotionCtrl, Tora, DragNUWA.

Each reader gives a list of tracks, float64 `(K, 2)` each, x and y in pixels of the canvas that they were drawn on; a
point that is not visible is NaN.
"""

import json
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch

Tracks = list[np.ndarray]


def read_kjnodes(text: str) -> Tracks:
    """`coord_str` of KJNodes' spline editor: `[{"x": .., "y": ..}, ..]` or a list of such lists, also single-quoted.

    Raises:
        ValueError: text that is no JSON, or another layout, naming track, point and value.
    """
    data = _json(text, "coord_str")
    if data and isinstance(data, list) and isinstance(data[0], Mapping):
        data = [data]
    return _tracks(data, "coord_str", _xy_of_mapping)


def read_motionctrl(text: str) -> Tracks:
    """One path of MotionCtrl: `[[x, y], ..]` (its canvas is 1024) or lines `x, y` (its files' canvas is 256)."""
    if not text.lstrip().startswith("["):
        return read_lines(text)
    return _tracks([_json(text, "the path")], "the path", _xy_of_pair)


def read_dragnuwa(text: str) -> Tracks:
    """The drags of DragNUWA: a list of lists of `[x, y]` on 576 x 320. A drag of one point stands still."""
    return _tracks(_json(text, "the drags"), "the drags", _xy_of_pair)


def read_lines(text: str) -> Tracks:
    """One path as lines `x, y`, as Tora writes them; its canvas is 256 x 256."""
    points = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            x, y = (float(value) for value in line.split(","))
        except ValueError:
            raise ValueError(f"line {number} is {line.strip()!r}; it must be two numbers `x, y`") from None
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"line {number} is {line.strip()!r}; both numbers must be finite")
        points.append((x, y))
    if not points:
        raise ValueError("the path has no point")
    return [np.array(points)]


def read_tracks(tracks: Any) -> Tracks:
    """ComfyUI's TRACKS: a dict of `track_path` `(F, N, 2)` in pixels and `track_visibility` `(F, N)` or `(F, 1)`.

    Raises:
        ValueError: other keys or shapes, or a visible point that is not finite.
    """
    if not isinstance(tracks, Mapping) or "track_path" not in tracks:
        raise ValueError("TRACKS must be a dict with track_path (F, N, 2) and track_visibility (F, N)")
    path = torch.as_tensor(tracks["track_path"]).detach().cpu().double()
    if path.ndim != 3 or path.shape[-1] != 2 or 0 in path.shape:
        raise ValueError(f"track_path has shape {tuple(path.shape)}; it must be (F, N, 2)")
    shown = tracks.get("track_visibility")
    shown = torch.ones(path.shape[:2]) if shown is None else torch.as_tensor(shown).detach().cpu()
    if shown.ndim != 2 or shown.shape[0] != path.shape[0] or shown.shape[1] not in (1, path.shape[1]):
        raise ValueError(f"track_visibility has shape {tuple(shown.shape)}; it must be {tuple(path.shape[:2])}")
    return hide(path.transpose(0, 1).numpy(), (shown > 0).expand(path.shape[:2]).T.numpy(), "track_path")


def write_tracks(boxes: torch.Tensor, width: int, height: int) -> dict[str, torch.Tensor]:
    """TRACKS of the middles of boxes `(O, F, 4)` in fractions, in pixels of a picture of width x height."""
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2 * torch.tensor([width, height])  # (O, F, 2)
    path = middles.transpose(0, 1).float().contiguous()  # (F, O, 2)
    return {"track_path": path, "track_visibility": torch.ones(path.shape[:2], dtype=torch.bool)}


def hide(points: np.ndarray, visible: np.ndarray, name: str) -> Tracks:
    """Tracks `(N, K, 2)` with NaN where `visible` `(N, K)` is false.

    Raises:
        ValueError: a visible point that is NaN or infinite, or a track that is never visible.
    """
    for track, frame in np.argwhere(visible & ~np.isfinite(points).all(-1)):
        raise ValueError(f"{name}: track {track}, frame {frame} is {points[track, frame].tolist()} and yet visible")
    for track in np.flatnonzero(~visible.any(1)):
        raise ValueError(f"{name}: track {track} is never visible")
    return list(np.where(visible[..., None], points, np.nan))


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        failure = error
    # Python's way to print a list of dicts, which other nodes pass on.
    try:
        return json.loads(text.replace("'", '"'))
    except json.JSONDecodeError:
        at = f"line {failure.lineno}, column {failure.colno}"
        raise ValueError(f"{name} is not JSON: {failure.msg} at {at}") from None


def _tracks(data: Any, name: str, point_of: Any) -> Tracks:
    if not isinstance(data, list) or not data:
        raise ValueError(f"{name} must hold at least one path, got {str(data)[:60]!r}")
    found = []
    for n, path in enumerate(data):
        if not isinstance(path, list) or not path:
            raise ValueError(f"{name}: track {n} is {str(path)[:60]!r}; it must be a list of points")
        points = [point_of(point) for point in path]
        if None in points:
            k = points.index(None)
            raise ValueError(f"{name}: track {n}, point {k} is {str(path[k])[:60]!r}; it must be {point_of.__doc__}")
        found.append(np.array(points, dtype=np.float64))
    return found


def _xy_of_mapping(point: Any) -> tuple[float, float] | None:
    """{"x": number, "y": number}"""
    return _xy_of_pair([point.get("x"), point.get("y")]) if isinstance(point, Mapping) else None


def _xy_of_pair(point: Any) -> tuple[float, float] | None:
    """[x, y], two finite numbers"""
    if not isinstance(point, list) or len(point) != 2:
        return None
    good = all(isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v) for v in point)
    return (float(point[0]), float(point[1])) if good else None
