"""What touches what while MuJoCo steps: bounces and rest told apart, friction, and the contacts that come of it (our
design)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_pipelines.diorama.bodies import RESTING, Touch, load_mujoco
from wm_pipelines.diorama.scene import Scene

BOUNCE = 0.02  # seconds: a touch that lasts longer is one of bodies that rest on each other
GRIP = 0.3  # share of slip that friction takes at most in a step
SAME = 0.25  # frames: touches of one pair with a shorter pause between them are one contact


@dataclass(frozen=True)
class Contact:
    """A time during which an object touches another or the floor.

    Args:
        time, until: frames, first and last touch; pauses in which the two stay within 2 mm, or which are shorter than
            `SAME` frames, count as touch.
        first, second: ids; `second` is 0 for the floor, else the object that stands later in the scene.
        impulse: (x, y, z) N s that `first` received from `second` in that time, friction included.
        point, normal: (x, y, z) at the first touch, metres, and unit, from `second` towards `first`.
        penetration: deepest overlap in that time, metres.
    """

    time: float
    until: float
    first: int
    second: int
    impulse: tuple[float, float, float]
    point: tuple[float, float, float]
    normal: tuple[float, float, float]
    penetration: float


class Touches:
    """Tells bounces from rest, adds friction, and keeps every touch of every step.

    Two bodies that are near each other bounce for the first `BOUNCE` seconds and rest from then on, until they part;
    what lies on something at the start rests.

    Args:
        bounce: how bodies touch at first. friction: Coulomb's coefficient. steps: of a frame. step: seconds.
    """

    def __init__(self, model: Any, bounce: Touch, friction: float, scene: Scene, steps: int, step: float):
        self.model, self.bounce, self.friction, self.steps, self.step = model, bounce, friction, steps, step
        self.mujoco = load_mujoco()
        each = np.hstack([np.repeat(model.body_mass[1:, None], 3, axis=1), model.body_inertia[1:]])
        self.lightness = 1 / each.reshape(-1)  # of each coordinate of velocity
        self.patience = math.ceil(BOUNCE / step)
        self.ids = np.array([0, *(o.id for o in scene.objects)])
        pairs = zip(model.pair_geom1.tolist(), model.pair_geom2.tolist(), strict=True)
        self.pair_of = {frozenset(pair): i for i, pair in enumerate(pairs)}
        self.patterns: dict[bytes, tuple[np.ndarray, frozenset[int]]] = {}  # the geoms in contact and their pairs
        self.near: frozenset[int] = frozenset()
        self.waiting: dict[int, int] = {}  # pairs that still bounce, and the step in which they come to rest
        self.steps_seen: list[tuple] = []

    def start(self, data: Any) -> None:
        """Sets what lies on something at rest."""
        self.near = self._pattern(data.contact.geom)[1]
        for pair in range(self.model.npair):
            self._set(pair, RESTING if pair in self.near else self.bounce)

    def add(self, number: int, data: Any) -> None:
        """What touched in step `number`, after it."""
        contact = data.contact
        geom, near = self._pattern(contact.geom) if data.ncon else (None, frozenset())
        if near != self.near:
            for pair in self.near - near:
                self._set(pair, self.bounce)
                self.waiting.pop(pair, None)
            self.waiting |= dict.fromkeys(near - self.near, number + self.patience)
            self.near = near
        for pair in [pair for pair, until in self.waiting.items() if until == number]:
            self._set(pair, RESTING)
            del self.waiting[pair]
        rub = self._rub(data)
        if geom is not None:
            kept = (contact.dist.copy(), contact.pos.copy(), contact.frame.copy(), contact.efc_address.copy())
            self.steps_seen.append((number, geom, *kept, data.efc_force.reshape(-1, 3) + rub))

    def _rub(self, data) -> np.ndarray:
        """Sets the friction of the next step and returns it, (C, 3) along the axes of the C touches that push.

        Against the slip, at most `friction` times the normal force, and no more than ends the share `GRIP` of the
        slip in a step; one step late. MuJoCo's own friction is of another kind: it holds against acceleration, so it
        gives energy to what tumbles, and it lifts what slides.
        """
        rub = np.zeros((data.nefc // 3, 3))
        if len(rub) == 0 or self.friction == 0:
            data.qfrc_applied[:] = 0
            return rub
        slip = data.efc_vel.reshape(-1, 3)[:, 1:]
        speed = np.hypot(slip[:, 0], slip[:, 1]) + 1e-12
        # forces of 1 at all touches change the slip at each by no more than `ease` in a second
        reach = np.abs(data.efc_J.reshape(len(rub), 3, -1)[:, 1:])
        ease = (reach * (reach.sum((0, 1)) * self.lightness)).sum(2).max(1)
        most = np.minimum(self.friction * data.efc_force[::3] / speed, GRIP / (ease * self.step))
        rub[:, 1:] = -most[:, None] * slip
        self.mujoco.mj_mulJacTVec(self.model, data, data.qfrc_applied, rub.reshape(-1))
        return rub

    def contacts(self) -> tuple[Contact, ...]:
        """All contacts, in order of time."""
        if not self.steps_seen:
            return ()
        number, geom, distance, point, axes, force = self._joined()
        low, high = geom.min(1), geom.max(1)
        # MuJoCo's normal points from the first geom to the second, and its force is the one on the second
        sign = np.where(geom[:, 1] == np.where(low == 0, high, low), 1.0, -1.0)[:, None]
        pushes = force[:, 0] > 0
        force, normal = sign * np.einsum("cd,cdx->cx", force, axes), sign * axes[:, 0]
        found = []
        for a, b in sorted(set(zip(low.tolist(), high.tolist(), strict=True))):
            mine = np.flatnonzero((low == a) & (high == b))
            for one in np.split(mine, np.flatnonzero(np.diff(number[mine]) > SAME * self.steps) + 1):
                one = one[pushes[one]]
                if not len(one):
                    continue
                begin = one[number[one] == number[one[0]]]
                mean = normal[begin].mean(0)
                found.append(
                    Contact(
                        time=float(number[one[0]]) / self.steps,
                        until=float(number[one[-1]] + 1) / self.steps,
                        first=int(self.ids[a or b]),
                        second=int(self.ids[b if a else 0]),
                        impulse=tuple((force[one].sum(0) * self.step).tolist()),
                        point=tuple(point[begin].mean(0).tolist()),
                        normal=tuple((mean / np.linalg.norm(mean)).tolist()),
                        penetration=float(max(0.0, -distance[one].min())),
                    )
                )
        return tuple(sorted(found, key=lambda c: (c.time, c.first, c.second)))

    def _set(self, pair: int, touch: Touch) -> None:
        self.model.pair_solref[pair] = touch.solref

    def _pattern(self, geom: np.ndarray) -> tuple[np.ndarray, frozenset[int]]:
        key = geom.tobytes()
        if key not in self.patterns:
            self.patterns[key] = geom.copy(), frozenset(self.pair_of[frozenset(g)] for g in geom.tolist())
        return self.patterns[key]

    def _joined(self) -> tuple[np.ndarray, ...]:
        """Of all C touches: step (C,), geoms (C, 2), distance (C,), point (C, 3), axes (C, 3, 3), the normal first,
        and force along them (C, 3), 0 where two are near and don't touch."""
        each = list(zip(*self.steps_seen, strict=True))
        geom, distance, point, axes, address, rows = (np.concatenate(v) for v in each[1:])
        count = [len(g) for g in each[1]]
        begins = np.cumsum([0, *(len(r) for r in each[-1])])[:-1]
        force = np.zeros((len(distance), 3))
        on = address >= 0
        force[on] = rows[np.repeat(begins, count)[on] + address[on] // 3]
        return np.repeat(each[0], count), geom, distance, point, axes.reshape(-1, 3, 3), force
