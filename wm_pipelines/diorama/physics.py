"""Physical events of the miniature world, drawn by key: throw, push, collide, topple, slide (our design).

Each is a scene at rest, how its objects set off, and the world's numbers; what happens is simulated, and a draw in
which the event is not plain to see, or leaves the picture, is drawn again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.rotations import rows
from wm_pipelines.diorama.scene import (
    COLOURS,
    HELD_OUT,
    MATERIALS,
    PATTERNS,
    SHAPES,
    SIZES,
    Camera,
    Scene,
    SceneObject,
    project,
    rough_boxes,
)
from wm_pipelines.diorama.simulation import GRAVITY, Contact, Simulated, Start, simulate
from wm_pipelines.runtime.random import keyed

__all__ = ["FAMILIES", "Contact", "PhysicsSetup", "Simulated", "Start", "sample_physics", "simulate"]

FAMILIES = ("throw", "push", "collide", "topple", "slide")
LEAST_FRAMES = 12
MOVED = 0.1  # of the frame: what an event must move its object by, 6 pixels of 64
TRIES = 200
STACKS = (  # from below
    ("cube", "cube"),
    ("cube", "cylinder"),
    ("cylinder", "cube"),
    ("cylinder", "cylinder"),
    ("cube", "cone"),
    ("cube", "cube", "cube"),
    ("cube", "cube", "cylinder"),
)
FAR = Camera(eye=(0.0, -7.0, 4.16))  # a quarter farther away than the usual one: four objects need more room
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

    def simulate(self, **changes: Any) -> Simulated:
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
        scene = Scene(objects, FAR if len(objects) > 3 else Camera(), duration=frames)
        if not _placed(scene):
            continue
        try:
            simulated = simulate(scene, starts, **world)
        except RuntimeError:
            continue
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
    far, seconds = rng.uniform(1.2, 2.6), rng.uniform(0.7, 1.5)  # until it stops, when friction is even
    speed = 2 * far / seconds
    velocity = (s * speed * math.cos(angle), speed * math.sin(angle), 0.0)
    return (o,), {1: Start(velocity)}, _world(speed / seconds / GRAVITY, 0.0)


def _push(rng):
    s, y, yaw = _side(rng), rng.uniform(-0.6, 1.2), rng.uniform(-0.15, 0.15)
    pusher = _solid(1, str(rng.choice(("cube", "cylinder"))), "large", (-s * rng.uniform(1.1, 1.6), y, 0), yaw)
    pushed = _solid(2, str(rng.choice(SHAPES[1:])), "small", (0, y + rng.uniform(-0.1, 0.1), 0), yaw)
    reach = (pusher.half_width + pushed.half_width) * 1.15 + rng.uniform(0.15, 0.4)
    pushed = replace(pushed, position=(pusher.position[0] + s * reach, *pushed.position[1:]))
    speed = rng.uniform(1.6, 2.6)
    return (pusher, pushed), {1: Start((s * speed, 0.0, 0.0))}, _world(rng.uniform(0.07, 0.16), 0.0)


def _collide(rng):
    friction, seconds = rng.uniform(0.08, 0.2), rng.uniform(0.35, 0.7)
    meet, angle = np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.3, 0.9)]), rng.uniform(-0.6, 0.6)
    way = _side(rng) * np.array([math.cos(angle), math.sin(angle)])
    aside = rng.uniform(-0.15, 0.15) * np.array([-way[1], way[0]])
    objects, starts = [], {}
    for id, sign in ((1, -1), (2, 1)):
        shape, size = str(rng.choice(("sphere", "sphere", "cube", "cylinder"))), str(rng.choice(("small", "large")))
        o = _solid(id, shape, size, (0, 0, 0), rng.uniform(0, 2 * math.pi))
        speed = rng.uniform(1.4, 2.6) if id == 1 else max(0.0, rng.uniform(-1.2, 1.8))
        # where it has to set off to be at the meeting after `seconds`
        far = 1.1 * o.half_width + max(0.0, speed * seconds - friction * GRAVITY / 2 * seconds**2)
        objects.append(replace(o, position=(*(meet + sign * (way * far + aside)).tolist(), 0.0)))
        if speed:
            starts[id] = Start((*(-sign * speed * way), 0.0))
    return tuple(objects), starts, _world(friction, rng.uniform(0.4, 0.8))


def _topple(rng):
    s, size, shapes = _side(rng), str(rng.choice(("small", "small", "large"))), STACKS[rng.integers(len(STACKS))]
    r, y = SIZES[size], rng.uniform(0.3, 1.4) if len(shapes) == 2 else rng.uniform(0.2, 0.6)
    begin, gap = -s * (2.05 + 0.3 * y - r - rng.uniform(0, 0.2)), rng.uniform(0.45, 0.85)
    stack, z = [], 0.0
    for n, shape in enumerate(shapes):
        o = _solid(2 + n, shape, "small", (0, 0, z), rng.uniform(-0.3, 0.3))
        at = begin + s * (r + gap + 0.45) + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.05, 0.05)
        stack.append(replace(o, position=(float(at[0]), float(at[1]), z)))
        z += o.height
    top = stack[-1]
    ball = _solid(1, "sphere", size, (begin, y, rng.uniform(0.2, 0.7) * top.position[2]))
    # thrown so that it meets the top block below the middle
    seconds = gap / rng.uniform(2.6, 3.8)
    rise = top.position[2] + rng.uniform(0.15, 0.5) * top.height - ball.centre[2]
    start = Start((s * gap / seconds, 0.0, rise / seconds + GRAVITY / 2 * seconds))
    return (ball, *stack), {1: start}, _world(rng.uniform(0.4, 0.8), 0.2)


def _world(friction: float, restitution: float) -> dict[str, float]:
    return {"gravity": GRAVITY, "friction": float(friction), "damping": 0.0, "restitution": float(restitution)}


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
    landed = [c.time for c in simulated.contacts if c.first == 1]
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
