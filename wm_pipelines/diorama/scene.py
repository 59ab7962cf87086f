"""The state of a miniature world: a few solids on a floor, a camera, a light (our design).

Conventions, fixed here and never moved: right-handed world in metres, z up, floor z = 0; camera with OpenCV axes (x
right, y down, z forward); time in frames. Everything that the renderer, the language and the data sets say comes from
these values.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from itertools import permutations
from typing import Any, TypeVar

import numpy as np

from wm_pipelines.diorama.primitives import motion_from_dict
from wm_pipelines.diorama.rotations import UPRIGHT, leaning, rows
from wm_pipelines.record import check_values
from wm_pipelines.runtime.random import keyed
from wm_pipelines.runtime.readers import concise, parse_json
from wm_pipelines.text.colours import SRGB

R = TypeVar("R")

SHAPES = ("sphere", "cube", "cylinder", "cone")
# sRGB; every pair is at least 25 apart in CIELAB (a test holds this)
COLOURS = {name: SRGB[name] for name in ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "white")}
SIZES = {"small": 0.5, "large": 0.78}  # bounding radius in metres
PATTERNS = ("plain", "striped")
STRIPES = 6  # around a striped solid
MATERIALS = ("matte", "shiny")
FLOOR_ALBEDO = (0.46, 0.45, 0.43)
FLOOR_PATTERNS = ("plain", "chequered")
CHEQUERS = (1.2, 0.8)  # brightness of the two kinds of square, as multiples of the plain floor
# local proportions of each solid, as multiples of the radius: (half width or base radius, height)
PROPORTIONS = {"sphere": (1.0, 2.0), "cube": (0.82, 1.64), "cylinder": (0.76, 1.7), "cone": (0.92, 1.9)}

# A fixed quarter of the colour x shape pairs, two per shape and one per colour, and two relations over ordered shape
# pairs: none of them occurs in the training composition.
HELD_OUT = frozenset(
    {
        ("red", "cone"),
        ("green", "cube"),
        ("blue", "cylinder"),
        ("yellow", "sphere"),
        ("purple", "cube"),
        ("cyan", "cone"),
        ("orange", "sphere"),
        ("white", "cylinder"),
    }
)
HELD_OUT_RELATIONS = frozenset({("left of", "cube", "sphere"), ("behind", "cylinder", "cone")})
RELATION_MARGIN = 0.15  # of the frame, in the image plane
DEPTH_MARGIN = 0.3  # metres, along the optical axis
EDGE = 0.01  # of the frame, which solids that are put down keep free
SCHEMA_VERSION = 1
FLOOR_SQUARE = 0.8  # metres, of a chequered floor
# fields that came later, left out of the JSON where they say nothing, so that earlier versions read it
UNSAID = {
    **{"tilt": UPRIGHT, "times": (), "positions": (), "quaternions": ()},
    **{"floor_pattern": "plain", "floor_square": FLOOR_SQUARE},
}
TRIES = 2000  # scenes drawn before giving up
MAX_OBJECTS = 8  # of a drawn scene; for ten, every second draw finds no room
USUAL = 4  # objects; where there are more, most are small and they stand farther apart


def _one_of(name: str, value: str, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` is {value!r}; allowed: {', '.join(allowed)}")


@dataclass(frozen=True)
class SceneObject:
    """One solid.

    Args:
        id: 1 or more, unique in the scene and stable over time (0 is the background).
        shape, colour, size, pattern, material: words of `SHAPES`, `COLOURS`, `SIZES`, `PATTERNS`, `MATERIALS`.
        position: (x, y, z) of the centre of the base at t = 0, metres.
        yaw: rotation about z at t = 0, radians, counter-clockwise seen from above.
        motion: primitives of `wm_pipelines.diorama.motion`; a sampled one must begin at this position, yaw and tilt.
        tilt: how the solid leans or lies at t = 0, before it is turned by `yaw`: a unit quaternion (w, x, y, z).
    """

    id: int
    shape: str
    colour: str
    size: str = "large"
    pattern: str = "plain"
    material: str = "matte"
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    motion: tuple = ()
    tilt: tuple[float, float, float, float] = UPRIGHT

    def __post_init__(self) -> None:
        if not isinstance(self.id, int) or self.id < 1:
            raise ValueError(f"`id` is {self.id!r}; it must be an integer of 1 or more (0 is the background)")
        _one_of("shape", self.shape, SHAPES)
        _one_of("colour", self.colour, COLOURS)
        _one_of("size", self.size, SIZES)
        _one_of("pattern", self.pattern, PATTERNS)
        _one_of("material", self.material, MATERIALS)
        if len(self.position) != 3 or not all(math.isfinite(v) for v in (*self.position, self.yaw)):
            raise ValueError(f"`position` is {self.position!r}, `yaw` {self.yaw!r}; three finite metres and radians")
        if len(self.tilt) != 4 or not abs(math.hypot(*self.tilt) - 1) < 1e-6:
            raise ValueError(f"`tilt` is {self.tilt!r}; a quaternion (w, x, y, z) of length 1")
        if any(m.kind == "sampled" for m in self.motion):
            self._check_sampled()

    def _check_sampled(self):
        if len(self.motion) > 1:
            raise ValueError(f"`motion` of object {self.id} has a sampled motion and more; a sampled one stands alone")
        first, turned = self.motion[0].positions[0], self.motion[0].quaternions[0]
        apart = abs(sum(a * b for a, b in zip(turned, self.quaternion, strict=True)))
        if math.dist(first, self.position) > 1e-6 or apart < 1 - 1e-9:
            raise ValueError(
                f"`motion` of object {self.id} begins at {first}, turned by {turned}; "
                f"its position is {self.position}, its quaternion {self.quaternion}"
            )

    @property
    def radius(self) -> float:
        return SIZES[self.size]

    @property
    def half_width(self) -> float:
        """Half side of a cube, base radius of the others, metres."""
        return PROPORTIONS[self.shape][0] * self.radius

    @property
    def height(self) -> float:
        return PROPORTIONS[self.shape][1] * self.radius

    @property
    def quaternion(self) -> tuple[float, float, float, float]:
        """The rotation (w, x, y, z) at t = 0: tilt, then yaw."""
        return leaning(self.yaw, self.tilt)

    @property
    def centre(self) -> tuple[float, float, float]:
        """The middle of the axis at t = 0, metres."""
        up = (0.0, 0.0, 1.0) if self.tilt == UPRIGHT else [row[2] for row in rows(*self.quaternion)]
        return tuple(p + u * (self.height / 2) for p, u in zip(self.position, up, strict=True))


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: it stands at `eye` and looks at `target` (metres); `fov_deg` is the vertical field of view."""

    eye: tuple[float, float, float] = (0.0, -5.6, 3.4)
    target: tuple[float, float, float] = (0.0, 0.0, 0.35)
    fov_deg: float = 42.0
    motion: tuple = ()

    def __post_init__(self) -> None:
        if not 1.0 <= self.fov_deg <= 150.0:
            raise ValueError(f"`fov_deg` is {self.fov_deg!r}; allowed: 1 to 150 degrees")
        if len(self.eye) != 3 or len(self.target) != 3 or not all(map(math.isfinite, (*self.eye, *self.target))):
            raise ValueError(f"`eye` is {self.eye!r}, `target` {self.target!r}; three finite metres each")
        if math.dist(self.eye[:2], self.target[:2]) < 1e-6:
            raise ValueError("`eye` is straight above or below `target`; the camera's up direction is undefined there")


@dataclass(frozen=True)
class Light:
    """A directional light; `direction` points from the scene to the light. `ambient` in [0, 1]."""

    direction: tuple[float, float, float] = (-0.45, -0.55, 1.0)
    ambient: float = 0.45

    def __post_init__(self) -> None:
        if len(self.direction) != 3 or not 0 < math.hypot(*self.direction) < math.inf:
            raise ValueError(f"`direction` is {self.direction!r}; three finite numbers, not all zero")
        if not 0 <= self.ambient <= 1:
            raise ValueError(f"`ambient` is {self.ambient!r}; allowed: 0 to 1")


@dataclass(frozen=True)
class Scene:
    """The whole state. `duration` in frames, `fps` frames a second; `floor_pattern` a word of `FLOOR_PATTERNS`,
    `floor_square` the side of a chequered floor's squares in metres, one corner of which is the world's origin."""

    objects: tuple[SceneObject, ...] = ()
    camera: Camera = field(default_factory=Camera)
    light: Light = field(default_factory=Light)
    floor: bool = True
    duration: int = 16
    fps: float = 8.0
    floor_pattern: str = "plain"
    floor_square: float = FLOOR_SQUARE

    def __post_init__(self) -> None:
        ids = [o.id for o in self.objects]
        if len(set(ids)) != len(ids):
            raise ValueError(f"`objects` have ids {ids}; each id must be unique")
        if self.duration < 1 or not 0 < self.fps < math.inf:
            raise ValueError(f"`duration` is {self.duration!r} and `fps` {self.fps!r}; one frame or more, above 0")
        _one_of("floor_pattern", self.floor_pattern, FLOOR_PATTERNS)
        if not 0.01 <= self.floor_square < math.inf:
            raise ValueError(f"`floor_square` is {self.floor_square!r}; allowed: 0.01 metres or more")

    def object(self, id: int) -> SceneObject:
        for o in self.objects:
            if o.id == id:
                return o
        raise ValueError(f"no object {id}; this scene has {[o.id for o in self.objects]}")

    def to_json(self) -> str:
        plain = asdict(self, dict_factory=lambda pairs: {k: v for k, v in pairs if UNSAID.get(k) != v})
        return json.dumps({"diorama": SCHEMA_VERSION, **plain}, allow_nan=False)

    @classmethod
    @concise()
    def from_json(cls, text: str) -> "Scene":
        data = parse_json(text)
        if not isinstance(data, dict):
            raise ValueError("a scene is a JSON object")
        version = data.pop("diorama", None)
        if version != SCHEMA_VERSION:
            raise ValueError(f"`diorama` version is {version!r}; this package reads version {SCHEMA_VERSION}")
        return build_record(
            cls,
            data,
            objects=_objects,
            camera=lambda v: build_record(Camera, v, motion=_motion),
            light=lambda v: build_record(Light, v),
        )


def _objects(rows) -> tuple:
    if not isinstance(rows, list):
        raise ValueError(f"`objects` is {rows!r}; it must be a list")
    return tuple(object_from_dict(o) for o in rows)


def object_from_dict(data: dict) -> SceneObject:
    """The inverse of `dataclasses.asdict`; an unknown or missing field is a ValueError."""
    return build_record(SceneObject, data, motion=_motion)


def _motion(primitives) -> tuple:
    if not isinstance(primitives, list | tuple | type(None)):
        raise ValueError(f"`motion` is {primitives!r:.200}; it must be a list")
    return tuple(motion_from_dict(p) for p in primitives or ())


def build_record(cls: type[R], data: dict, **convert: Callable[[Any], Any]) -> R:
    """A `cls`, which is a dataclass, of JSON's `data`; strict. `convert` has a function for each nested field."""
    if not isinstance(data, dict):
        raise ValueError(f"a {cls.__name__} is {data!r}; it must be a JSON object")
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r} in {cls.__name__}; known: {', '.join(sorted(known))}")
    needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in data]
    if missing:
        raise ValueError(f"field {missing[0]!r} is missing in {cls.__name__}")
    check_values(cls, {name: value for name, value in data.items() if name not in convert})
    values = {k: tuple(v) if isinstance(v, list) and k not in convert else v for k, v in data.items()}
    return cls(**{k: convert[k](v) if k in convert else v for k, v in values.items()})


def look_at(eye: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """World-to-camera rotation, float64 (3, 3): rows are the camera's x (right), y (down) and z (forward) axes."""
    forward = np.subtract(target, eye).astype(np.float64)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def heading(camera: Camera, direction: str) -> np.ndarray:
    """Unit vector, float64 (3,), world axes, of a direction word in the frame of `camera` at t = 0.

    right, left, away and towards are level; up and down are along z.
    """
    axes = look_at(camera.eye, camera.target)
    away = axes[2] * (1.0, 1.0, 0.0)
    vector = {"right": axes[0], "away": away, "up": np.array([0.0, 0.0, 1.0])}.get(direction)
    if vector is None:
        vector = -{"left": axes[0], "towards": away, "down": np.array([0.0, 0.0, 1.0])}[direction]
    return vector / np.linalg.norm(vector)


def focal(camera: Camera, height: int) -> float:
    """Focal length in pixels of a picture `height` pixels high."""
    return 0.5 * height / math.tan(math.radians(camera.fov_deg) / 2)


def intrinsics(camera: Camera, height: int, width: int) -> np.ndarray:
    """K, float64 (3, 3), pixels; the principal point is the middle of the picture."""
    f = focal(camera, height)
    return np.array([[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]])


def project(
    points: np.ndarray | Sequence[Sequence[float]], camera: Camera, aspect: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Projects world points (N, 3) of a camera at rest to frame coordinates in [0, 1].

    Returns:
        (N, 2) positions (x right, y down; outside [0, 1] when outside the frame) and (N,) depth in metres.
    """
    q = (np.asarray(points, dtype=np.float64).reshape(-1, 3) - np.asarray(camera.eye)) @ look_at(
        camera.eye, camera.target
    ).T
    scale = focal(camera, 1)
    z = q[:, 2]
    safe = np.where(np.abs(z) < 1e-9, 1e-9, z)
    return np.stack([0.5 + scale / aspect * q[:, 0] / safe, 0.5 + scale * q[:, 1] / safe], axis=1), z


def rough_boxes(scene: Scene) -> np.ndarray:
    """Frame boxes (N, 4) around each solid's bounding prism at t = 0: never smaller than its silhouette."""
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], dtype=np.float64)
    boxes = np.empty((len(scene.objects), 4))
    for i, o in enumerate(scene.objects):
        local = corners * (o.half_width, o.half_width, o.height)
        xy, _ = project(local @ np.array(rows(*o.quaternion)).T + o.position, scene.camera)
        boxes[i, :2], boxes[i, 2:] = xy.min(0), xy.max(0)
    return boxes


def clear_relations(scene: Scene) -> set[tuple[str, int, int]]:
    """Relations at t = 0 that hold by a clear margin, as (predicate, subject id, object id).

    left of, right of: centres at least 0.15 of the frame apart in x. behind, in front of: 0.3 m apart in depth.
    above, below: 0.15 apart in y while the depth differs by less than its margin (else it is the perspective of the
    floor).
    """
    if len(scene.objects) < 2:
        return set()
    xy, z = project([o.centre for o in scene.objects], scene.camera)
    found = set()
    for i, j in permutations(range(len(scene.objects)), 2):
        a, b = scene.objects[i].id, scene.objects[j].id
        if xy[j, 0] - xy[i, 0] >= RELATION_MARGIN:
            found |= {("left of", a, b), ("right of", b, a)}
        if z[i] - z[j] >= DEPTH_MARGIN:
            found |= {("behind", a, b), ("in front of", b, a)}
        elif abs(z[i] - z[j]) < DEPTH_MARGIN and xy[j, 1] - xy[i, 1] >= RELATION_MARGIN:
            found |= {("above", a, b), ("below", b, a)}
    return found


def is_held_out(scene: Scene) -> bool:
    """Whether the scene shows a pair or a relation that the training composition never shows."""
    if any((o.colour, o.shape) in HELD_OUT for o in scene.objects):
        return True
    shape = {o.id: o.shape for o in scene.objects}
    return any((p, shape[a], shape[b]) in HELD_OUT_RELATIONS for p, a, b in clear_relations(scene))


def colour_shape_pairs(composition: str) -> list[tuple[str, str]]:
    """The (colour, shape) pairs that objects may have in composition "train", "held_out" or "all"."""
    _one_of("composition", composition, ("train", "held_out", "all"))
    pairs = [(c, s) for c in COLOURS for s in SHAPES]
    return [p for p in pairs if composition == "all" or (p in HELD_OUT) == (composition == "held_out")]


def sample_scene(
    *key: str | int,
    num_objects: int | tuple[int, ...] = (1, 2, 3, 4),
    composition: str = "train",
    min_pixels: float = 6.0,
    min_visible: float = 0.6,
    same_shape: bool = False,
    patterns: tuple[str, ...] = PATTERNS,
) -> Scene:
    """Draws the scene that belongs to `key`, the same on every machine.

    Args:
        key: any strings and integers, for example (data set name, split, index).
        num_objects: 0 to 8, or several counts to choose from with equal chance. Of more than four objects a quarter is
            large instead of half, and they may stand up to 4.5 m behind the middle, where they look smaller.
        composition: "train" (held-out pairs and relations never occur), "held_out" (every object is of a held-out
            pair) or "all".
        min_pixels: least projected width and height in pixels of a 64 x 64 picture, held by 0.8 of the box around each
            solid's bounding prism; a round solid in a prism seen cornerwise can be an eighth smaller.
        min_visible: least visible share of each silhouette, guaranteed by a conservative bound on boxes.
        same_shape: all objects have one shape, with different colours.
        patterns: patterns to choose from.

    Raises:
        ValueError: an argument is out of range, or so many objects of that kind and size find no room.
    """
    pairs = colour_shape_pairs(composition)
    counts = (num_objects,) if isinstance(num_objects, int) else tuple(num_objects)
    if not counts or any(not 0 <= n <= MAX_OBJECTS for n in counts):
        raise ValueError(f"`num_objects` is {num_objects!r}; allowed: 0 to {MAX_OBJECTS}")
    if not patterns or not set(patterns) <= set(PATTERNS):
        raise ValueError(f"`patterns` is {patterns!r}; one or more of {', '.join(PATTERNS)}")
    if not 0 <= min_pixels <= 24 or not 0 <= min_visible <= 1:
        raise ValueError(f"`min_pixels` is {min_pixels!r}, `min_visible` {min_visible!r}; 0 to 24 pixels and 0 to 1")
    colours = {"train": 6, "held_out": 2, "all": 8}[composition]
    if same_shape and max(counts) > colours:
        raise ValueError(f"`num_objects` is {num_objects!r}; a shape has {colours} colours in {composition!r}")
    rng = keyed("scene", *key)
    count = int(rng.choice(counts))
    train, sizes = composition == "train", tuple(SIZES) if count <= USUAL else ("small", "small", "small", "large")
    for _ in range(TRIES if count <= USUAL else TRIES // 5):
        chosen = _choose_looks(rng, pairs, count, same_shape)
        objects = tuple(
            SceneObject(
                id=i + 1,
                shape=shape,
                colour=colour,
                size=str(rng.choice(sizes)),
                pattern=str(rng.choice(patterns)) if rng.random() < 0.5 else patterns[0],
                material=str(rng.choice(MATERIALS)),
                yaw=float(np.float32(rng.uniform(0, 2 * math.pi))),
            )
            for i, (colour, shape) in enumerate(chosen)
        )
        scene = _place(objects, rng, min_pixels / 64, min_visible, train)
        if scene is not None and not (train and is_held_out(scene)):
            return scene
    raise ValueError(
        f"no room for `num_objects` {count} with `min_pixels` {min_pixels} and `min_visible` {min_visible}"
    )


def _choose_looks(rng, pairs, count, same_shape):
    if same_shape:
        shape = SHAPES[rng.integers(len(SHAPES))]
        pairs = [p for p in pairs if p[1] == shape]
    order = rng.permutation(len(pairs))[:count]
    return [pairs[i] for i in order]


def _floor_position(rng, crowd: bool) -> tuple[float, float, float]:
    across, back = (3.0, 4.5) if crowd else (1.9, 1.9)
    return (float(np.float32(rng.uniform(-across, across))), float(np.float32(rng.uniform(-1.5, back))), 0.0)


def _place(objects, rng, min_side: float, min_visible: float, train: bool) -> Scene | None:
    """Puts the objects down one after the other; None when one finds no room in 40 tries (100 in a crowd, which is not
    left to chance to have no held-out relation in `train`)."""
    placed: list[SceneObject] = []
    boxes = np.empty((0, 4))
    depths = np.empty(0)
    crowd = len(objects) > USUAL
    for o in objects:
        for _ in range(100 if crowd else 40):
            o = replace(o, position=_floor_position(rng, crowd))
            if any(math.dist(o.position[:2], p.position[:2]) < least_distance(o, p) for p in placed):
                continue
            alone = Scene((o,))
            box = rough_boxes(alone)
            if box.min() < EDGE or box.max() > 1 - EDGE or 0.8 * (box[0, 2:] - box[0, :2]).min() < min_side:
                continue
            depth = project(o.centre, alone.camera)[1]
            if not _visible_enough(np.vstack([boxes, box]), np.append(depths, depth), min_visible):
                continue
            if crowd and train and is_held_out(Scene((*placed, o))):
                continue
            placed.append(o)
            boxes, depths = np.vstack([boxes, box]), np.append(depths, depth)
            break
        else:
            return None
    return Scene(tuple(placed))


def least_distance(a: SceneObject, b: SceneObject) -> float:
    """Metres between the axes of two solids from which on they don't meet, however they are turned."""
    reach = 1.42 if "cube" in (a.shape, b.shape) else 1.0
    return reach * (a.half_width + b.half_width)


def _visible_enough(boxes: np.ndarray, depths: np.ndarray, min_visible: float) -> bool:
    # silhouettes fill at least half of these boxes, so box overlap with nearer solids bounds the hidden share
    for i, box in enumerate(boxes):
        near = boxes[depths < depths[i]]
        w = np.minimum(box[2], near[:, 2]) - np.maximum(box[0], near[:, 0])
        h = np.minimum(box[3], near[:, 3]) - np.maximum(box[1], near[:, 1])
        hidden = (w.clip(0) * h.clip(0)).sum()
        if hidden > 0.5 * (1 - min_visible) * (box[2] - box[0]) * (box[3] - box[1]):
            return False
    return True
