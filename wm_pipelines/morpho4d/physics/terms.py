"""The terms of a report, each a number for every body and frame, 0 where physics is obeyed (our design).

A body at any moment is in flight, borne by the floor or in touch with others. In flight its acceleration is that of
gravity; the floor pushes upwards, and aside no more than `FRICTION` of that; of bodies in touch only the momentum of
all together is looked at, with masses as the cubes of radii.
"""

from dataclasses import dataclass

import numpy as np

from wm_pipelines.morpho4d.physics.bodies import Bodies, directions

FRICTION = 1.0
WINDOW = 0.125
"""Seconds, about, between a moment and the two it is compared with."""
TOUCH = 0.25
"""Of a radius: what is nearer may touch."""
HANGS = 0.5
"""Of gravity: what falls by less, and is borne by nothing, hangs."""


@dataclass
class Contact:
    """floor: (N, T) bool, whether the floor may have borne a body around a frame. pairs: (N, N, T) bool. overlap:
    (N, N, T), how far two bodies are in each other, metres, below 0 apart."""

    floor: np.ndarray
    pairs: np.ndarray
    overlap: np.ndarray


def span(fps: float) -> int:
    """Frames between a moment and those that it is compared with."""
    return max(1, round(WINDOW * fps))


def accelerations(bodies: Bodies) -> np.ndarray:
    """(N, T, 3) m/s^2, by a parabola through 2 `span` + 1 frames; NaN where one of them is unsure."""
    half = span(bodies.fps)
    steps = np.arange(-half, half + 1) / bodies.fps
    weights = 2 * np.linalg.pinv(np.stack([np.ones_like(steps), steps, steps**2], axis=1))[2]
    places = np.where(bodies.clean[..., None], bodies.centres, np.nan)
    out = np.full_like(places, np.nan)
    for t in range(half, bodies.frames - half):
        out[:, t] = np.einsum("w,nwc->nc", weights, places[:, t - half : t + half + 1])
    return out


def contacts(bodies: Bodies) -> Contact:
    """What may have touched what, the time between frames included."""
    n, frames, half = len(bodies.ids), bodies.frames, span(bodies.fps)
    places, reach, radius = bodies.filled(bodies.centres), bodies.filled(bodies.reach), bodies.radius
    bottoms = bodies.filled(bodies.bottoms)
    moved = np.abs(np.diff(places, axis=1, prepend=places[:, :1]))
    floor, pairs = np.zeros((n, frames), dtype=bool), np.zeros((n, n, frames), dtype=bool)
    overlap = np.full((n, n, frames), -np.inf)
    for a in range(n):
        for t in range(1, frames):
            way = 1.3 * moved[a, max(1, t - half) : t + half + 1, 2].max()
            floor[a, t] = bottoms[a, t] < TOUCH * radius[a] or max(0, bottoms[a, t - 1]) + bottoms[a, t] < way
        floor[a, 0] = bottoms[a, 0] < TOUCH * radius[a]
        for b in range(n):
            if a != b:
                apart = np.abs((places[b] - places[a]) @ directions().T)
                overlap[a, b] = (reach[a] + reach[b] - apart).min(-1)
                near = TOUCH * min(radius[a], radius[b])
                step = np.linalg.norm(np.diff(places[b] - places[a], axis=0, prepend=(places[b] - places[a])[:1]), axis=-1)
                pairs[a, b] = overlap[a, b] > -near - 0.5 * step
    return Contact(_around(floor, half), _around(pairs, half), overlap)


def _around(flags: np.ndarray, half: int) -> np.ndarray:
    """Whether a flag stands within `half` frames; a touch may lie between two frames."""
    frames = flags.shape[-1]
    return np.stack([flags[..., max(0, t - half) : t + half + 1].any(-1) for t in range(frames)], axis=-1)


def _groups(pairs: np.ndarray) -> list[list[int]]:
    left, out = set(range(len(pairs))), []
    while left:
        group, ends = [], [left.pop()]
        while ends:
            one = ends.pop()
            group.append(one)
            near = {b for b in left if pairs[one, b]}
            left -= near
            ends += near
        out.append(sorted(group))
    return out


def momentum(bodies: Bodies, contact: Contact, gravity: float) -> np.ndarray:
    """(N, T): the part of the force on a body, or on all that touch it, that neither gravity nor floor can give, in
    weights."""
    pull, mass = accelerations(bodies) + np.array([0, 0, gravity]), bodies.radius**3
    out = np.full(bodies.radii.shape, np.nan)
    for t in range(bodies.frames):
        for group in _groups(contact.pairs[:, :, t]):
            force = (mass[group, None] * pull[group, t]).sum(0) / mass[group].sum()
            if not np.isfinite(force).all():
                continue
            aside, up = float(np.hypot(*force[:2])), float(force[2])
            if contact.floor[group, t].any():
                beyond = max(0.0, aside - FRICTION * up) / np.hypot(1, FRICTION)
                excess = float(np.hypot(aside, up)) if FRICTION * aside < -up else beyond
            else:
                excess = float(np.linalg.norm(force))
            out[group, t] = excess / gravity
    return out


def support(bodies: Bodies, contact: Contact, gravity: float) -> np.ndarray:
    """(N, T): 1 where nothing bears a body and it does not fall, 0 elsewhere."""
    falls = accelerations(bodies)[..., 2]
    free = ~contact.floor & ~contact.pairs.any(1)
    return np.where(np.isfinite(falls), (free & (falls > -HANGS * gravity)).astype(float), np.nan)


def volume(bodies: Bodies) -> np.ndarray:
    """(N, T): how far the volume is from its middle value, as |ln|, three times that of the radius."""
    radii = np.where(bodies.clean, bodies.radii, np.nan)
    return np.abs(3 * np.log(radii / bodies.radius[:, None]))


def penetration(bodies: Bodies, contact: Contact) -> np.ndarray:
    """(N, T): how deep the body is in another one or the floor, in radii of the smaller."""
    radius = bodies.radius
    least = np.minimum(radius[:, None], radius[None])[..., None]
    deep = np.maximum(contact.overlap / least, 0).max(1)
    floor = np.where(np.isfinite(bodies.bottoms), np.maximum(-bodies.bottoms / radius[:, None], 0), 0)
    return np.maximum(deep, floor)


def energy(bodies: Bodies, gravity: float) -> np.ndarray:
    """(T,): how far the energy of all bodies together is above all it was before, in g times the mean radius; NaN where
    a body is unsure. Kinetic of the centres, between two frames, and potential."""
    places = np.where(bodies.clean[..., None], bodies.centres, np.nan)
    speed2 = ((np.diff(places, axis=1) * bodies.fps) ** 2).sum(-1)
    height = (places[:, 1:, 2] + places[:, :-1, 2]) / 2
    mass = bodies.radius**3 / (bodies.radius**3).sum()
    total = (mass[:, None] * (speed2 / 2 + gravity * height)).sum(0) / (gravity * (mass * bodies.radius).sum())
    out = np.full(bodies.frames, np.nan)
    before = -np.inf
    for t, value in enumerate(total, 1):
        if np.isfinite(value):
            out[t] = max(0.0, value - before) if np.isfinite(before) else 0.0
            before = max(before, value)
    return out
