"""Agreement with a simulator: what MuJoCo makes of the first third of a motion, against the rest of it (our design).

State at the last frame that is fitted: places as they are, velocities by a line through the frames before it in which
nothing new touches, gravity or friction taken into account. Friction and restitution are the world's, of all frames,
where the motion shows them. Bodies are spheres where they reach equally far, else
upright boxes as wide and as high as they reach; they turn only as contacts turn them from there on.
"""

from dataclasses import dataclass, replace

import numpy as np

from wm_pipelines.diorama.scene import Scene, SceneObject
from wm_pipelines.diorama.simulation import FASTEST, FRICTION, MOST_FRAMES, RESTITUTION, Start, simulate
from wm_pipelines.morpho4d.physics.bodies import ROUND, Bodies, directions
from wm_pipelines.morpho4d.physics.constants import recover_friction, recover_restitution
from wm_pipelines.morpho4d.physics.terms import Contact

LEAST_FRAMES = 9
SHARE = 3
"""One in so many frames is fitted, the others are predicted."""
MOST_SECONDS = 4.0
"""What is predicted at most."""
APART = 0.25
"""Radii: a centre farther from the prediction no longer agrees."""
TIGHTER = (1.0, 0.9, 0.8, 0.7)
"""How much smaller bodies are made, where they would be in each other at the start."""
STANDS, LEVEL = 0.25, 0.3
"""Radii above the floor: what is no higher stands on it. And the z of directions that count as level."""


@dataclass(frozen=True)
class Agreement:
    """start: the last frame that was fitted. seconds: for each body, how long its centre stays within `APART` radii of
    the prediction. whole: the seconds that were predicted. errors: (N, T) radii; NaN before and where unseen."""

    start: int
    seconds: list[float]
    whole: float
    errors: np.ndarray

    @property
    def lost(self) -> float:
        """The share of the predicted time in which the first body to leave no longer agrees."""
        return 1 - min(self.seconds) / self.whole


@dataclass(frozen=True)
class Solid(SceneObject):
    """A solid of any width and height."""

    half: float = 1.0
    tall: float = 1.0

    @property
    def half_width(self) -> float:
        return self.half

    @property
    def height(self) -> float:
        return self.tall


def agreement(bodies: Bodies, contact: Contact, gravity: float) -> Agreement:
    """How long MuJoCo agrees with what happens after the first third.

    Raises:
        ValueError: it can't be said; the message is the reason.
        ImportError: MuJoCo is not installed.
    """
    start, places = predicted(bodies, contact, gravity)
    known = np.where(bodies.placed[..., None], bodies.centres, np.nan)
    errors = np.linalg.norm(places - known, axis=-1) / bodies.radius[:, None]
    whole = np.isfinite(places[0, :, 0]).sum() - 1
    off = [np.flatnonzero(row[start:] > APART) for row in errors]
    seconds = [float(first[0] if len(first) else whole) / bodies.fps for first in off]
    return Agreement(start, seconds, float(whole / bodies.fps), errors)


def predicted(bodies: Bodies, contact: Contact, gravity: float) -> tuple[int, np.ndarray]:
    """(k, centres (N, T, 3)) of what follows from the frames up to k; NaN before, and after `MOST_SECONDS`.

    Raises:
        ValueError: it can't be said; the message is the reason.
        ImportError: MuJoCo is not installed.
    """
    if bodies.frames < LEAST_FRAMES:
        raise ValueError(f"{bodies.frames} frames; {LEAST_FRAMES} or more are needed to fit some and predict the rest")
    if not 0 < gravity <= 20:
        raise ValueError(f"a gravity of {gravity:.3g} m/s^2 is beyond the simulator's 20")
    last = bodies.frames // SHARE
    if not bodies.placed[:, : last + 1].any(1).all():
        raise ValueError(f"a body is not seen in the first {last + 1} frames")
    early = _until(bodies, last + 1)
    flags = Contact(contact.floor[:, : last + 1], contact.pairs[..., : last + 1], contact.overlap[..., : last + 1])
    rolls = any(_round(early, n) for n in range(len(bodies.ids)))
    rub, back = recover_friction(bodies, contact, gravity), recover_restitution(bodies, contact, gravity)
    friction = min(max(rub.value, 0.0), 2.0) if rub and not rolls else FRICTION
    world = {"friction": friction, "restitution": min(max(back.value, 0.0), 1.0) if back else RESTITUTION}
    starts = {n + 1: Start(tuple(_velocity(early, flags, n, gravity, friction))) for n in range(len(bodies.ids))}
    left = max(1, min(bodies.frames - 1 - last, int(MOST_SECONDS * bodies.fps), MOST_FRAMES))
    for scale in TIGHTER:
        solids = tuple(_solid(early, n, scale) for n in range(len(bodies.ids)))
        scene = Scene(solids, fps=bodies.fps, duration=left)
        try:
            found = simulate(scene, starts, gravity=gravity, **world)
        except ValueError:
            continue
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        out = np.full(bodies.centres.shape, np.nan)
        middle = np.array([s.centre for s in solids]) - early.filled(early.centres, early.placed)[:, -1]
        out[:, last : last + left + 1] = found.centres.swapaxes(0, 1) - middle[:, None]
        return last, out
    raise ValueError(f"bodies are in each other or in the floor in frame {last}")


def _until(bodies: Bodies, end: int) -> Bodies:
    cut = {
        name: getattr(bodies, name)[:, :end]
        for name in ("centres", "radii", "bottoms", "reach", "clean", "placed", "missing", "unsure")
    }
    return replace(bodies, **cut, particles=None)


def _velocity(bodies: Bodies, contact: Contact, n: int, gravity: float, friction: float) -> np.ndarray:
    """(3,) m/s in the last frame, by a line through what the places would be without acceleration."""
    places, last = bodies.filled(bodies.centres, bodies.placed)[n], bodies.frames - 1
    touched = contact.pairs[n].any(0)
    floor = _low(bodies, n)
    first = last - 1
    while first > 0 and last - first < 4 and floor[first - 1] == floor[last] and not touched[first - 1]:
        first -= 1
    seconds = (np.arange(first, last + 1) - last) / bodies.fps
    pull = np.array([0, 0, -gravity])
    if floor[last]:
        way = places[last] - places[first]
        way[2] = 0
        size = np.linalg.norm(way)
        slides = not _round(bodies, n) and size > friction * gravity * seconds[0] ** 2 / 2
        pull = -friction * gravity * way / size if slides else np.zeros(3)
    straight = places[first : last + 1] - pull * seconds[:, None] ** 2 / 2
    speed = np.polynomial.polynomial.polyfit(seconds, straight, 1)[1]
    if floor[last]:
        speed[2] = 0.0
    if np.linalg.norm(speed) > FASTEST:
        raise ValueError(f"a body sets off at {np.linalg.norm(speed):.3g} m/s, beyond the simulator's {FASTEST:g}")
    return speed


def _round(bodies: Bodies, n: int) -> bool:
    reach = _reach(bodies, n)
    return bool(reach.max() < ROUND * reach.min())


def _reach(bodies: Bodies, n: int) -> np.ndarray:
    """(64,) metres, along `directions()`."""
    known = bodies.clean[n] if bodies.clean[n].any() else np.isfinite(bodies.radii[n])
    return np.median(bodies.reach[n][known], axis=0)


def _solid(bodies: Bodies, n: int, scale: float) -> Solid:
    """The body as it is in the last frame; what is no higher above the floor than `STANDS` stands on it."""
    centre, reach = bodies.filled(bodies.centres, bodies.placed)[n, -1], _reach(bodies, n)
    up = directions()[:, 2]
    half, tall = float(np.median(reach[up < LEVEL])), float(reach[up.argmax()])
    if _round(bodies, n):
        half = tall = float(np.median(reach))
    elif _low(bodies, n)[-1]:
        tall = float(np.clip(centre[2], 0.5 * tall, 1.5 * tall))
    half, tall = scale * half, scale * tall
    base = 0.0 if _low(bodies, n)[-1] else max(0.0, float(centre[2]) - tall)
    place = (float(centre[0]), float(centre[1]), base)
    shape = "sphere" if _round(bodies, n) else "cylinder"
    return Solid(n + 1, shape, "white", position=place, half=half, tall=2 * tall)


def _low(bodies: Bodies, n: int) -> np.ndarray:
    """(T,), whether the body stands on the floor."""
    return bodies.filled(bodies.bottoms[..., None], bodies.placed)[n, :, 0] < STANDS * bodies.radius[n]
