"""Trajectories from files, strings and tracks of other tools to `MotionObject`s, and back (mojito.md, section 8).

Files of boxes say where an object is at which frame. Files of points say which way it goes; how fast is said here:
`speed="points"` takes the points as equally spaced in time, as they were drawn or sampled (a point that is repeated is
a pause), `"constant"` goes along the path evenly, and a list of numbers is the share of the way that is covered, at
equally spaced times. First and last point belong to the first and last frame. A path of one point stands still, which
is how a region is held.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wm_pipelines.mojito.formats import ati, boxes, canonical, points
from wm_pipelines.mojito.objects import MotionObject, text
from wm_pipelines.runtime.files import atomic, read_data

POINT_FORMATS: dict[str, tuple[Callable[[Any], points.Tracks], tuple[int, int] | None]] = {
    "kjnodes": (points.read_kjnodes, None),
    "tracks": (points.read_tracks, None),
    "ati": (ati.read_ati, None),
    "motionctrl": (points.read_motionctrl, (1024, 1024)),
    "tora": (points.read_lines, (256, 256)),
    "dragnuwa": (points.read_dragnuwa, (576, 320)),
}
"""Formats of points: their reader, and the width and height of their canvas where it is always the same."""

BOX_FORMATS: tuple[str, ...] = ("json", "freetraj", "trailblazer")
"""Formats of boxes. Peekaboo's sets hold many prompts: `formats.boxes.read_peekaboo`."""

FORMATS: tuple[str, ...] = (*BOX_FORMATS, *POINT_FORMATS)

Speed = str | Sequence[float]


def load_trajectory(path: str | Path, format: str = "json", **options: Any) -> list[MotionObject]:
    """The objects of a file; `options` as for `read_trajectory`.

    Raises:
        ValueError: a file that is not there or not of the format, with its name in the message.
    """
    data = read_data(path)
    try:
        return read_trajectory(data if format == "ati" else data.decode("utf-8"), format, **options)
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is no text of UTF-8, so it is not a file of {format!r}") from None
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
        data: text; bytes for "ati"; the dict for "tracks".
        format: one of `FORMATS`.
        phrases: for points, the words of each path's object, or of the one object that all paths belong to; for
            "freetraj" and "trailblazer", of the one object.
        num_frames, size, canvas, speed, outside: for points only, as `objects_from_tracks`; `canvas` may be left out
            where the format has its own.

    Raises:
        ValueError: an unknown format, an option that the format has no use for, or data that is not of the format.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is unknown; choose from {', '.join(FORMATS)}")
    if format in POINT_FORMATS:
        read, own = POINT_FORMATS[format]
        canvas = own if canvas is None else canvas
        needed = {"phrases": phrases, "num_frames": num_frames, "canvas": canvas}
        for name, value in needed.items():
            if value is None:
                why = " (its numbers are pixels of the canvas they were drawn on)" if name == "canvas" else ""
                raise ValueError(f"format {format!r} needs {name}{why}")
        return objects_from_tracks(read(data), phrases, num_frames, size, canvas, speed, outside)
    unused = {"num_frames": num_frames, "size": size, "canvas": canvas}
    for name, value in unused.items():
        if value is not None:
            raise ValueError(f"format {format!r} has no use for {name}: it holds boxes of its own")
    if format == "json":
        if phrases is not None:
            raise ValueError("format 'json' has no use for phrases: its objects have their own")
        return canonical.read(data)
    if phrases is not None and len(phrases) != 1:
        raise ValueError(f"phrases has {len(phrases)} entries; a file of {format!r} describes one object")
    if format == "trailblazer":
        return boxes.read_trailblazer(data, phrases[0] if phrases else None).objects
    if phrases is None:
        raise ValueError("format 'freetraj' needs phrases: its files name no object")
    return boxes.read_freetraj(data, phrases[0])


def parse_object(written: str, num_frames: int) -> MotionObject:
    """An object as the command line writes it: `PHRASE=x0,y0,x1,y1>x0,y0,x1,y1>..`, boxes in fractions of the picture.

    Several boxes are keyframes, evenly spaced from the first frame to the last.

    Raises:
        ValueError: another form, or boxes that `MotionObject` refuses.
    """
    phrase, sign, path = written.rpartition("=")
    try:
        listed = [[float(side) for side in box.split(",")] for box in path.split(">")]
    except ValueError:
        listed = []
    if not sign or not listed or any(len(box) != 4 for box in listed):
        raise ValueError(f"object {written!r} must be PHRASE=x0,y0,x1,y1, further boxes behind '>'")
    if len(listed) == 1:
        item = MotionObject(phrase.strip(), listed[0])
    else:
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

    Raises:
        ValueError: naming path or object, point and value.
    """
    if outside not in ("error", "clip"):
        raise ValueError(f"outside={outside!r}; choose from error, clip")
    width, height = _pair(canvas, "canvas")
    shares = _shares(speed, num_frames)
    phrases = [phrases] if isinstance(phrases, str) else list(phrases)
    if len(phrases) not in (1, len(tracks)):
        raise ValueError(f"{len(phrases)} phrases for {len(tracks)} paths; give one for each path, or one for all")
    placed = np.stack(
        [_resampled(_inside(track, n, width, height, outside), num_frames, shares) for n, track in enumerate(tracks)]
    )  # (N, F, 2)
    if len(phrases) == 1 and len(tracks) > 1:
        if size is None:
            spans = np.concatenate([placed.min(0), placed.max(0)], axis=-1)  # (F, 4)
            return _checked([MotionObject(phrases[0], boxes=spans)], num_frames)
        placed = placed.mean(0, keepdims=True)
    if size is None:
        raise ValueError("size is needed: width and height of the box around each point, in fractions of the picture")
    sizes = [size] * len(phrases) if np.ndim(size) == 1 else list(size)
    if len(sizes) != len(phrases):
        raise ValueError(f"size has {len(sizes)} entries for {len(phrases)} objects; give one, or one for each")
    found = [MotionObject(phrases[n], points=placed[n], size=sizes[n]) for n in range(len(phrases))]
    if outside == "clip":
        half = [np.asarray(_pair(one, "size")) / 2 for one in sizes]
        cut = [np.concatenate([p - h, p + h], axis=-1).clip(0, 1) for p, h in zip(placed, half, strict=True)]
        found = [MotionObject(phrase, boxes=one) for phrase, one in zip(phrases, cut, strict=True)]
    return _checked(found, num_frames)


def _checked(objects: list[MotionObject], num_frames: int) -> list[MotionObject]:
    for index, item in enumerate(objects):
        item.frame_boxes(num_frames, index)
    return objects


def _pair(values: Any, name: str) -> tuple[float, float]:
    try:
        first, second = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {values!r}; it must be two numbers, width and height") from None
    if not (0 < first < np.inf and 0 < second < np.inf):
        raise ValueError(f"{name} is {values!r}; width and height must be above 0")
    return first, second


def _inside(track: np.ndarray, n: int, width: float, height: float, outside: str) -> np.ndarray:
    """The track in fractions of the canvas."""
    track = track / (width, height)
    if outside == "clip":
        return track.clip(0, 1)
    for k in np.flatnonzero(((track < 0) | (track > 1)).any(1)):
        x, y = track[k] * (width, height)
        raise ValueError(
            f"tracks[{n}], point {k} is ({text(x)}, {text(y)}), outside the canvas {width:g} x {height:g}; "
            "check canvas, or pass outside='clip'"
        )
    return track


def _shares(speed: Speed, num_frames: int) -> np.ndarray | None:
    """The share of the way covered at each frame, `(F,)`; None where the points' own times count."""
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
        raise ValueError(f"num_frames={num_frames!r}; it must be a whole number of at least 1")
    times = np.linspace(0, 1, num_frames)
    if isinstance(speed, str):
        if speed not in ("points", "constant"):
            raise ValueError(f"speed={speed!r}; choose from points, constant, or give shares of the way")
        return None if speed == "points" else times
    profile = np.asarray(speed, dtype=np.float64)
    if profile.ndim != 1 or len(profile) < 2 or not np.isfinite(profile).all():
        raise ValueError(f"speed is {speed!r}; it must be at least two finite numbers")
    if profile.min() < 0 or profile.max() > 1:
        raise ValueError(f"speed runs from {profile.min():g} to {profile.max():g}; shares of the way lie in [0, 1]")
    return np.interp(times, np.linspace(0, 1, len(profile)), profile)


def _resampled(track: np.ndarray, num_frames: int, shares: np.ndarray | None) -> np.ndarray:
    """The point at each frame, `(F, 2)`."""
    seen = np.isfinite(track).all(1)
    shown = track[seen]
    if shares is None:
        times = np.flatnonzero(seen) / max(len(track) - 1, 1)
        shares = np.linspace(0, 1, num_frames)
    else:
        times = np.concatenate([[0], np.linalg.norm(np.diff(shown, axis=0), axis=1).cumsum()])
        times = times / times[-1] if times[-1] > 0 else np.linspace(0, 1, len(times))
    return np.stack([np.interp(shares, times, side) for side in shown.T], axis=-1)
