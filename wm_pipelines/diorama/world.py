"""The numbers of many frames at once: what the renderer knows of scenes at given times (our design).

Vectors lead with their components, (3, ...), so that every component is one contiguous row; K = F * N solids of F
frames (scene x time) are numbered frame by frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from wm_pipelines.diorama.rotations import rows
from wm_pipelines.diorama.scene import COLOURS, SHAPES, Camera, Scene, SceneObject, focal, look_at

Triple = Sequence[torch.Tensor]
"""Three tensors of one shape: x, y, z."""


def dot(a: Triple, b: Triple) -> torch.Tensor:
    """Scalar product of two triples of tensors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def turn(matrix: Sequence[Triple], v: Triple) -> tuple:
    """matrix (3 x 3 tensors) applied to the triple v, elementwise: the same bits in every batch."""
    return tuple(dot(matrix[i], v) for i in range(3))


def turn_back(matrix: Sequence[Triple], v: Triple) -> tuple:
    """The transposed matrix applied to v."""
    return tuple(dot((matrix[0][i], matrix[1][i], matrix[2][i]), v) for i in range(3))


def minus(a: Triple, b: Triple) -> tuple:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def unit(v: Triple) -> tuple:
    v = tuple(v)
    length = dot(v, v).sqrt()
    return tuple(x / length for x in v)


@dataclass
class World:
    """F frames with N solids each."""

    kind: torch.Tensor  # (K,) index into SHAPES, -1 = no object
    half: torch.Tensor  # (K,) half side or base radius, metres
    height: torch.Tensor  # (K,)
    colour: torch.Tensor  # (3, K)
    striped: torch.Tensor  # (K,) bool
    shiny: torch.Tensor  # (K,) bool
    ids: torch.Tensor  # (K,)
    position: torch.Tensor  # (3, K) centre of the base
    rotation: torch.Tensor  # (3, 3, K) local to world
    eye: torch.Tensor  # (3, F)
    camera: torch.Tensor  # (3, 3, F) world to camera
    scale: torch.Tensor  # (F,) focal length for a picture of height 1
    light: torch.Tensor  # (3, F) unit, towards the light
    ambient: torch.Tensor  # (F,)
    floor: torch.Tensor  # (F,) bool
    square: torch.Tensor  # (F,) side of the floor's squares, metres; 0 = plain

    @property
    def frames(self) -> int:
        return self.scale.shape[0]

    @property
    def count(self) -> int:
        return self.kind.shape[0] // self.frames

    @property
    def frame_of(self) -> torch.Tensor:
        """(K,) the frame of each solid."""
        return torch.arange(self.frames, device=self.scale.device).repeat_interleave(self.count)

    def take(self, frames: torch.Tensor) -> "World":
        """The frames with these numbers (n,)."""
        solids = (frames[:, None] * self.count + torch.arange(self.count, device=frames.device)).flatten()
        index = {f.name: solids for f in fields(self)[:9]} | {f.name: frames for f in fields(self)[9:]}
        return World(**{name: getattr(self, name)[..., at] for name, at in index.items()})


def build_world(scenes: Sequence[Scene], times: Sequence[float], device: str | torch.device) -> World:
    """Frames in the order (scene, time); scenes with fewer objects are filled up with none."""
    count = max(1, max(len(s.objects) for s in scenes))
    shape = (len(scenes), len(times), count)
    looks = np.zeros((5, *shape), dtype=np.float32)  # kind, half, height, striped, shiny
    looks[0], looks[1:3] = -1, 1
    colour, ids = np.zeros((3, *shape), dtype=np.float32), np.zeros(shape, dtype=np.int64)
    position, rotation = np.zeros((3, *shape)), np.zeros((3, 3, *shape))
    rotation[range(3), range(3)] = 1
    eye, camera = np.empty((3, *shape[:2])), np.empty((3, 3, *shape[:2]))
    views = np.empty((7, *shape[:2]), dtype=np.float32)
    for b, scene in enumerate(scenes):
        for n, o in enumerate(scene.objects):
            shiny, striped = o.material == "shiny", o.pattern == "striped"
            looks[:, b, :, n] = np.array((SHAPES.index(o.shape), o.half_width, o.height, striped, shiny))[:, None]
            colour[:, b, :, n] = np.array(COLOURS[o.colour])[:, None]
            ids[b, :, n] = o.id
            position[:, b, :, n], rotation[:, :, b, :, n] = _poses(o, scene, times)
        eye[:, b], camera[:, :, b] = _cameras(scene, times)
        light = np.array(scene.light.direction, dtype=np.float32)
        light = light / np.sqrt((light[0] * light[0] + light[1] * light[1]) + light[2] * light[2])
        square = scene.floor_square if scene.floor_pattern == "chequered" else 0.0
        views[:, b] = np.array((focal(scene.camera, 1), *light, scene.light.ambient, scene.floor, square))[:, None]

    def flat(values, lead=0, dtype=torch.float32):
        return torch.from_numpy(np.ascontiguousarray(values)).to(dtype).flatten(lead).to(device)

    return World(
        kind=flat(looks[0], dtype=torch.long),
        half=flat(looks[1]),
        height=flat(looks[2]),
        colour=flat(colour, 1),
        striped=flat(looks[3], dtype=torch.bool),
        shiny=flat(looks[4], dtype=torch.bool),
        ids=flat(ids, dtype=torch.long),
        position=flat(position, 1),
        rotation=flat(rotation, 2),
        eye=flat(eye, 1),
        camera=flat(camera, 2),
        scale=flat(views[0]),
        light=flat(views[1:4], 1),
        ambient=flat(views[4]),
        floor=flat(views[5], dtype=torch.bool),
        square=flat(views[6]),
    )


def look_from(world: World, scenes: Sequence[Scene], times: Sequence[float], cameras: Sequence[Camera]) -> World:
    """The frames of `build_world(scenes, times)` from each of `cameras`, in the order (scene, camera, time)."""
    shape = (len(scenes), len(cameras), len(times))
    eye, camera, scale = np.empty((3, *shape)), np.empty((3, 3, *shape)), np.empty(shape)
    for b, scene in enumerate(scenes):
        for v, c in enumerate(cameras):
            eye[:, b, v], camera[:, :, b, v] = _cameras(replace(scene, camera=c), times)
            scale[b, v] = focal(c, 1)
    frames = torch.arange(world.frames, device=world.scale.device).view(shape[0], 1, shape[2])
    seen = world.take(frames.expand(shape).reshape(-1))
    seen.eye, seen.camera, seen.scale = (
        torch.from_numpy(values).to(world.scale).flatten(lead) for values, lead in ((eye, 1), (camera, 2), (scale, 0))
    )
    return seen


def check_cameras(cameras: Sequence[Camera] | None) -> list[Camera] | None:
    """The cameras that take the place of scenes' own, as a list; None if there are none."""
    if cameras is None:
        return None
    if not isinstance(cameras, Sequence) or not cameras or not all(isinstance(c, Camera) for c in cameras):
        raise ValueError(f"`cameras` is {cameras!r}; a list of one `Camera` or more, or None for each scene's own")
    return list(cameras)


def _poses(o: SceneObject, scene: Scene, times) -> tuple[np.ndarray, np.ndarray]:
    """Positions (3, T) and rotations (3, 3, T), or (..., 1) of an object at rest."""
    if o.motion:
        from wm_pipelines.diorama.motion import pose_at

        position, quaternion = pose_at(o, scene, torch.tensor(times, dtype=torch.float64))
        return position.numpy().T, _matrix(*quaternion.numpy().T)
    return np.array(o.position)[:, None], _matrix(*np.array(o.quaternion)[:, None])


def _cameras(scene: Scene, times) -> tuple[np.ndarray, np.ndarray]:
    """Eyes (3, T) and world-to-camera rotations (3, 3, T), or (..., 1) of a camera at rest."""
    if scene.camera.motion:
        from wm_pipelines.diorama.motion import camera_at

        pose = camera_at(scene, torch.tensor(times, dtype=torch.float64)).numpy()  # (T, 4, 4)
        rotation = np.moveaxis(pose[:, :3, :3], 0, -1)
        return -(rotation * pose[:, None, :3, 3].transpose(2, 1, 0)).sum(0), rotation
    return np.array(scene.camera.eye)[:, None], look_at(scene.camera.eye, scene.camera.target)[..., None]


def _matrix(w, x, y, z) -> np.ndarray:
    """Rotations (3, 3, T) of quaternions."""
    n = np.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / n, x / n, y / n, z / n
    return np.array(rows(w, x, y, z))
