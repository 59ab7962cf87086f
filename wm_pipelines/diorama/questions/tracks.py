"""Where the solids of a scene are in each frame, in metres and in pixels of a 64 x 64 picture (our design)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wm_pipelines.diorama.motion import camera_at, pose_at
from wm_pipelines.diorama.scene import Scene, SceneObject, focal, look_at

PIXELS = 64  # margins are meant in a picture of this side
CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], dtype=np.float64)


@dataclass(frozen=True)
class Track:
    """One solid over T frames.

    base, centre: (T, 3) metres. yaw: (T,) radians, unwrapped. box: (T, 4) pixels around its bounding prism. depth:
    (T,) metres of its centre.
    """

    base: np.ndarray
    centre: np.ndarray
    yaw: np.ndarray
    box: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True)
class View:
    """The camera over T frames: `eye` (T, 3), `axes` (T, 3, 3) with rows right, down, forward, `scale` in pixels."""

    eye: np.ndarray
    axes: np.ndarray
    scale: float

    def project(self, points: np.ndarray, frames: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (T, n, 2) and depths (T, n) of points (T, n, 3), or (n, 3), as seen in `frames`."""
        q = np.einsum("tij,tnj->tni", self.axes[frames], points - self.eye[frames][:, None])
        depth = np.maximum(q[..., 2], 1e-6)
        return PIXELS / 2 + self.scale * q[..., :2] / depth[..., None], q[..., 2]

    def directions(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """The horizontal unit vectors (3,) that point right and away from the camera in frame t."""
        away = self.axes[t, 2] * (1, 1, 0)
        return self.axes[t, 0], away / np.linalg.norm(away)


def view_of(scene: Scene, times: Sequence[float]) -> View:
    scale = focal(scene.camera, PIXELS)
    if not scene.camera.motion:
        eye = np.broadcast_to(np.array(scene.camera.eye, dtype=np.float64), (len(times), 3))
        axes = look_at(scene.camera.eye, scene.camera.target)
        return View(eye, np.broadcast_to(axes, (len(times), 3, 3)), scale)
    pose = camera_at(scene, torch.tensor(times, dtype=torch.float64)).numpy()
    axes = pose[:, :3, :3]
    return View(-np.einsum("tji,tj->ti", axes, pose[:, :3, 3]), axes, scale)


def track_of(obj: SceneObject, scene: Scene, times: Sequence[float], view: View) -> Track:
    if obj.motion:
        base, quaternion = (v.numpy() for v in pose_at(obj, scene, torch.tensor(times, dtype=torch.float64)))
    else:
        base = np.broadcast_to(np.array(obj.position, dtype=np.float64), (len(times), 3))
        quaternion = np.broadcast_to(np.array(obj.quaternion), (len(times), 4))
    rotation = _matrices(quaternion)
    centre = base + rotation[:, :, 2] * (obj.height / 2)
    corners = CORNERS * (obj.half_width, obj.half_width, obj.height)
    xy, _ = view.project(np.einsum("tij,nj->tni", rotation, corners) + base[:, None])
    depth = view.project(centre[:, None])[1][:, 0]
    yaw = np.unwrap(2 * np.arctan2(quaternion[:, 3], quaternion[:, 0]))
    return Track(base, centre, yaw, np.concatenate([xy.min(1), xy.max(1)], axis=1), depth)


def _matrices(q: np.ndarray) -> np.ndarray:
    """Rotations (T, 3, 3) of unit quaternions (T, 4)."""
    w, x, y, z = q.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def hidden_share(box: np.ndarray, depth: np.ndarray, other: np.ndarray, other_depth: np.ndarray) -> np.ndarray:
    """How much of `box` (T, 4) at most lies behind `other` where that is nearer, (T,) shares."""
    w = np.minimum(box[:, 2], other[:, 2]) - np.maximum(box[:, 0], other[:, 0])
    h = np.minimum(box[:, 3], other[:, 3]) - np.maximum(box[:, 1], other[:, 1])
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    return np.where(other_depth < depth, w.clip(0) * h.clip(0) / np.maximum(area, 1e-9), 0)
