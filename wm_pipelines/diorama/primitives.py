"""The primitives that a motion is a list of: plain values, checked as they are made. `motion` says where they lead."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from wm_pipelines.record import record_of

DIRECTIONS = ("left", "right", "towards", "away", "up", "down")
TURNS = ("clockwise", "counterclockwise")
# what `direction` may be, for each kind; `orbit` serves objects (about an object) and the camera (about its target)
MOTION_KINDS: dict[str, tuple[str, ...]] = {
    "still": (),
    "translate": DIRECTIONS,
    "turn": TURNS,
    "orbit": TURNS,
    "bounce": (),
    "stop": (),
    "sampled": (),
    "pan": ("left", "right"),
    "dolly": ("forward", "back"),
}
OBJECT_KINDS = ("still", "translate", "turn", "orbit", "bounce", "stop", "sampled")
CAMERA_KINDS = ("still", "pan", "orbit", "dolly", "stop")
# progress u -> eased progress, and its slope at u = 1 (the speed that a following `stop` takes over)
EASINGS = {
    "linear": (lambda u: u, 1.0),
    "in": (lambda u: u * u, 2.0),
    "out": (lambda u: u * (2 - u), 0.0),
    "smooth": (lambda u: u * u * (3 - 2 * u), 0.0),
}


@dataclass(frozen=True)
class Motion:
    """One primitive.

    Args:
        kind: still, translate, turn (about the object's vertical axis), orbit, bounce, stop (the primitive before it
            in the list runs out, its speed falling evenly to zero), sampled (`sampled_motion` makes one: it says where
            the object is, and is its only primitive), and for cameras pan, orbit, dolly.
        start, end: frames, 0 <= start < end.
        direction: a word that the kind allows, or for translate a world direction (x, y, z), normalised.
        speed: mean speed from start to end: metres a second (translate, dolly), radians a second (turn, orbit, pan).
        easing: "linear", "in", "out" or "smooth".
        about: orbit of an object: the id of the object it goes around, which may move itself.
        height, count: bounce: apex in metres and number of hops.
        times, positions, quaternions: sampled: T >= 2 rising times in frames from `start` to `end`, the base centre
            (x, y, z) in metres and the rotation (w, x, y, z), of unit length, at each of them.
    """

    kind: str
    start: float
    end: float
    direction: str | tuple[float, float, float] | None = None
    speed: float = 0.0
    easing: str = "linear"
    about: int | None = None
    height: float = 0.0
    count: int = 1
    times: tuple[float, ...] = ()
    positions: tuple[tuple[float, float, float], ...] = ()
    quaternions: tuple[tuple[float, float, float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in MOTION_KINDS:
            raise ValueError(f"`kind` is {self.kind!r}; allowed: {', '.join(MOTION_KINDS)}")
        if not (math.isfinite(self.start) and math.isfinite(self.end) and 0 <= self.start < self.end):
            raise ValueError(f"`start` is {self.start!r}, `end` {self.end!r}; frames with 0 <= start < end")
        if self.easing not in EASINGS:
            raise ValueError(f"`easing` is {self.easing!r}; allowed: {', '.join(EASINGS)}")
        if not (math.isfinite(self.speed) and self.speed >= 0):
            raise ValueError(f"`speed` is {self.speed!r}; 0 or more (the direction gives the sign)")
        allowed = MOTION_KINDS[self.kind]
        if self.kind == "translate" and isinstance(self.direction, (tuple, list)):
            object.__setattr__(self, "direction", tuple(float(v) for v in self.direction))
            if len(self.direction) != 3 or not 0 < math.hypot(*self.direction) < math.inf:
                raise ValueError(f"`direction` is {self.direction!r}; a word or three finite numbers, not all zero")
        elif allowed and self.direction not in allowed:
            raise ValueError(f"`direction` of {self.kind} is {self.direction!r}; allowed: {', '.join(allowed)}")
        elif not allowed and self.direction is not None:
            raise ValueError(f"`direction` is {self.direction!r}; {self.kind} has none")
        if self.kind == "bounce" and not (0 < self.height < math.inf and self.count >= 1):
            raise ValueError(f"`height` is {self.height!r}, `count` {self.count!r}; a bounce needs both above 0")
        if self.about is not None and self.kind != "orbit":
            raise ValueError(f"`about` is {self.about!r}; only an orbit goes around an object")
        if self.kind == "sampled":
            self._check_samples()
        elif len(self.times) or len(self.positions) or len(self.quaternions):
            raise ValueError(f"`times` has {len(self.times)} entries; only a sampled motion has samples")

    def _check_samples(self):
        for name, width in (("positions", 3), ("quaternions", 4)):
            samples = tuple(tuple(float(v) for v in sample) for sample in getattr(self, name))
            object.__setattr__(self, name, samples)
            if len(samples) != len(self.times) or any(len(s) != width for s in samples):
                raise ValueError(f"`{name}` has {len(samples)} entries; one of {width} numbers for each of `times`")
            if not all(math.isfinite(v) for sample in samples for v in sample):
                raise ValueError(f"`{name}` has a number that is not finite")
        times = tuple(float(t) for t in self.times)
        object.__setattr__(self, "times", times)
        if len(times) < 2 or (times[0], times[-1]) != (self.start, self.end):
            raise ValueError(f"`times` has {len(times)} entries; two or more, from `start` to `end`")
        if not all(a < b for a, b in pairwise(times)):
            raise ValueError("`times` do not rise")
        wrong = [q for q in self.quaternions if abs(math.hypot(*q) - 1) > 1e-6]
        if wrong:
            raise ValueError(f"`quaternions` has {wrong[0]}; each must have the length 1")


def sampled_motion(
    times: Sequence[float], positions: Sequence[Sequence[float]], quaternions: Sequence[Sequence[float]]
) -> Motion:
    """A motion of kind "sampled": linear between the positions, on the shorter arc between the rotations, held before
    and after.

    Args:
        times: (T,) frames, rising, T >= 2. positions: (T, 3) base centres, metres. quaternions: (T, 4) wxyz, unit.
    """
    times = [float(t) for t in times]
    if len(times) < 2:
        raise ValueError(f"`times` has {len(times)} entries; two or more")
    return Motion("sampled", times[0], times[-1], times=times, positions=positions, quaternions=quaternions)


def motion_from_dict(data: dict) -> Motion:
    """The inverse of `dataclasses.asdict`; an unknown field, or a value of another type, is a ValueError."""
    return record_of(Motion, data)
