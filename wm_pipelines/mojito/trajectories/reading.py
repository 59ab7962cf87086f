"""Trajectories from files, strings and tracks of other tools to `MotionObject`s, and back.

Files of boxes say where an object is at which frame. Files of points say which way it goes; how fast is said here:
`speed="points"` takes each point at the time that the tool of the format gives it (`formats.timing`; a point that is
repeated is a pause), `"constant"` goes along the path evenly, and a list of numbers is the share of the way that is
covered, at equally spaced times. A path of one point stands still, which is how a region is held. Frames in which a
point is hidden are kept with the object (`MotionObject.hidden`) and told in the report of a call.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from wm_pipelines.mojito.trajectories.formats import ati, boxes, canonical, points, texts, timing
from wm_pipelines.mojito.trajectories.objects import MotionObject, decimals
from wm_pipelines.mojito.trajectories.values import array, brief, frame_count, pair
from wm_pipelines.runtime.files import atomic, read_data
from wm_pipelines.runtime.readers import decode_text

Place = Callable[[np.ndarray, int], np.ndarray]
"""A function of `formats.timing`: a track `(K, 2)` and a number of frames F to places `(F, 2)`."""


class PointFormat(NamedTuple):
    """How paths are read, width and height of their canvas where it is always the same, where they are when."""

    read: Callable[[Any], points.Tracks]
    canvas: tuple[int, int] | None
    place: Place


POINT_FORMATS: dict[str, PointFormat] = {
    "kjnodes": PointFormat(points.read_kjnodes, None, timing.spread),
    "tracks": PointFormat(points.read_tracks, None, timing.spread),
    "ati": PointFormat(ati.read_ati, None, timing.spread),
    "motionctrl": PointFormat(points.read_motionctrl, (1024, 1024), timing.filled),
    "tora": PointFormat(points.read_lines, (256, 256), timing.thinned),
    "dragnuwa": PointFormat(points.read_dragnuwa, (576, 320), timing.smooth),
}
"""Formats of points."""

MOTIONCTRL_LINES = PointFormat(points.read_motionctrl, (256, 256), timing.thinned)
"""MotionCtrl's files of lines, which have another canvas than its JSON."""

BOX_FORMATS: tuple[str, ...] = ("json", "freetraj", "trailblazer")
"""Formats of boxes. Peekaboo's sets hold many prompts: `formats.boxes.read_peekaboo`; ComfyUI's: `read_bbox`."""

FORMATS: tuple[str, ...] = (*BOX_FORMATS, *POINT_FORMATS)

TIMED_FORMATS: tuple[str, ...] = (*POINT_FORMATS, "freetraj")
"""Formats that say where something is only once the number of frames is known."""

MOST_PLACES = 10_000_000
"""Paths times frames of the clip."""

Speed = str | Sequence[float]


def load_trajectory(path: str | Path, format: str = "json", **options: Any) -> list[MotionObject]:
    """The objects of a file; `options` as for `read_trajectory`.

    Raises:
        ValueError: a file that is not there or not of the format, with its name in the message.
    """
    data = read_data(path)
    if format != "ati":
        try:
            data = decode_text(data)
        except ValueError as error:
            raise ValueError(f"{str(path)!r} {str(error).removeprefix('it ')}, so it is not of {format!r}") from None
    try:
        return read_trajectory(data, format, **options)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from None


def read_trajectory(
    data: Any,
    format: str = "json",
    phrases: Sequence[str] | None = None,
    num_frames: int | None = None,
    size: Sequence[Any] | None = None,
    canvas: Sequence[float] | None = None,
    speed: Speed = "points",
    outside: str = "error",
) -> list[MotionObject]:
    """The objects that a text, file content or TRACKS dict describes.

    Args:
        data: text; bytes for "ati"; the dict for "tracks"; for "kjnodes" and "ati" also a list of texts, one a path.
        format: one of `FORMATS`.
        phrases: for points, the words of each path's object, or of the one object that all paths belong to; for
            "freetraj" and "trailblazer", of the one object.
        num_frames, outside: for points, as `objects_from_tracks`; for "freetraj", if given, its box goes on beyond its
            keyframes as FreeTraj's does, as `formats.boxes.read_freetraj`.
        size, canvas, speed: for points only, as `objects_from_tracks`; `canvas` may be left out where the format has
            its own.

    Raises:
        ValueError: an unknown format, an option that the format has no use for, or data that is not of the format.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is unknown; choose from {', '.join(FORMATS)}")
    if format in POINT_FORMATS:
        form = POINT_FORMATS[format]
        if format == "motionctrl" and points.is_lines(data):
            form = MOTIONCTRL_LINES
        canvas = form.canvas if canvas is None else canvas
        needed = {"phrases": phrases, "num_frames": num_frames, "canvas": canvas}
        for name, value in needed.items():
            if value is None:
                why = " (its numbers are pixels of the canvas they were drawn on)" if name == "canvas" else ""
                raise ValueError(f"format {format!r} needs {name}{why}")
        return objects_from_tracks(form.read(data), phrases, num_frames, size, canvas, speed, outside, form.place)
    unused = {"num_frames": None if format in TIMED_FORMATS else num_frames, "size": size, "canvas": canvas}
    for name, value in unused.items():
        if value is not None:
            raise ValueError(f"format {format!r} has no use for {name}: it holds boxes of its own")
    if format == "json":
        if phrases is not None:
            raise ValueError("format 'json' has no use for phrases: its objects have their own")
        return canonical.read(data)
    phrases = None if phrases is None else _phrases(phrases)
    if phrases is not None and len(phrases) != 1:
        raise ValueError(f"phrases has {len(phrases)} entries; a file of {format!r} describes one object")
    if format == "trailblazer":
        return boxes.read_trailblazer(data, phrases[0] if phrases else None).objects
    if phrases is None:
        raise ValueError("format 'freetraj' needs phrases: its files name no object")
    return boxes.read_freetraj(data, phrases[0], num_frames, outside)


def parse_object(written: str, num_frames: int) -> MotionObject:
    """An object as the command line writes it: `PHRASE=x0,y0,x1,y1>x0,y0,x1,y1>..`, boxes in fractions of the picture.

    Several boxes are keyframes, evenly spaced from the first frame to the last.

    Raises:
        ValueError: another form, or boxes that `MotionObject` refuses.
    """
    num_frames = frame_count(num_frames)
    phrase, sign, path = written.rpartition("=")
    try:
        listed = [texts.numbers(box, 4) for box in path.split(">")]
    except ValueError:
        listed = []
    if not sign or not listed:
        raise ValueError(f"object {written!r} must be PHRASE=x0,y0,x1,y1, further boxes behind '>'")
    if len(listed) == 1:
        item = MotionObject(phrase.strip(), listed[0])
    else:
        if len(listed) > num_frames:
            raise ValueError(f"object {written!r} has {len(listed)} boxes for {num_frames} frames")
        keys = np.linspace(0, num_frames - 1, len(listed)).round().astype(int).tolist()
        item = MotionObject(phrase.strip(), listed, keyframes=keys)
    try:
        item.frame_boxes(num_frames)
    except ValueError as error:
        raise ValueError(f"object {written!r}: {error}") from None
    return item


def save_trajectory(objects: Sequence[MotionObject], path: str | Path) -> Path:
    """Write objects as our own JSON, atomically.

    Raises:
        ValueError: a suffix other than .json, or an object with a bad field.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise ValueError(f"can't write a trajectory as {path.name!r}: use the suffix .json")
    written = canonical.write(objects)
    with atomic(path) as temporary:
        temporary.write_text(written, encoding="utf-8")
    return path


def objects_from_tracks(
    tracks: points.Tracks,
    phrases: Sequence[str],
    num_frames: int,
    size: Sequence[Any] | None,
    canvas: Sequence[float],
    speed: Speed = "points",
    outside: str = "error",
    place: Place = timing.spread,
) -> list[MotionObject]:
    """Paths of points as objects with a place at each frame.

    Args:
        tracks: arrays `(K, 2)` in units of the canvas; NaN where a point is not visible, which is bridged linearly.
        phrases: one for each path, or one for all: that object's point is then the mean of the paths.
        num_frames: of the clip.
        size: width and height of the box around a point, in fractions of the picture, for all objects or one for
            each. None, only with several paths for one phrase: the box that holds them.
        canvas: width and height of the canvas.
        speed: see the module.
        outside: "error" refuses a point or box that leaves the picture, "clip" moves points to the border and cuts
            boxes there.
        place: where a path is at each frame under `speed="points"`.

    Raises:
        ValueError: naming path or object, point and value.
    """
    boxes.check_outside(outside)
    canvas = pair(canvas, "canvas")
    count = frame_count(num_frames)
    shares = _shares(speed, count)
    phrases = _phrases(phrases)
    tracks = _tracks(tracks)
    if len(phrases) not in (1, len(tracks)):
        raise ValueError(f"{len(phrases)} phrases for {len(tracks)} paths; give one for each path, or one for all")
    if len(tracks) * count > MOST_PLACES:
        raise ValueError(f"{len(tracks)} paths over {count} frames are too many; {MOST_PLACES} places at most")
    canonical.not_fractions(np.concatenate(tracks), canvas, "tracks")
    inside = [_inside(track, n, canvas, outside) for n, track in enumerate(tracks)]
    hidden: list[list[int]] = [[] for _ in tracks]
    if shares is None:
        placed = np.stack([place(track, count) for track in inside])  # (N, F, 2)
        hidden = [timing.hidden_frames(track, count) for track in inside]
    else:
        placed = np.stack([_along(track, shares) for track in inside])
    if len(phrases) == 1 and len(tracks) > 1:
        hidden = [sorted(set.intersection(*map(set, hidden)))]  # one path that shows a place is a target
        if size is None:
            spans = np.concatenate([placed.min(0), placed.max(0)], axis=-1)  # (F, 4)
            return _checked([MotionObject(phrases[0], boxes=spans, hidden=hidden[0] or None)], count)
        placed = placed.mean(0, keepdims=True)
    if size is None:
        raise ValueError("size is needed: width and height of the box around each point, in fractions of the picture")
    sizes = _sizes(size, len(phrases))
    found = []
    for words, path, one, gone in zip(phrases, placed, sizes, hidden, strict=True):
        if outside == "clip":
            half = np.asarray(pair(one, "size")) / 2
            cut = np.concatenate([path - half, path + half], axis=-1).clip(0, 1)
            found.append(MotionObject(words, boxes=cut, hidden=gone or None))
        else:
            found.append(MotionObject(words, points=path, size=one, hidden=gone or None))
    return _checked(found, count)


def _checked(objects: list[MotionObject], num_frames: int) -> list[MotionObject]:
    for index, item in enumerate(objects):
        item.frame_boxes(num_frames, index)
    return objects


def _phrases(phrases: Any) -> list[str]:
    if isinstance(phrases, str):
        return [phrases]
    try:
        return list(phrases)
    except TypeError:
        raise ValueError(f"phrases is {brief(phrases)}; it must be a list of texts") from None


def _tracks(tracks: Any) -> points.Tracks:
    """The paths, float64 `(K, 2)` each, with at least one place that is seen."""
    several = isinstance(tracks, Sequence | np.ndarray | torch.Tensor) and not isinstance(tracks, str)
    if not several or not getattr(tracks, "ndim", 3) or not len(tracks):
        raise ValueError(f"tracks is {brief(tracks)}; it must be a list of paths")
    found = []
    for n, track in enumerate(tracks):
        track = np.atleast_2d(array(track, 2, f"tracks[{n}]"))
        endless = np.flatnonzero(np.isinf(track).any(1))
        if len(endless):
            raise ValueError(f"tracks[{n}], point {endless[0]} is {track[endless[0]].tolist()}; it must be finite")
        if not np.isfinite(track).all(1).any():
            raise ValueError(f"tracks[{n}] is never visible")
        found.append(track)
    return found


def _sizes(size: Any, objects: int) -> list[Any]:
    """The size of each object's box."""
    rows = array(size, 2, "size")
    if rows.ndim == 2 and len(rows) != objects:
        raise ValueError(f"size has {len(rows)} entries for {objects} objects; give one, or one for each")
    return [rows] * objects if rows.ndim == 1 else list(rows)


def _inside(track: np.ndarray, n: int, canvas: tuple[float, float], outside: str) -> np.ndarray:
    """The track in fractions of the canvas."""
    width, height = canvas
    track = track / canvas
    if outside == "clip":
        return track.clip(0, 1)
    for k in np.flatnonzero(((track < 0) | (track > 1)).any(1)):
        x, y = track[k] * canvas
        raise ValueError(
            f"tracks[{n}], point {k} is ({decimals(x)}, {decimals(y)}), outside the canvas {width:g} x {height:g}; "
            "check canvas, or pass outside='clip'"
        )
    return track


def _shares(speed: Any, num_frames: int) -> np.ndarray | None:
    """The share of the way covered at each frame, `(F,)`; None where the points' own times count."""
    times = np.linspace(0, 1, num_frames)
    if isinstance(speed, str):
        if speed not in ("points", "constant"):
            raise ValueError(f"speed={speed!r}; choose from points, constant, or give shares of the way")
        return None if speed == "points" else times
    try:
        profile = array([[share, 0] for share in speed], 2, "speed")[:, 0]
    except (TypeError, ValueError):
        profile = np.empty(0)
    if len(profile) < 2 or not np.isfinite(profile).all():
        raise ValueError(f"speed is {brief(speed)}; it must be at least two finite numbers")
    if profile.min() < 0 or profile.max() > 1:
        raise ValueError(f"speed runs from {profile.min():g} to {profile.max():g}; shares of the way lie in [0, 1]")
    return np.interp(times, np.linspace(0, 1, len(profile)), profile)


def _along(track: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The points that lie at shares `(F,)` of the way along what is visible, `(F, 2)`."""
    shown = track[np.isfinite(track).all(1)]
    times = np.concatenate([[0], np.linalg.norm(np.diff(shown, axis=0), axis=1).cumsum()])
    times = times / times[-1] if times[-1] > 0 else np.linspace(0, 1, len(times))
    return np.stack([np.interp(shares, times, side) for side in shown.T], axis=-1)
