"""The world's numbers, as motion gives them away: gravity, friction, restitution (our design).

Places are taken to be right within `NOISE` radii, and for gravity within what turning adds; the intervals follow of
that.
"""

from dataclasses import dataclass

import numpy as np

from wm_pipelines.morpho4d.physics.bodies import Bodies
from wm_pipelines.morpho4d.physics.terms import Contact, span

NOISE = 0.03
"""Of a radius: how far a centre is off, one frame against the next."""
FAST = 0.4
"""m/s: what slides faster has not stopped a frame later."""


@dataclass(frozen=True)
class Constant:
    """A number with its 95 % interval, and how many stretches of motion gave it."""

    value: float
    low: float
    high: float
    count: int


def _joined(values: list[tuple[float, float]]) -> Constant | None:
    """Of (value, standard error) pairs, weighted by their errors; None of none."""
    if not values:
        return None
    found, error = np.array(values).T
    weight = 1 / error**2
    mean, sure = float((weight * found).sum() / weight.sum()), float(weight.sum() ** -0.5)
    return Constant(mean, mean - 1.96 * sure, mean + 1.96 * sure, len(values))


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, flags.astype(int), 0]))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _bend(values: np.ndarray, fps: float, noise: float) -> tuple[float, float]:
    """The second derivative of values (F,), and its standard error."""
    steps = np.arange(len(values)) / fps
    design = np.stack([np.ones_like(steps), steps, steps**2 / 2], axis=1)
    return float((np.linalg.pinv(design) @ values)[2]), float(noise * np.linalg.inv(design.T @ design)[2, 2] ** 0.5)


def recover_gravity(bodies: Bodies, contact: Contact) -> Constant | None:
    """m/s^2 downwards, of what flies."""
    found, half = [], span(bodies.fps)
    free = ~contact.floor & ~contact.pairs.any(1) & bodies.clean
    for n, radius in enumerate(bodies.radius):
        for first, last in _runs(free[n]):
            first, last = max(0, first - half), min(bodies.frames - 1, last + half)
            if last - first >= 2 and bodies.clean[n, first : last + 1].all():
                noise = NOISE * radius + bodies.unsure[n, first : last + 1].mean()
                bend, error = _bend(bodies.centres[n, first : last + 1, 2], bodies.fps, noise)
                found.append((-bend, error))
    return _joined(found)


def recover_friction(bodies: Bodies, contact: Contact, gravity: float) -> Constant | None:
    """Coulomb's coefficient, of what slides on the floor and slows down; of what rolls it says nothing true."""
    found = []
    alone = contact.floor & ~contact.pairs.any(1) & bodies.clean
    for n, radius in enumerate(bodies.radius):
        velocity = np.diff(bodies.centres[n], axis=0) * bodies.fps
        level = np.abs(velocity[:, 2]) < 0.3
        fast = np.r_[np.hypot(*velocity[:, :2].T) > FAST, False]
        for first, last in _runs(alone[n] & fast & np.r_[level, False]):
            if last - first < 3:
                continue
            way = bodies.centres[n, last, :2] - bodies.centres[n, first, :2]
            along = bodies.centres[n, first : last + 1, :2] @ way / np.linalg.norm(way)
            bend, error = _bend(along, bodies.fps, NOISE * radius)
            if bend < 0:
                found.append((-bend / gravity, error / gravity))
    return _joined(found)


def recover_restitution(bodies: Bodies, contact: Contact, gravity: float) -> Constant | None:
    """The share of the speed of approach that bounces off the floor give back, between two frames each."""
    found, step = [], 1 / bodies.fps
    for n, radius in enumerate(bodies.radius):
        z, low, touch = bodies.centres[n, :, 2], bodies.bottoms[n], contact.pairs[n].any(0)
        for t in range(1, bodies.frames - 2):
            seen = bodies.clean[n, t - 1 : t + 3].all() and min(low[t : t + 2]) >= -0.1 * radius
            if not seen or touch[t : t + 2].any():
                continue
            down = (z[t] - z[t - 1]) / step - gravity * step / 2
            up = (z[t + 2] - z[t + 1]) / step + gravity * step / 2
            if down > -0.8 or up < 0.3:
                continue
            before = (down**2 + 2 * gravity * max(low[t], 0)) ** 0.5
            after = (up**2 + 2 * gravity * max(low[t + 1], 0)) ** 0.5
            share = after / before
            found.append((share, NOISE * radius * 2**0.5 / step / before * (1 + share**2) ** 0.5))
    return _joined(found)
