"""What touches what while MuJoCo steps: bounces and rest told apart, and the contacts that come of it (our design)."""

import math
from dataclasses import dataclass

import numpy as np

from wm_pipelines.diorama.bodies import RESTING, Touch
from wm_pipelines.diorama.scene import Scene

BOUNCE = 0.02  # seconds: a touch that lasts longer is one of bodies that rest on each other
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
    """Tells bounces from rest, and keeps every touch of every step.

    Two bodies that are near each other bounce for the first `BOUNCE` seconds and rest from then on, until they part;
    what lies on something at the start rests.

    Args:
        bounce: how bodies touch at first. steps: of a frame. step: seconds.
    """

    def __init__(self, model, bounce: Touch, scene: Scene, steps: int, step: float):
        self.model, self.bounce, self.steps, self.step = model, bounce, steps, step
        self.patience = math.ceil(BOUNCE / step)
        self.ids = np.array([0, *(o.id for o in scene.objects)])
        pairs = zip(model.pair_geom1.tolist(), model.pair_geom2.tolist(), strict=True)
        self.pair_of = {frozenset(pair): i for i, pair in enumerate(pairs)}
        self.patterns: dict[bytes, tuple[np.ndarray, frozenset[int]]] = {}  # the geoms in contact and their pairs
        self.near: frozenset[int] = frozenset()
        self.waiting: dict[int, int] = {}  # pairs that still bounce, and the step in which they come to rest
        self.steps_seen: list[tuple] = []

    def start(self, data) -> None:
        """Sets what lies on something at rest."""
        self.near = self._pattern(data.contact.geom)[1]
        for pair in range(self.model.npair):
            self._set(pair, RESTING if pair in self.near else self.bounce)

    def add(self, number: int, data) -> None:
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
        if geom is not None:
            kept = (contact.dist, contact.pos, contact.frame, contact.efc_address, data.efc_force)
            self.steps_seen.append((number, geom, *(v.copy() for v in kept)))

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
        self.model.pair_solreffriction[pair] = touch.solreffriction

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
        dim = len(rows) // max(1, on.sum())
        address = (np.repeat(begins, count) + address)[on]
        force[on, :dim] = rows[address[:, None] + np.arange(dim)]
        return np.repeat(each[0], count), geom, distance, point, axes.reshape(-1, 3, 3), force
