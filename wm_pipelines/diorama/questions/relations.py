"""Relations of the objects of a clip in its first frame, by the margins of `scene.clear_relations` (our design)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.law import some
from wm_pipelines.diorama.questions.tracks import PIXELS
from wm_pipelines.diorama.scene import DEPTH_MARGIN, RELATION_MARGIN, Camera, focal, look_at

MIRRORED = {"left of": "right of", "right of": "left of", "in front of": "in front of", "behind": "behind"}
OPPOSITE = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}
PLACES = tuple(OPPOSITE)
NO_WIDTH, NO_DEPTH = 0.05, 0.1  # of the frame, metres: up to here a relation is clearly not there
TALL = 0.55  # metres: the middle of a solid of middling size
HALF = 0.7  # metres from the middle of a small solid to its sides, about, as boxes see them


def degree(predicate: str, x: Any, depth: Any) -> Any:
    """How far a relation holds, from its coordinate differences (other minus subject): 1 or more is clearly."""
    if predicate in ("left of", "right of"):
        return (x if predicate == "left of" else -x) / RELATION_MARGIN
    return (depth if predicate == "in front of" else -depth) / DEPTH_MARGIN


def limit(predicate: str) -> float:
    """The degree up to which a relation clearly does not hold."""
    return NO_WIDTH / RELATION_MARGIN if predicate in ("left of", "right of") else NO_DEPTH / DEPTH_MARGIN


def holds(clip: Clip, predicate: str, subject: int, other: int) -> bool | None:
    """Whether a relation clearly holds, or clearly does not; None in between."""
    a, b = clip.tracks[subject], clip.tracks[other]
    points = np.stack([a.centre[0], b.centre[0]])[None]
    xy, depth = clip.view.project(points, slice(0, 1))
    how = degree(predicate, (xy[0, 1, 0] - xy[0, 0, 0]) / PIXELS, depth[0, 1] - depth[0, 0])
    return True if how >= 1 else False if how <= limit(predicate) else None


def follow(clip: Clip, predicate: str, other: int) -> int | None:
    """The only object that stands so to `other`; None if there is none, more than one, or one perhaps."""
    states = {o.id: holds(clip, predicate, o.id, other) for o in clip.scene.objects if o.id != other}
    found = [id for id, state in states.items() if state]
    return found[0] if len(found) == 1 and None not in states.values() else None


def layout(
    rng: np.random.Generator,
    count: int,
    wanted: Callable[[np.ndarray, np.ndarray], np.ndarray],
    extremes: dict[str, tuple[int, ...]],
    tries: int = 20,
) -> list[tuple[float, float, float]] | None:
    """Spots on the floor for `count` objects, far enough apart, whose places in the picture are as wanted.

    Args:
        wanted: (x (M, count) shares of the frame, depth (M, count) metres) -> (M,) bool.
        extremes: for a predicate, the object that goes farthest in its sense ("left of": farthest left), the next, ...
    """
    camera = Camera()
    axes = look_at(camera.eye, camera.target)
    scale = focal(camera, 1)
    for _ in range(tries):
        x, depth = rng.uniform(0.1, 0.9, (256, count)), rng.uniform(4.9, 8.0, (256, count))
        for predicate, objects in extremes.items():
            values = x if predicate in ("left of", "right of") else depth
            rising = predicate in ("left of", "in front of")
            first = np.sort(values, axis=1)[:, :: 1 if rising else -1]
            others = some(rng, [i for i in range(count) if i not in objects], count)
            values[:, [*objects, *others]] = first
        # the floor spot of a solid whose middle is TALL above it and is seen there
        y = camera.eye[1] + (depth - (TALL - camera.eye[2]) * axes[2, 2]) / axes[2, 1]
        across = (x - 0.5) * depth / scale
        down = (np.stack([0 * y, y - camera.eye[1], 0 * y + TALL - camera.eye[2]], axis=-1) @ axes[1]) * scale / depth
        xy = np.stack([x, 0.5 + down], axis=-1)
        half = (HALF * scale / depth)[..., None]
        apart = np.abs(xy[:, :, None] - xy[:, None]) / (half[:, :, None] + half[:, None])
        apart = apart.max(-1) + 9 * np.eye(count)
        inside = (np.abs(xy - 0.5) + half < 0.5).all((1, 2))
        good = np.flatnonzero(inside & (apart.min((1, 2)) > 0.85) & wanted(x, depth))
        if len(good):
            spots = np.stack([across[good[0]], y[good[0]]], axis=1).astype(np.float32)
            return [(float(a), float(b), 0.0) for a, b in spots]
    return None
