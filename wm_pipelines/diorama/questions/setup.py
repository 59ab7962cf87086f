"""How the physics makes a clip: a scene at rest, how its objects set off or are held, and the world's numbers.

Whatever becomes of it is simulated anew when it is asked for, and remembered for a while (our design).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np

from wm_pipelines.diorama.primitives import sampled_motion
from wm_pipelines.diorama.questions.record import read_record
from wm_pipelines.diorama.questions.transforms import mirrored
from wm_pipelines.diorama.scene import Scene, SceneObject
from wm_pipelines.diorama.simulation import Start, simulate

Vector = tuple[float, float, float]
Contacts = tuple[tuple[float, int, int], ...]

# what a world has that a normal one has not
LAWS: dict[str, dict[str, float]] = {
    "normal": {},
    "inverted gravity": {"gravity": -2.0},
    "no friction": {"friction": 0.0},
    "no inertia": {"damping": 30.0},
}


@dataclass(frozen=True)
class Push:
    """An object sets off with `velocity` (m/s) at frame 0."""

    id: int
    velocity: Vector


@dataclass(frozen=True)
class Hold:
    """An object is held where it is, carried with `velocity` (m/s) from frame `start` on, and let go at `end`."""

    id: int
    velocity: Vector
    start: int
    end: int


@dataclass(frozen=True)
class Setup:
    """What `happen` needs.

    Args:
        scene: at rest; its duration is simulated.
        pushes, holds: what is done to its objects; the others rest until something meets them.
        friction, restitution: as `simulation.simulate` takes them; gravity is the Earth's and nothing is damped.
        law: a name of `LAWS`, which changes these numbers.
    """

    scene: Scene
    pushes: tuple[Push, ...] = ()
    holds: tuple[Hold, ...] = ()
    friction: float = 0.3
    restitution: float = 0.5
    law: str = "normal"

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise ValueError(f"`law` is {self.law!r}; allowed: {', '.join(LAWS)}")

    @property
    def world(self) -> dict[str, float]:
        return {"friction": self.friction, "restitution": self.restitution} | LAWS[self.law]

    def without(self, id: int) -> "Setup":
        """The same without one object."""
        self.scene.object(id)
        return replace(
            self,
            scene=replace(self.scene, objects=tuple(o for o in self.scene.objects if o.id != id)),
            pushes=tuple(p for p in self.pushes if p.id != id),
            holds=tuple(h for h in self.holds if h.id != id),
        )

    def mirrored(self) -> "Setup":
        """Left and right exchanged."""
        return replace(
            self,
            scene=mirrored(self.scene),
            pushes=tuple(replace(p, velocity=(-p.velocity[0], *p.velocity[1:])) for p in self.pushes),
            holds=tuple(replace(h, velocity=(-h.velocity[0], *h.velocity[1:])) for h in self.holds),
        )

    def to_dict(self) -> dict:
        return {**asdict(self), "scene": json.loads(self.scene.to_json())}

    @classmethod
    def from_dict(cls, data: dict) -> "Setup":
        """The inverse of `to_dict`; a field that is missing or unknown is a ValueError."""
        if not isinstance(data, dict) or not {"scene", "pushes", "holds"} <= set(data):
            raise ValueError("a setup is a JSON object with a scene, pushes and holds")
        scene = Scene.from_json(json.dumps(data["scene"]))
        pushes = tuple(read_record(Push, p) for p in data["pushes"])
        return read_record(
            cls,
            {**data, "scene": scene, "pushes": pushes, "holds": tuple(read_record(Hold, h) for h in data["holds"])},
        )


@lru_cache(maxsize=64)
def happen(setup: Setup) -> tuple[Scene, Contacts]:
    """The scene with the motions that the physics gives its objects, and the touches between them, in order.

    What is held meets nothing: it is simulated alone, from the frame in which it is let go.
    """
    held = {h.id: h for h in setup.holds}
    free = replace(setup.scene, objects=tuple(o for o in setup.scene.objects if o.id not in held))
    contacts: Contacts = ()
    moved: Mapping[int, SceneObject] = {}
    if setup.pushes or setup.world.get("gravity", 1) < 0:
        found = simulate(free, {p.id: Start(p.velocity) for p in setup.pushes}, **setup.world)
        moved = {o.id: o for o in found.scene.objects}
        contacts = tuple((c.time, c.first, c.second) for c in found.contacts if c.second)
    objects = [_carried(o, held[o.id], setup) if o.id in held else moved.get(o.id, o) for o in setup.scene.objects]
    return replace(setup.scene, objects=tuple(objects)), contacts


def _carried(obj: SceneObject, hold: Hold, setup: Setup) -> SceneObject:
    """`obj` held, carried, and let go."""
    scene, velocity = setup.scene, np.array(hold.velocity)
    seconds = (np.arange(hold.end + 1) - hold.start).clip(0) / scene.fps
    before = np.array(obj.position) + seconds[:, None] * velocity
    released = replace(obj, position=tuple(before[-1].tolist()))
    alone = replace(scene, objects=(released,), duration=scene.duration - hold.end)
    motion = simulate(alone, {obj.id: Start(hold.velocity)}, **setup.world).scene.objects[0].motion[0]
    positions = [*before[:-1].tolist(), *motion.positions]
    quaternions = [obj.quaternion] * hold.end + [*motion.quaternions]
    motion = sampled_motion(np.arange(len(positions)), positions, quaternions)
    return replace(obj, motion=(motion,))
