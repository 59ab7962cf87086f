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
TOUCH, STANDS = 0.35, 0.2
"""Of a radius: what is nearer to another body, or to the floor, may touch."""
FALL = 1.5
"""Of gravity times a frame squared: by so much more than between the frames around, a body may have moved in one."""
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
    """(N, T, 3) m/s^2, by a parabola through 2 `span` + 1 frames; NaN where one of them does not show the body."""
    half = span(bodies.fps)
    steps = np.arange(-half, half + 1) / bodies.fps
    weights = 2 * np.linalg.pinv(np.stack([np.ones_like(steps), steps, steps**2], axis=1))[2]
    places = np.where(bodies.placed[..., None], bodies.centres, np.nan)
    out = np.full_like(places, np.nan)
    for t in range(half, bodies.frames - half):
        out[:, t] = np.einsum("w,nwc->nc", weights, places[:, t - half : t + half + 1])
    return out


def contacts(bodies: Bodies, gravity: float = 0.0) -> Contact:
    """What may have touched what, the time between frames included, in which things fall by `gravity`."""
    n, frames, half = len(bodies.ids), bodies.frames, span(bodies.fps)
    places, bottoms = (bodies.filled(v, bodies.placed) for v in (bodies.centres, bodies.bottoms))
    reach, radius, unsure = bodies.filled(bodies.reach, bodies.clean), bodies.radius, bodies.unsure
    moved = np.abs(np.diff(places, axis=1, prepend=places[:, :1]))
    floor, pairs = np.zeros((n, frames), dtype=bool), np.zeros((n, n, frames), dtype=bool)
    overlap = np.full((n, n, frames), -np.inf)
    for a in range(n):
        for t in range(1, frames):
            way = moved[a, max(1, t - half) : t + half + 1, 2].max() + FALL * gravity / bodies.fps**2
            floor[a, t] = max(0, bottoms[a, t - 1]) + bottoms[a, t] < way
        floor[a] |= bottoms[a] < STANDS * radius[a] + np.nan_to_num(unsure[a])
        for b in range(n):
            if a != b:
                apart = np.abs((places[b] - places[a]) @ directions().T)
                overlap[a, b] = (reach[a] + reach[b] - apart).min(-1)
                slack = np.nan_to_num(unsure[a] + unsure[b])
                near = TOUCH * min(radius[a], radius[b])
                between = places[b] - places[a]
                step = np.linalg.norm(np.diff(between, axis=0, prepend=between[:1]), axis=-1)
                pairs[a, b] = overlap[a, b] > -near - 0.5 * step - slack
                overlap[a, b] -= slack
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


def forces(bodies: Bodies, contact: Contact, gravity: float) -> tuple[np.ndarray, np.ndarray]:
    """Two terms of bodies, or of all that touch each other: momentum (N, T), the part of the force on them that
    neither gravity nor floor can give, in weights; support (N, T), 1 where nothing bears them and they
    do not fall, else 0.

    What a centre may be off is taken off both.
    """
    pull, mass = accelerations(bodies) + np.array([0, 0, gravity]), bodies.radius**3
    half = span(bodies.fps)
    excess, hangs = np.full(bodies.radii.shape, np.nan), np.full(bodies.radii.shape, np.nan)
    for t in range(half, bodies.frames - half):
        unsure = bodies.unsure[:, t - half : t + half + 1].max(1) * 4 * (bodies.fps / half) ** 2 / gravity
        for group in _groups(contact.pairs[:, :, t]):
            force = (mass[group, None] * pull[group, t]).sum(0) / mass[group].sum() / gravity
            if not np.isfinite(force).all():
                continue
            slack = (mass[group] * unsure[group]).sum() / mass[group].sum()
            floor = contact.floor[group, t].any()
            excess[group, t] = max(0.0, _beyond(force, floor) - slack)
            hangs[group, t] = float(not floor and force[2] - slack > 1 - HANGS)
    return excess, hangs


def _beyond(force: np.ndarray, floor: bool) -> float:
    """How far a force (3,) is from what the floor can give: a cone about the vertical; nothing without a floor."""
    aside, up = float(np.hypot(*force[:2])), float(force[2])
    if not floor or FRICTION * aside < -up:
        return float(np.hypot(aside, up))
    return max(0.0, aside - FRICTION * up) / float(np.hypot(1, FRICTION))


def volume(bodies: Bodies) -> np.ndarray:
    """(N, T): how far the volume is from its middle value, as |ln|, three times that of the radius."""
    radii = np.where(bodies.clean, bodies.radii, np.nan)
    return np.abs(3 * np.log(radii / bodies.radius[:, None]))


def penetration(bodies: Bodies, contact: Contact) -> np.ndarray:
    """(N, T): how deep the body is in another one, in radii of the smaller, or in the floor, which hides that from a
    camera: only of particles."""
    radius = bodies.radius
    least = np.minimum(radius[:, None], radius[None])[..., None]
    deep = np.maximum(contact.overlap / least, 0).max(1)
    if bodies.particles is None:
        return deep
    return np.maximum(deep, -bodies.bottoms / radius[:, None])


def energy(bodies: Bodies, gravity: float) -> np.ndarray:
    """(T,): how far the energy of all bodies together is above all it was before, in g times the mean radius; NaN
    where a body is unsure. Kinetic of the centres, between two frames, and potential."""
    places = np.where(bodies.placed[..., None], bodies.centres, np.nan)
    speed = np.linalg.norm(np.diff(places, axis=1), axis=-1) - bodies.unsure[:, 1:] - bodies.unsure[:, :-1]
    speed2 = (np.maximum(speed, 0) * bodies.fps) ** 2
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
