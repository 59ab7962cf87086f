"""Physical events with one thing in them that cannot be: what a check of physics has to find (our design).

A clip is a scene at rest for each of its frames, so that what happens between them is free of the simulator's laws.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wm_pipelines.diorama.bodies import above_base
from wm_pipelines.diorama.physics import FAMILIES, PhysicsSetup, sample_physics
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.rotations import rows
from wm_pipelines.diorama.scene import Scene, SceneObject
from wm_pipelines.diorama.simulation import Simulated, simulate
from wm_pipelines.runtime.random import keyed

VIOLATIONS = ("vanish", "grow", "teleport", "float", "interpenetrate", "reversed gravity")
TRIES = 60
SIDE = 32  # pixels of the pictures that tell what is seen
LEAST_FRAMES = 8


@dataclass(frozen=True)
class Grown(SceneObject):
    """A solid `factor` times as large as its size says."""

    factor: float = 1.0

    @property
    def radius(self) -> float:
        return self.factor * super().radius


@dataclass(frozen=True)
class Violation:
    """A clip that breaks a law.

    kind: of `VIOLATIONS`. setup: the event that it was made of. object_id: of what breaks it. frame: the first that is
    not as it should be. frames: a scene at rest for each frame, the same camera in all.
    """

    kind: str
    setup: PhysicsSetup
    object_id: int
    frame: int
    frames: tuple[Scene, ...]


def still_frames(simulated: Simulated) -> tuple[Scene, ...]:
    """A scene at rest for each frame of a simulation."""
    scene = replace(simulated.scene, duration=1)
    return tuple(
        replace(scene, objects=tuple(_posed(simulated, n, t) for n in range(len(scene.objects))))
        for t in range(simulated.scene.duration)
    )


def sample_violation(kind: str, *key: str | int, frames: int = 16) -> Violation:
    """Draws the clip with a violation of `kind` that belongs to `key`, the same wherever MuJoCo finds the same.

    vanish: an object is gone for three frames or more. grow: it becomes 1.4 to 1.9 times as large within three to six
    frames. teleport: it goes on 0.6 to 1.2 m beside. float: it slides 0.35 to 0.8 m above the floor, or stops in the
    air. interpenetrate: two objects go through each other. reversed gravity: 0.8 to 2 m/s^2 upwards; the clip ends
    before something leaves the picture.

    Args:
        frames: T, 12 or more; a clip of reversed gravity may have fewer, `LEAST_FRAMES` at least.

    Raises:
        ValueError: an unknown kind, or no such clip was found in `TRIES` draws.
    """
    if kind not in VIOLATIONS:
        raise ValueError(f"`kind` is {kind!r}; allowed: {', '.join(VIOLATIONS)}")
    rng = keyed("violation", kind, *key)
    families = {"float": ("slide", "throw"), "interpenetrate": ("push", "collide")}.get(kind, FAMILIES)
    for n in range(TRIES):
        family = str(rng.choice(families))
        setup = sample_physics(family, "violation", kind, *key, n, frames=frames)
        made = _MAKE[kind](setup, rng)
        if made is not None:
            return Violation(kind, setup, *made)
    raise ValueError(f"no {kind} for `key` {key!r} in {TRIES} draws")


# --- one maker a kind: (object id, first wrong frame, scenes), or None where the draw does not show it ---------------


def _vanish(setup: PhysicsSetup, rng):
    scenes, o = still_frames(setup.simulated), _some(setup, rng)
    begin = int(rng.integers(3, len(scenes) - 3))
    end = len(scenes) if rng.random() < 0.5 else min(begin + int(rng.integers(3, 6)), len(scenes))
    gone = [s if not begin <= t < end else _without(s, o.id) for t, s in enumerate(scenes)]
    return (o.id, begin, tuple(gone)) if _seen(scenes, o.id)[begin:end].min() > 0.5 else None


def _grow(setup: PhysicsSetup, rng):
    scenes, o = still_frames(setup.simulated), _some(setup, rng)
    begin, took, most = int(rng.integers(2, len(scenes) - 5)), int(rng.integers(3, 7)), rng.uniform(1.4, 1.9)

    def grown(scene: Scene, t: int) -> Scene:
        share = min(max((t - begin + 1) / took, 0.0), 1.0)
        return _changed(scene, o.id, lambda o: Grown(**vars(o), factor=1 + share * (most - 1)))

    made = tuple(grown(s, t) for t, s in enumerate(scenes))
    return (o.id, begin, made) if _whole(made, o.id) else None


def _teleport(setup: PhysicsSetup, rng):
    scenes, o = still_frames(setup.simulated), _some(setup, rng)
    begin, angle, far = int(rng.integers(3, len(scenes) - 2)), rng.uniform(0, 2 * math.pi), rng.uniform(0.6, 1.2)
    made = tuple(
        _shifted(s, o.id, (far * math.cos(angle), far * math.sin(angle), 0.0)) if t >= begin else s
        for t, s in enumerate(scenes)
    )
    return (o.id, begin, made) if _whole(made, o.id) and _clear(made[begin:], o.id) else None


def _float(setup: PhysicsSetup, rng):
    scenes, o = still_frames(setup.simulated), setup.scene.objects[0]
    if setup.family == "slide":
        up = float(rng.uniform(0.35, 0.8))
        made = tuple(_shifted(s, o.id, (0.0, 0.0, up)) for s in scenes)
        return (o.id, 0, made) if _whole(made, o.id) else None
    landed = next(c.time for c in setup.simulated.contacts if c.first == o.id)
    begin = int(rng.integers(1, max(2, math.floor(landed))))
    if setup.simulated.centres[begin, 0, 2] - o.radius < 0.3:
        return None
    return o.id, begin + 1, (*scenes[: begin + 1], *[scenes[begin]] * (len(scenes) - begin - 1))


def _interpenetrate(setup: PhysicsSetup, rng):
    alone = []
    for o in setup.scene.objects:
        starts = {i: start for i, start in setup.starts.items() if i == o.id}
        alone.append(simulate(replace(setup.scene, objects=(o,)), starts, **setup.world))
    if setup.family == "push":  # what nothing shoves stays where it is, and friction may stop the other before it
        starts = {i: replace(s, velocity=tuple(1.3 * v for v in s.velocity)) for i, s in setup.starts.items()}
        alone[0] = simulate(replace(setup.scene, objects=setup.scene.objects[:1]), starts, **setup.world)
    scenes = still_frames(setup.simulated)
    made = tuple(replace(s, objects=tuple(_posed(a, 0, t) for a in alone)) for t, s in enumerate(scenes))
    gap = np.linalg.norm(alone[0].centres[:, 0] - alone[1].centres[:, 0], axis=-1)[: len(made)]
    deep = gap < 0.6 * sum(o.half_width for o in setup.scene.objects)
    if deep.sum() < 2 or not all(_inside(made, o.id) for o in setup.scene.objects):
        return None
    return setup.scene.objects[0].id, int(deep.argmax()), made


def _reversed(setup: PhysicsSetup, rng):
    found = still_frames(setup.simulate(gravity=-float(rng.uniform(0.8, 2.0))))
    length = next((t for t in range(len(found)) if not _framed(found[t])), len(found))
    return (setup.scene.objects[0].id, 1, found[:length]) if length >= LEAST_FRAMES else None


_MAKE: dict[str, Callable] = {
    "vanish": _vanish,
    "grow": _grow,
    "teleport": _teleport,
    "float": _float,
    "interpenetrate": _interpenetrate,
    "reversed gravity": _reversed,
}


# --- scenes ---------------------------------------------------------------------------------------------------------


def _posed(simulated: Simulated, n: int, t: int) -> SceneObject:
    """Object n as it stands at frame t, without a motion."""
    o, q = simulated.scene.objects[n], simulated.quaternions[t, n]
    q = q / np.linalg.norm(q)
    base = simulated.centres[t, n] - above_base(o) * np.array(rows(*q))[:, 2]
    return replace(o, motion=(), position=tuple(base.tolist()), yaw=0.0, tilt=tuple(q.tolist()))


def _some(setup: PhysicsSetup, rng) -> SceneObject:
    return setup.scene.objects[int(rng.integers(len(setup.scene.objects)))]


def _changed(scene: Scene, id: int, change: Callable[[SceneObject], SceneObject]) -> Scene:
    return replace(scene, objects=tuple(change(o) if o.id == id else o for o in scene.objects))


def _shifted(scene: Scene, id: int, by: Sequence[float]) -> Scene:
    return _changed(
        scene, id, lambda o: replace(o, position=tuple(p + d for p, d in zip(o.position, by, strict=True)))
    )


def _without(scene: Scene, id: int) -> Scene:
    return replace(scene, objects=tuple(o for o in scene.objects if o.id != id))


def _seen(scenes: Sequence[Scene], id: int) -> np.ndarray:
    """(T,), the visible share of an object that all scenes have."""
    n = [o.id for o in scenes[0].objects].index(id)
    return render(list(scenes), size=SIDE, maps=("visible",)).visible[:, 0, n].numpy()


def _inside(scenes: Sequence[Scene], id: int) -> bool:
    n = [o.id for o in scenes[0].objects].index(id)
    boxes = render(list(scenes), size=SIDE, maps=("amodal_boxes",)).amodal_boxes[:, 0, n]
    return bool(boxes.min() >= 0 and boxes.max() <= 1)


def _whole(scenes: Sequence[Scene], id: int) -> bool:
    """Whether an object stays in the picture and is not hidden."""
    return _inside(scenes, id) and bool(_seen(scenes, id).min() > 0.5)


def _framed(scene: Scene) -> bool:
    return all(_inside([scene], o.id) for o in scene.objects)


def _clear(scenes: Sequence[Scene], id: int) -> bool:
    """Whether an object keeps away from all others."""
    for scene in scenes:
        mine = scene.object(id)
        for o in scene.objects:
            if o.id != id and math.dist(o.centre, mine.centre) < o.radius + mine.radius:
                return False
    return True


__all__ = ["VIOLATIONS", "Violation", "sample_violation", "still_frames"]
