"""Actions on a miniature world: what each does to the state, what undoes it, and which one happened (our design).

Directions are meant in the frame of the camera at t = 0; clockwise is as seen from above. Amounts are few and fixed,
so that words can tell them apart. `wm_pipelines.diorama.action_words` says and reads actions.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from wm_pipelines.diorama.primitives import DIRECTIONS, TURNS
from wm_pipelines.diorama.scene import (
    COLOURS,
    EDGE,
    SCHEMA_VERSION,
    SIZES,
    STRIPES,
    Scene,
    SceneObject,
    build_record,
    heading,
    least_distance,
    object_from_dict,
    project,
    rough_boxes,
)
from wm_pipelines.runtime.readers import concise, parse_json

MOVES = (0.5, 1.0, 1.5)  # metres
ANGLES = (15.0, 30.0)  # degrees; no turn of a cube by one of them looks like a turn by another
# what each kind of action has beside `object`
FIELDS: dict[str, tuple[str, ...]] = {
    "move": ("direction", "amount"),
    "turn": ("direction", "amount"),
    "recolour": ("colour",),
    "resize": ("size",),
    "remove": (),
    "add": ("new",),
    "swap": ("other",),
}
ACTIONS = tuple(FIELDS)
# a relation by which a new object is put beside another, and the direction in which it lies from there
BESIDE = {"left of": "left", "right of": "right", "in front of": "towards", "behind": "away"}
GAP = 0.2  # metres that are free between the two at least
# places of the frame: metres to the right of, and away from, the point of the floor that the camera's target is above
PLACES = {
    "left": (-1.25, 0.0),
    "right": (1.25, 0.0),
    "front": (0.0, -1.0),
    "back": (0.0, 1.25),
    "front left": (-1.0, -1.0),
    "front right": (1.0, -1.0),
    "back left": (-1.5, 1.25),
    "back right": (1.5, 1.25),
}
TOLERANCE = 1e-6  # metres and radians within which `infer` takes poses for equal
_PAIRS = (("left", "right"), ("towards", "away"), ("up", "down"), TURNS)
_OPPOSITE = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
_ALLOWED = {
    "kind": ACTIONS,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "move direction": DIRECTIONS,
    "move amount": MOVES,
    "turn direction": TURNS,
    "turn amount": ANGLES,
}


@dataclass(frozen=True)
class Action:
    """One action; only the fields of its kind (`FIELDS`) are given.

    Args:
        kind: move, turn, recolour, resize, remove, add or swap.
        object: id of the object acted on; of an addition, the id that the new object has.
        direction: of a move left, right, towards, away, up or down; of a turn clockwise or counterclockwise.
        amount: of a move metres, one of `MOVES`; of a turn degrees, one of `ANGLES`.
        colour, size: what the object gets.
        other: id of the object that this one changes places with; the smaller id comes first.
        new: the whole state of the object that an addition adds; `placed` makes one where words can say.

    Raises:
        ValueError: a field that the kind lacks or needs, or a value that is not allowed.
    """

    kind: str
    object: int
    direction: str | None = None
    amount: float | None = None
    colour: str | None = None
    size: str | None = None
    other: int | None = None
    new: SceneObject | None = None

    def __post_init__(self) -> None:
        _check("kind", self.kind, _ALLOWED["kind"])
        for name in self.__dataclass_fields__:
            value, needed = getattr(self, name), name in ("kind", "object", *FIELDS[self.kind])
            if (value is not None) != needed:
                fields = ", ".join(("object", *FIELDS[self.kind]))
                raise ValueError(f"`{name}` of {self.kind!r} is {value!r}; it has {fields} and nothing else")
            allowed = _ALLOWED.get(name) or _ALLOWED.get(f"{self.kind} {name}")
            if needed and allowed:
                _check(name, value, allowed)
        for name in ("object", "other"):
            id = getattr(self, name)
            if id is not None and (not isinstance(id, int) or id < 1):
                raise ValueError(f"`{name}` is {id!r}; it must be the id of an object, 1 or more")
        if self.kind == "swap":
            if self.object == self.other:
                raise ValueError(f"`other` is {self.other}, the `object` itself; a swap takes two objects")
            first, second = sorted((self.object, self.other))
            object.__setattr__(self, "object", first)
            object.__setattr__(self, "other", second)
        if self.kind == "add" and (not isinstance(self.new, SceneObject) or self.new.id != self.object):
            raise ValueError(f"`new` is {self.new!r}; it must be a SceneObject with the id {self.object}")

    def to_json(self) -> str:
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps({"diorama": SCHEMA_VERSION, **said}, allow_nan=False)

    @classmethod
    @concise()
    def from_json(cls, text: str) -> "Action":
        data = parse_json(text)
        if not isinstance(data, dict):
            raise ValueError("an action is a JSON object")
        version = data.pop("diorama", None)
        if version != SCHEMA_VERSION:
            raise ValueError(f"`diorama` version is {version!r}; this package reads version {SCHEMA_VERSION}")
        return build_record(cls, data, new=object_from_dict)


def _check(name: str, value, allowed: tuple) -> None:
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f"`{name}` is {value!r}; allowed: {', '.join(map(str, allowed))}")


def apply(scene: Scene, action: Action) -> Scene:
    """The state after `action`, at t = 0; motions stay as they are and go on from there. `scene` itself stays.

    A new object comes before the first one of a larger id. Whatever else there is stays bit-equal.

    Raises:
        ValueError: the action can't be done: there is no such object, it has that colour or size, the id of an
            addition is taken, something orbits what is removed, or a solid would leave the picture (of square shape),
            sink into the floor or meet another one.
    """
    if action.kind == "add":
        return _add(scene, action.new)
    o = scene.object(action.object)
    if action.kind == "remove":
        return _remove(scene, o)
    if action.kind == "swap":
        other = scene.object(action.other)
        return _put(scene, replace(o, position=other.position), replace(other, position=o.position))
    if action.kind == "move":
        step = heading(scene.camera, action.direction) * action.amount
        # float32 steps: adding one to a float32 position is exact, so that the way back leads to the same bits
        position = tuple(x + float(np.float32(d)) for x, d in zip(o.position, step, strict=True))
        return _put(scene, replace(o, position=position))
    if action.kind == "turn":
        angle = float(np.float32(math.radians(action.amount)))
        return _with(scene, replace(o, yaw=o.yaw + (angle if action.direction == "counterclockwise" else -angle)))
    kind = "colour" if action.kind == "recolour" else "size"
    value = getattr(action, kind)
    if getattr(o, kind) == value:
        raise ValueError(f"{_name(o)} is {value} already")
    return _with(scene, replace(o, colour=value)) if kind == "colour" else _put(scene, replace(o, size=value))


def inverse(action: Action, scene: Scene) -> Action:
    """The action that leads back to `scene` from `apply(scene, action)`.

    The way back ends at the same bits where positions and yaws are float32 numbers, as those of `sample_scene` are,
    and objects stand in the order of their ids; else within the rounding of float64.

    Raises:
        ValueError: as `apply`.
    """
    apply(scene, action)
    if action.kind in ("move", "turn"):
        return replace(action, direction=_OPPOSITE[action.direction])
    if action.kind == "recolour":
        return replace(action, colour=scene.object(action.object).colour)
    if action.kind == "resize":
        return replace(action, size=scene.object(action.object).size)
    if action.kind == "remove":
        return Action("add", action.object, new=scene.object(action.object))
    return Action("remove", action.object) if action.kind == "add" else action


def infer(before: Scene, after: Scene) -> Action | None:
    """The one action that leads from what `before` shows to what `after` shows.

    Objects are compared by their looks and poses, a turn up to the symmetry of its solid (`symmetry`), within 1e-6
    metres or radians; ids only name the object of the answer.

    Returns:
        The action; None if nothing that is to be seen changed, no single action explains it, or several do.
    """
    if replace(before, objects=()) != replace(after, objects=()):
        return None
    gone, come = _unmatched(before, after), _unmatched(after, before)
    found = [a for a in _candidates(gone, come) if _leads(before, a, after)]
    return found[0] if len(found) == 1 else None


def look_the_same(a: Scene, b: Scene) -> bool:
    """Whether `infer` finds no change between two states, whatever the ids."""
    return replace(a, objects=()) == replace(b, objects=()) and not _unmatched(a, b) and not _unmatched(b, a)


def symmetry(obj: SceneObject) -> float:
    """Degrees about its axis after which a solid looks the same again; 0 for any angle.

    `STRIPES` go around a striped one.
    """
    if obj.shape == "cube":
        return 180.0 if obj.pattern == "striped" else 90.0
    return 360.0 / STRIPES if obj.pattern == "striped" else 0.0


def placed(scene: Scene, new: SceneObject, where: str, other: int | None = None) -> SceneObject:
    """`new` on the floor of `scene` at a place that words can say, its face towards the camera.

    Args:
        new: its position and yaw do not matter.
        where: one of `PLACES`, or one of `BESIDE` with the id of the object that it is beside.
        other: that id; None for a place of the frame.

    Raises:
        ValueError: an unknown place or object.
    """
    right, away = heading(scene.camera, "right"), heading(scene.camera, "away")
    if other is None:
        _check("where", where, tuple(PLACES))
        start, (x, y) = scene.camera.target, PLACES[where]
        step = x * right + y * away
    else:
        _check("where", where, tuple(BESIDE))
        start = scene.object(other).position
        step = heading(scene.camera, BESIDE[where]) * (least_distance(new, scene.object(other)) + GAP)
    x, y, yaw = start[0] + step[0], start[1] + step[1], math.atan2(right[1], right[0])
    x, y, yaw = (float(np.float32(v)) + 0.0 for v in (x, y, yaw))  # no -0.0
    return replace(new, position=(x, y, 0.0), yaw=yaw)


def _with(scene: Scene, *changed: SceneObject) -> Scene:
    """`scene` with the objects of the same ids replaced."""
    now = {o.id: o for o in changed}
    return replace(scene, objects=tuple(now.get(o.id, o) for o in scene.objects))


def _put(scene: Scene, *changed: SceneObject) -> Scene:
    """As `_with`, if there is room for them."""
    after = _with(scene, *changed)
    for o in changed:
        _check_room(after, o)
    return after


def _add(scene: Scene, new: SceneObject) -> Scene:
    if any(o.id == new.id for o in scene.objects):
        raise ValueError(f"there is an object {new.id} already; this scene has {[o.id for o in scene.objects]}")
    at = next((n for n, o in enumerate(scene.objects) if o.id > new.id), len(scene.objects))
    after = replace(scene, objects=(*scene.objects[:at], new, *scene.objects[at:]))
    _check_room(after, new)
    return after


def _remove(scene: Scene, gone: SceneObject) -> Scene:
    for o in scene.objects:
        if any(m.about == gone.id for m in o.motion):
            raise ValueError(f"{_name(gone)} can't be removed: {_name(o)} orbits it")
    return replace(scene, objects=tuple(o for o in scene.objects if o.id != gone.id))


def _check_room(scene: Scene, o: SceneObject) -> None:
    if o.position[2] < 0:
        raise ValueError(f"{_name(o)} would sink into the floor")
    box = rough_boxes(replace(scene, objects=(o,)))
    # the corners of that box are within 1.75 radii of the centre
    if project(o.centre, scene.camera)[1][0] < 1.75 * o.radius or box.min() < EDGE or box.max() > 1 - EDGE:
        raise ValueError(f"{_name(o)} would leave the picture")
    for other in scene.objects:
        over = o.position[2] >= other.position[2] + other.height or other.position[2] >= o.position[2] + o.height
        near = math.dist(o.position[:2], other.position[:2]) < least_distance(o, other)
        if other.id != o.id and near and not over:
            raise ValueError(f"{_name(o)} would meet {_name(other)}")


def _name(o: SceneObject) -> str:
    return f"the {o.size} {o.colour} {o.shape} (object {o.id})"


def _alike(a: SceneObject, b: SceneObject) -> bool:
    """Whether two objects look the same at the same place, whatever their ids."""
    if replace(a, id=b.id, position=b.position, yaw=b.yaw) != b or math.dist(a.position, b.position) > TOLERANCE:
        return False
    period = math.radians(symmetry(a))
    return period == 0 or abs(math.remainder(a.yaw - b.yaw, period)) <= TOLERANCE


def _unmatched(scene: Scene, other: Scene) -> list[SceneObject]:
    """Objects of `scene` for which `other` has none that looks the same at the same place."""
    left = list(other.objects)
    found = []
    for o in scene.objects:
        match = next((p for p in left if _alike(o, p)), None)
        if match is None:
            found.append(o)
        else:
            left.remove(match)
    return found


def _candidates(gone: list[SceneObject], come: list[SceneObject]) -> Iterator[Action]:
    """Actions that might turn the objects that are no more into those that are new."""
    if (len(gone), len(come)) == (1, 0):
        yield Action("remove", gone[0].id)
    elif (len(gone), len(come)) == (0, 1):
        yield Action("add", come[0].id, new=come[0])
    elif (len(gone), len(come)) == (2, 2):
        yield Action("swap", gone[0].id, other=gone[1].id)
    elif (len(gone), len(come)) == (1, 1):
        (was,), (now,) = gone, come
        way = math.dist(was.position, now.position)
        yield from (Action("move", was.id, d, m) for m in MOVES if abs(way - m) < 1e-3 for d in DIRECTIONS)
        if was.yaw != now.yaw:
            yield from (Action("turn", was.id, d, degrees) for d in TURNS for degrees in ANGLES)
        if was.colour != now.colour:
            yield Action("recolour", was.id, colour=now.colour)
        if was.size != now.size:
            yield Action("resize", was.id, size=now.size)


def _leads(before: Scene, action: Action, after: Scene) -> bool:
    try:
        reached = apply(before, action)
    except ValueError:
        return False
    return look_the_same(reached, after)
