"""Physical events of the miniature world, drawn by key: throw, push, collide, topple, slide (our design).

Each is a scene at rest, how its objects set off, and the world's numbers; what happens is simulated, and a draw in
which the event is not plain to see, or leaves the picture, is drawn again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.rotations import rows
from wm_pipelines.diorama.scene import (
    COLOURS,
    HELD_OUT,
    MATERIALS,
    PATTERNS,
    SHAPES,
    Scene,
    SceneObject,
    project,
    rough_boxes,
)
from wm_pipelines.diorama.simulation import Contact, Simulated, Start, simulate
from wm_pipelines.runtime.random import keyed

__all__ = ["FAMILIES", "Contact", "PhysicsSetup", "Simulated", "Start", "sample_physics", "simulate"]

FAMILIES = ("throw", "push", "collide", "topple", "slide")
LEAST_FRAMES = 12
MOVED = 0.1  # of the frame: what an event must move its object by, 6 pixels of 64
TRIES = 400
SIDE = 32  # pixels of the pictures that tell how much of an object is hidden


@dataclass(frozen=True)
class PhysicsSetup:
    """An event to come: `simulate(setup.scene, setup.starts, **setup.world)` lets it happen.

    family: of `FAMILIES`. scene: at rest. starts: how objects set off, by id; the first is the one that acts. world:
    gravity, friction, damping and restitution. simulated: what happens with just these.
    """

    family: str
    scene: Scene
    starts: Mapping[int, Start]
    world: Mapping[str, float]
    simulated: Simulated

    def simulate(self, **changes) -> Simulated:
        """What happens in another world: `changes` are arguments of `simulate` by keyword, `gravity=-1.5` say."""
        return simulate(self.scene, self.starts, **{**self.world, **changes})


def sample_physics(
    family: str,
    *key: str | int,
    frames: int = 16,
    bystanders: int = 0,
    composition: str = "train",
    patterns: tuple[str, ...] = PATTERNS,
) -> PhysicsSetup:
    """Draws the event of `family` that belongs to `key`, the same wherever MuJoCo finds the same.

    All objects stay whole in the picture in all frames, every one shows more than 60% of itself at t = 0, no two have
    one colour, and what the event is about moves by a tenth of the frame or more:
    throw (one object, through the air, lands), push (a large one shoves a small one along), collide (two meet on the
    floor and part), topple (a stack of two or three is hit by a sphere and falls), slide (one object, until friction
    stops it).

    Args:
        frames: T, 12 or more.
        bystanders: 0 to 2 more objects that nothing touches.
        composition: "train" (colour x shape pairs that are held out never occur) or "all".
        patterns: patterns to choose from.

    Raises:
        ValueError: an argument is not as above, or no such event was found in `TRIES` draws.
    """
    if family not in FAMILIES:
        raise ValueError(f"`family` is {family!r}; allowed: {', '.join(FAMILIES)}")
    if not isinstance(frames, int) or frames < LEAST_FRAMES:
        raise ValueError(f"`frames` is {frames!r}; an event to be seen needs {LEAST_FRAMES} or more")
    if bystanders not in (0, 1, 2):
        raise ValueError(f"`bystanders` is {bystanders!r}; allowed: 0, 1, 2")
    if composition not in ("train", "all"):
        raise ValueError(f"`composition` is {composition!r}; allowed: train, all")
    if not patterns or not set(patterns) <= set(PATTERNS):
        raise ValueError(f"`patterns` is {patterns!r}; one or more of {', '.join(PATTERNS)}")
    rng = keyed("physics", family, *key)
    for _ in range(TRIES):
        objects, starts, world = _DRAWS[family](rng)
        objects = _bystanding(objects, bystanders, rng)
        objects = _looks(objects, rng, composition, patterns)
        scene = Scene(objects, duration=frames)
        if not _placed(scene):
            continue
        simulated = simulate(scene, starts, **world)
        if _framed(simulated) and _still(simulated, bystanders) and _HAPPENED[family](simulated):
            return PhysicsSetup(family, scene, starts, world, simulated)
    raise ValueError(f"no {family} for `key` {key!r} in {TRIES} draws")


# --- draws: objects without looks, starts, world --------------------------------------------------------------------


def _solid(id: int, shape: str, size: str, position, yaw: float = 0.0) -> SceneObject:
    # the colour is a placeholder: `_looks` chooses it
    return SceneObject(id, shape, "white", size, position=tuple(float(v) for v in position), yaw=float(yaw))


def _side(rng) -> float:
    return float(rng.choice((-1.0, 1.0)))


def _throw(rng):
    s, shape, size = _side(rng), str(rng.choice(SHAPES)), str(rng.choice(("small", "small", "large")))
    o = _solid(1, shape, size, (-s * rng.uniform(1.0, 1.8), rng.uniform(-0.5, 1.5), rng.uniform(0.1, 0.8)))
    o = replace(o, yaw=float(rng.uniform(0, 2 * math.pi)))
    velocity = (s * rng.uniform(1.2, 2.4), rng.uniform(-0.3, 0.3), rng.uniform(2.2, 4.0))
    return (o,), {1: Start(velocity, tuple(rng.uniform(-4, 4, 3)))}, _world(0.5, rng.uniform(0.2, 0.6))


def _slide(rng):
    s, shape, size = _side(rng), str(rng.choice(SHAPES[1:])), str(rng.choice(("small", "large")))
    angle = rng.uniform(-0.5, 0.5)
    o = _solid(1, shape, size, (-s * rng.uniform(0.9, 1.8), rng.uniform(-1.0, 1.6), 0), rng.uniform(0, 2 * math.pi))
    speed = rng.uniform(1.6, 3.2)
    velocity = (s * speed * math.cos(angle), speed * math.sin(angle), 0.0)
    return (o,), {1: Start(velocity)}, _world(rng.uniform(0.15, 0.45), 0.0)


def _push(rng):
    s, y, yaw = _side(rng), rng.uniform(-0.6, 1.2), rng.uniform(-0.15, 0.15)
    pusher = _solid(1, str(rng.choice(("cube", "cylinder"))), "large", (-s * rng.uniform(1.1, 1.6), y, 0), yaw)
    pushed = _solid(2, str(rng.choice(SHAPES[1:])), "small", (0, y + rng.uniform(-0.1, 0.1), 0), yaw)
    reach = (pusher.half_width + pushed.half_width) * 1.15 + rng.uniform(0.15, 0.4)
    pushed = replace(pushed, position=(pusher.position[0] + s * reach, *pushed.position[1:]))
    return (pusher, pushed), {1: Start((s * rng.uniform(2.2, 3.4), 0.0, 0.0))}, _world(rng.uniform(0.15, 0.3), 0.0)


def _collide(rng):
    s, y = _side(rng), rng.uniform(-0.6, 1.2)
    shapes = rng.choice(("sphere", "sphere", "cube", "cylinder"), 2)
    sizes = rng.choice(("small", "large"), 2)
    a = _solid(1, str(shapes[0]), str(sizes[0]), (-s * rng.uniform(1.1, 1.7), y, 0), rng.uniform(0, 2 * math.pi))
    b = _solid(2, str(shapes[1]), str(sizes[1]), (s * rng.uniform(0.2, 1.4), y + rng.uniform(-0.25, 0.25), 0))
    b = replace(b, yaw=float(rng.uniform(0, 2 * math.pi)))
    starts = {1: Start((s * rng.uniform(1.8, 3.2), 0.0, 0.0))}
    if rng.random() < 0.5:
        starts[2] = Start((-s * rng.uniform(0.8, 2.4), 0.0, 0.0))
    return (a, b), starts, _world(rng.uniform(0.1, 0.3), rng.uniform(0.5, 0.9))


def _topple(rng):
    s, x, y = _side(rng), rng.uniform(0.0, 0.7), rng.uniform(-0.2, 1.0)
    stack, z = [], 0.0
    plans = (("cube", "cube"), ("cube", "cylinder"), ("cylinder", "cube"), ("cube", "cone"), ("cube", "cube", "cube"))
    for shape in plans[rng.integers(len(plans))]:
        at = (s * x + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.05, 0.05), z)
        stack.append(_solid(2 + len(stack), shape, "small", at, rng.uniform(-0.3, 0.3)))
        z += stack[-1].height
    top, size = stack[-1], str(rng.choice(("small", "large")))
    ball = _solid(1, "sphere", size, (-s * rng.uniform(1.3, 1.9), y, rng.uniform(0.2, 0.7) * top.position[2]))
    # thrown so that it meets the top block between a tenth and a half of its height
    time = (abs(ball.position[0] - top.position[0]) - ball.radius - top.half_width) / rng.uniform(3.0, 4.5)
    rise = top.position[2] + rng.uniform(0.1, 0.5) * top.height - ball.centre[2]
    across = (top.position[0] - ball.position[0] - s * (ball.radius + top.half_width)) / time
    return (ball, *stack), {1: Start((across, 0.0, rise / time + 9.81 / 2 * time))}, _world(0.5, 0.2)


def _world(friction: float, restitution: float) -> dict[str, float]:
    return {"gravity": 9.81, "friction": float(friction), "damping": 0.0, "restitution": float(restitution)}


_DRAWS = {"throw": _throw, "push": _push, "collide": _collide, "topple": _topple, "slide": _slide}


def _bystanding(objects: tuple[SceneObject, ...], count: int, rng) -> tuple[SceneObject, ...]:
    for _ in range(count):
        at, yaw = (rng.uniform(-1.8, 1.8), rng.uniform(-1.3, 1.9), 0.0), rng.uniform(0, 2 * math.pi)
        objects += (_solid(len(objects) + 1, str(rng.choice(SHAPES)), "small", at, yaw),)
    return objects


def _looks(objects, rng, composition: str, patterns) -> tuple[SceneObject, ...]:
    out, left = [], [str(c) for c in rng.permutation(list(COLOURS))]
    for o in objects:
        colour = next(c for c in left if composition == "all" or (c, o.shape) not in HELD_OUT)
        left.remove(colour)
        pattern = str(rng.choice(patterns)) if rng.random() < 0.6 else patterns[0]
        out.append(replace(o, colour=colour, pattern=pattern, material=str(rng.choice(MATERIALS))))
    return tuple(out)


# --- what must be seen ----------------------------------------------------------------------------------------------


def _placed(scene: Scene) -> bool:
    """Whether the objects stand apart and in the picture, none more than two fifths behind others, at t = 0."""
    boxes = rough_boxes(scene)
    if boxes.min() < 0.01 or boxes.max() > 0.99:
        return False
    if not all(_apart(a, b) for a, b in combinations(scene.objects, 2)):
        return False
    return bool((render(scene, size=SIDE, maps=("visible",)).visible > 0.6).all())


def _apart(a: SceneObject, b: SceneObject) -> bool:
    """Whether a vertical plane or a level one between two upright solids tells them apart."""
    (ax, ay, az), (bx, by, bz) = a.position, b.position
    if az + a.height <= bz or bz + b.height <= az:
        return True
    way = math.atan2(by - ay, bx - ax)
    return math.hypot(bx - ax, by - ay) > sum(_reach(o, way - o.yaw) for o in (a, b)) + 0.02


def _reach(o: SceneObject, angle: float) -> float:
    return o.half_width * (abs(math.cos(angle)) + abs(math.sin(angle)) if o.shape == "cube" else 1)


def _framed(simulated: Simulated) -> bool:
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], dtype=np.float64)
    for o in simulated.scene.objects:
        motion = o.motion[0]
        turn = np.array(rows(*np.array(motion.quaternions).T))  # (3, 3, T)
        local = corners * (o.half_width, o.half_width, o.height)
        points = np.einsum("ijt,cj->tci", turn, local) + np.array(motion.positions)[:, None]
        xy, depth = project(points.reshape(-1, 3), simulated.scene.camera)
        if depth.min() < 1 or xy.min() < 0 or xy.max() > 1:
            return False
    times = range(simulated.scene.duration)
    return bool((render(simulated.scene, times, SIDE, ("visible",)).visible > 0.3).all())


def _still(simulated: Simulated, bystanders: int) -> bool:
    last = len(simulated.masses) - bystanders
    return bool((np.abs(simulated.velocities[:, last:]) < 1e-2).all())


def _moved(simulated: Simulated, n: int) -> float:
    """How far the centre of object n gets from where it was, as a share of the frame."""
    xy, _ = project(simulated.centres[:, n], simulated.scene.camera)
    return float(np.linalg.norm(xy - xy[0], axis=1).max())


def _thrown(simulated: Simulated) -> bool:
    frames, height = simulated.scene.duration, simulated.centres[:, 0, 2]
    landed = [c.time for c in simulated.contacts]
    in_time = bool(landed) and 2 <= landed[0] <= frames - 4
    return in_time and height.max() - height[0] > 0.2 and _moved(simulated, 0) > 2 * MOVED


def _slid(simulated: Simulated) -> bool:
    speed = np.linalg.norm(simulated.velocities[:, 0], axis=1)
    level = np.abs(simulated.quaternions[:, 0, 1:3]).max() < 0.02
    return bool(speed[-3] < 0.02 and level and _moved(simulated, 0) > MOVED)


def _pushed(simulated: Simulated) -> bool:
    met = _meeting(simulated, 1, 2)
    if met is None or not 1 <= met.time <= simulated.scene.duration - 6:
        return False
    return _moved(simulated, 1) > MOVED and _moved(simulated, 0) > MOVED


def _collided(simulated: Simulated) -> bool:
    met = _meeting(simulated, 1, 2)
    if met is None or not 1.5 <= met.time <= simulated.scene.duration - 5:
        return False
    before, after = math.floor(met.time), math.ceil(met.until)
    change = np.linalg.norm(simulated.velocities[after] - simulated.velocities[before], axis=1)
    return bool((change[:2] > 0.4).all()) and min(_moved(simulated, 0), _moved(simulated, 1)) > MOVED


def _toppled(simulated: Simulated) -> bool:
    scene = simulated.scene
    top = max(range(1, len(scene.objects)), key=lambda n: simulated.centres[0, n, 2])
    fell = simulated.centres[0, top, 2] - simulated.centres[-1, top, 2] > 0.5 * scene.objects[top].height
    return bool(fell) and _meeting(simulated, scene.objects[top].id, 0) is not None


def _meeting(simulated: Simulated, first: int, second: int) -> Contact | None:
    return next((c for c in simulated.contacts if (c.first, c.second) == (first, second)), None)


_HAPPENED = {"throw": _thrown, "push": _pushed, "collide": _collided, "topple": _toppled, "slide": _slid}
