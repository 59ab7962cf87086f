"""What the frames of a clip show of an object's motion, by its state and margins in pixels (our design).

All margins are in pixels of a 64 x 64 picture. Each function looks at the frames it is given alone; where these leave
something open it says None.
"""

from collections.abc import Sequence

import numpy as np

from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.scene import STRIPES

CLEAR = 4.0  # pixels: a motion is seen
NOTHING = 0.5  # pixels: none is
LEG = 2.0  # pixels: of a way, so much tells where it goes
JUMP, FLAT = 0.2, 0.03  # metres that a jump rises at least, and that nothing else does
MAIN = 2.5  # times as far in its direction as across it
TURNED, UNTURNED = 0.6, 0.03  # radians

Frames = Sequence[int]


def pixels(clip: Clip, points: np.ndarray, frame: int) -> np.ndarray:
    """(n, 2) pixels of points (n, 3) as the camera of one frame sees them."""
    return clip.view.project(points[None], slice(frame, frame + 1))[0][0]


def between(frames: Frames) -> range:
    """Every frame from the first to the last."""
    return range(frames[0], frames[-1] + 1)


def ends(clip: Clip, frames: Frames) -> tuple[int, ...]:
    """The frames whose cameras a motion is judged by: the first, and the last if the camera moves."""
    return (frames[0], frames[-1]) if clip.scene.camera.motion else (frames[0],)


def stays(clip: Clip, id: int, frames: Frames) -> bool:
    """Whether the object keeps its place in every frame from the first to the last; it may turn there."""
    every = between(frames)
    path = clip.tracks[id].centre[every.start : every.stop]
    views = [pixels(clip, path, frame) for frame in ends(clip, frames)]
    return max(np.linalg.norm(xy - xy[0], axis=1).max() for xy in views) < NOTHING


def heading(clip: Clip, vector: np.ndarray, frame: int) -> str | None:
    """The word for a horizontal vector, in the camera's axes of a frame; None where it lies between two words."""
    right, away = (float(vector @ axis) for axis in clip.view.directions(frame))
    if abs(right) >= MAIN * abs(away):
        return "right" if right > 0 else "left"
    if abs(away) >= MAIN * abs(right):
        return "away" if away > 0 else "towards"
    return None


def motion(clip: Clip, id: int, frames: Frames) -> str | None:
    """ "left", "right", "towards", "away" (over the floor, as the camera looks), "jumps" (in its place), "still"."""
    if len(frames) < 2:
        return None
    if stays(clip, id, frames):
        return "still"
    path = clip.tracks[id].centre[list(frames)]
    along = (path[-1] - path[0]) * (1, 1, 0)
    ways = [pixels(clip, path[0] + np.stack([0 * along, along]), frame) for frame in ends(clip, frames)]
    moved = [np.linalg.norm(way[1] - way[0]) for way in ways]
    height = np.ptp(path[:, 2])
    if height >= JUMP and max(moved) < NOTHING:
        return "jumps"
    words = {heading(clip, along, frame) for frame in ends(clip, frames)}
    return words.pop() if height < FLAT and min(moved) >= CLEAR and len(words) == 1 else None


def in_picture(clip: Clip, id: int, frames: Frames) -> str | None:
    """ "left", "right", "up", "down", "still": how the object moves in the picture, by its motion and the camera's."""
    if len(frames) < 2:
        return None
    every = between(frames)
    centre = clip.tracks[id].centre[every.start : every.stop, None]
    xy = clip.view.project(centre, slice(every.start, every.stop))[0][:, 0]
    if np.linalg.norm(xy - xy[0], axis=1).max() < 2 * NOTHING:
        return "still"
    x, y = xy[-1] - xy[0]
    if max(abs(x), abs(y)) < CLEAR or MAIN * min(abs(x), abs(y)) > max(abs(x), abs(y)):
        return None
    return ("right" if x > 0 else "left") if abs(x) > abs(y) else ("down" if y > 0 else "up")


def corner(clip: Clip, id: int, frames: Frames) -> str | None:
    """ "left", "right", "straight", "back": how the object changes its way, seen from itself."""
    path = clip.tracks[id].centre[list(frames)]
    seen = pixels(clip, path, frames[0])
    gone = np.flatnonzero(np.linalg.norm(seen - seen[0], axis=1) >= LEG)
    left = np.flatnonzero(np.linalg.norm(seen - seen[-1], axis=1) >= LEG)
    if not len(gone) or not len(left) or gone[0] > left[-1]:
        return None
    path = path[:, :2]
    first, last = path[gone[0]] - path[0], path[-1] - path[left[-1]]
    angle = np.degrees(np.arctan2(first[0] * last[1] - first[1] * last[0], first @ last))
    if abs(angle) < 15:
        off = (path - path[0]) @ np.array([-first[1], first[0]]) / np.linalg.norm(first)
        return "straight" if np.abs(off).max() < 0.05 else None
    if abs(angle) > 165:
        return "back"
    return None if not 60 < abs(angle) < 120 else "left" if angle > 0 else "right"


def period(clip: Clip, id: int) -> float | None:
    """The angle, radians, after which a turned object looks as before; None where no turn is seen at all."""
    obj = clip.scene.object(id)
    striped = 2 * np.pi / STRIPES if obj.pattern == "striped" else None
    if obj.shape != "cube":
        return striped
    return np.pi if striped else np.pi / 2


def turn(clip: Clip, id: int, frames: Frames) -> str | None:
    """ "clockwise", "counterclockwise", "back" (one way, then the other), "none": about the vertical, from above.

    None also where the object turns too far from one frame to the next for anyone to see which way: by more than 0.45
    of the angle after which it looks the same.
    """
    whole = period(clip, id)
    if len(frames) < 2 or whole is None:
        return None
    yaw = clip.tracks[id].yaw
    every = between(frames)
    if np.abs(yaw[every.start : every.stop] - yaw[frames[0]]).max() < UNTURNED:
        return "none"
    # how far it turned, by whatever way, between one frame and the next
    way = np.concatenate([[0], np.cumsum(np.abs(np.diff(yaw)))])[list(frames)]
    if np.diff(way).max() > 0.45 * whole:
        return None
    change = np.diff(yaw[list(frames)])
    left, right = change.clip(0).sum(), (-change).clip(0).sum()
    if min(left, right) >= TURNED:
        return "back"
    if min(left, right) > UNTURNED or max(left, right) < TURNED:
        return None
    return "counterclockwise" if left > right else "clockwise"


def onset(clip: Clip, id: int, verb: str, frames: Frames) -> int | None:
    """The number (1 ...) of the first of `frames` that shows the object's motion begun; 0 where it never begins.

    Args:
        verb: "moves", "turns" or "jumps".

    Returns:
        None where the frames do not tell.
    """
    found = _away_from(clip, id, verb, frames, frames[0])
    return None if found is None else int(found[0]) if len(found) else 0


def outset(clip: Clip, id: int, verb: str, frames: Frames) -> int | None:
    """The number (1 ...) of the first of `frames` that shows the object's motion ended; 0 where it never moves."""
    found = _away_from(clip, id, verb, frames, frames[-1])
    return None if found is None else int(found[-1]) + 1 if len(found) else 0


def _away_from(clip: Clip, id: int, verb: str, frames: Frames, rest: int) -> np.ndarray | None:
    """Numbers of the frames in which the object is elsewhere, or turned otherwise, than in frame `rest`; None where
    it is so only unclearly, or in frames that are not shown."""
    track, every = clip.tracks[id], between(frames)
    if verb == "turns":
        whole = period(clip, id)
        if whole is None:
            return None
        # a turn by the whole period looks like none
        change = track.yaw - track.yaw[rest]
        size, least, most = np.abs(change - whole * np.round(change / whole)), 4 * UNTURNED, UNTURNED
    elif verb == "jumps":
        size, least, most = track.base[:, 2] - track.base[rest, 2], 0.1, FLAT
    else:
        xy = pixels(clip, track.centre, rest)
        size, least, most = np.linalg.norm(xy - xy[rest], axis=1), 1.0, NOTHING
    found = np.flatnonzero(size[list(frames)] >= least)
    return None if not len(found) and size[every.start : every.stop].max() >= most else found
