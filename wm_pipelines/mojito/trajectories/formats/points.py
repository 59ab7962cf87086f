"""Paths of points: KJNodes, TRACKS, MotionCtrl, Tora, DragNUWA.

Each reader gives a list of tracks, float64 `(K, 2)` each, x and y in pixels of the canvas that they were drawn on; a
point that is not visible is NaN. Where a track is at a frame says `formats.timing`, in what canvas `trajectories`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from wm_pipelines.mojito.trajectories.formats.texts import finite, json_of, lines_of, numbers, plain_text
from wm_pipelines.mojito.trajectories.values import brief, real

Tracks = list[np.ndarray]

MOST_POINTS = 10_000_000
"""Points of all tracks together."""


def read_kjnodes(text: Any) -> Tracks:
    """`coord_str` of KJNodes' spline editor: `[{"x": .., "y": ..}, ..]` or a list of such lists, also single-quoted.

    Also a list of such texts, one for each spline, as nodes with list outputs hand them on (`parse_json_tracks` of
    KJNodes' `curve_nodes.py` takes both); and the lists themselves.

    Raises:
        ValueError: text that is no JSON, or another layout, naming track, point and value.
    """
    if isinstance(text, list | tuple) and text and all(isinstance(item, str | bytes) for item in text):
        data = []
        for n, item in enumerate(text):
            data += _paths(json_of(item, f"coord_str[{n}]", single_quotes=True))
    else:
        data = _paths(text if isinstance(text, list | tuple) else json_of(text, "coord_str", single_quotes=True))
    return _tracks(data, "coord_str", _xy_of_mapping)


def _paths(data: Any) -> list[Any]:
    """A list of paths, of one path or of several."""
    if isinstance(data, list | tuple) and data:
        return [data] if isinstance(data[0], Mapping) else list(data)
    return [] if data in ([], ()) else [data]


def read_motionctrl(text: Any) -> Tracks:
    """One path of MotionCtrl: `[[x, y], ..]` (its canvas is 1024) or lines `x, y` (its files' canvas is 256).

    `process_traj` of MotionCtrl's `gradio_utils/traj_utils.py` divides what is drawn by 1024, `get_provided_traj` what
    files hold by 256. `is_lines` says which of them a text is.

    Raises:
        ValueError: neither, naming line or point and value.
    """
    if is_lines(text):
        return read_lines(text)
    return _tracks([json_of(text, "the path", single_quotes=True)], "the path", _xy_of_pair)


def is_lines(text: Any) -> bool:
    """Whether a path is in lines and not in JSON."""
    return not plain_text(text, "the path").lstrip().startswith("[")


def read_dragnuwa(text: Any) -> Tracks:
    """The drags of DragNUWA: a list of lists of `[x, y]` on 576 x 320 (`run` of `DragNUWA_demo.py`).

    Raises:
        ValueError: text that is no JSON, or another layout, naming track, point and value.
    """
    return _tracks(json_of(text, "the drags", single_quotes=True), "the drags", _xy_of_pair)


def read_lines(text: Any) -> Tracks:
    """One path as lines `x, y`, as Tora and MotionCtrl write them; on 256 x 256 (`process_traj` of `flow_utils.py`).

    Raises:
        ValueError: a line of another form, naming it.
    """
    points = []
    for number, line in lines_of(text, "the path"):
        try:
            point = numbers(line, 2)
        except ValueError:
            raise ValueError(f"line {number} is {brief(line)}; it must be two numbers `x, y`") from None
        if not finite(point):
            raise ValueError(f"line {number} is {brief(line)}; both numbers must be finite")
        points.append(point)
    if not points:
        raise ValueError("the path has no point")
    return [np.array(points)]


def read_tracks(tracks: Any) -> Tracks:
    """ComfyUI's TRACKS: a dict of `track_path` `(F, N, 2)` in pixels and `track_visibility` `(F, N)` or `(F, 1)`.

    Row t is the place at frame t (`create_pos_embeddings` of ComfyUI's `nodes_wanmove.py`).

    Raises:
        ValueError: other keys or shapes, something that is no number, or a visible point that is not finite.
    """
    if not isinstance(tracks, Mapping) or "track_path" not in tracks:
        raise ValueError("TRACKS must be a dict with track_path (F, N, 2) and track_visibility (F, N)")
    path = _tensor(tracks["track_path"], "track_path")
    if path.ndim != 3 or path.shape[-1] != 2 or 0 in path.shape:
        raise ValueError(f"track_path has shape {tuple(path.shape)}; it must be (F, N, 2)")
    if path.numel() > 2 * MOST_POINTS:
        raise ValueError(f"track_path has shape {tuple(path.shape)}; {MOST_POINTS} points at most")
    shown = tracks.get("track_visibility")
    shown = torch.ones(path.shape[:2]).double() if shown is None else _tensor(shown, "track_visibility")
    if shown.ndim != 2 or shown.shape[0] != path.shape[0] or shown.shape[1] not in (1, path.shape[1]):
        raise ValueError(f"track_visibility has shape {tuple(shown.shape)}; it must be {tuple(path.shape[:2])}")
    if not shown.isfinite().all():
        frame, track = shown.isfinite().logical_not().nonzero()[0].tolist()
        raise ValueError(f"track_visibility: track {track}, frame {frame} is {shown[frame, track].item()}")
    return hide(path.transpose(0, 1).numpy(), (shown > 0).expand(path.shape[:2]).T.numpy(), "track_path")


def _tensor(values: Any, name: str) -> torch.Tensor:
    """float64 on the CPU, of tensors of any precision, arrays and lists."""
    try:
        found = torch.as_tensor(values).detach()
        if found.is_complex():
            raise TypeError
        return found.cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} holds something that is no number, or rows of different lengths") from None


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


def _tracks(data: Any, name: str, point_of: Any) -> Tracks:
    if not isinstance(data, list) or not data:
        raise ValueError(f"{name} must hold at least one path, got {brief(data)}")
    found = []
    for n, path in enumerate(data):
        if not isinstance(path, list | tuple) or not path:
            raise ValueError(f"{name}: track {n} is {brief(path)}; it must be a list of points")
        points = [point_of(point) for point in path]
        if None in points:
            k = points.index(None)
            raise ValueError(f"{name}: track {n}, point {k} is {brief(path[k])!r}; it must be {point_of.__doc__}")
        found.append(np.array(points, dtype=np.float64))
    return found


def _xy_of_mapping(point: Any) -> tuple[float, float] | None:
    """{"x": number, "y": number}"""
    return _xy_of_pair([point.get("x"), point.get("y")]) if isinstance(point, Mapping) else None


def _xy_of_pair(point: Any) -> tuple[float, float] | None:
    """[x, y], two finite numbers"""
    if not isinstance(point, list | tuple) or len(point) != 2:
        return None
    x, y = real(point[0]), real(point[1])
    return None if x is None or y is None else (x, y)
