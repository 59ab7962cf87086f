"""Rings of cameras around a scene, and the matrices of cameras (our design)."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from wm_pipelines.diorama.motion import camera_at
from wm_pipelines.diorama.render import check_size, check_times
from wm_pipelines.diorama.scene import Camera, Scene, intrinsics
from wm_pipelines.diorama.world import check_cameras


def ring_cameras(
    count: int,
    radius: float = 4.2,
    elevation_deg: float = 32.0,
    fov_deg: float = 42.0,
    target: tuple[float, float, float] = (0.0, 0.0, 0.35),
    start_deg: float = 0.0,
) -> list[Camera]:
    """Cameras evenly spaced on a circle, all looking at its middle.

    Args:
        count: 1 or more.
        radius: distance of each camera from `target`, metres. Of the objects that `sample_scene` spreads over its
            floor, 46 % are whole in the picture from 4.2 m, 86 % from 6.4 m and 98 % from 8 m.
        elevation_deg: how high the cameras stand over the horizontal through `target`, 0 to 89 degrees.
        fov_deg: vertical field of view, degrees.
        target: the point looked at, metres.
        start_deg: where the first stands: 0 is the side of the default camera (-y), then counter-clockwise seen from
            above, as the others follow.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"`count` is {count!r}; a whole number of cameras, 1 or more")
    if not 0 < radius < math.inf:
        raise ValueError(f"`radius` is {radius!r}; metres above 0")
    if not 0 <= elevation_deg <= 89:
        raise ValueError(f"`elevation_deg` is {elevation_deg!r}; allowed: 0 to 89 degrees")
    if not math.isfinite(start_deg):
        raise ValueError(f"`start_deg` is {start_deg!r}; a finite number of degrees")
    if len(target) != 3 or not all(map(math.isfinite, target)):
        raise ValueError(f"`target` is {target!r}; three finite metres")
    level, up = radius * math.cos(math.radians(elevation_deg)), radius * math.sin(math.radians(elevation_deg))
    found = []
    for n in range(count):
        angle = math.radians(start_deg) + 2 * math.pi * n / count
        eye = (target[0] + level * math.sin(angle), target[1] - level * math.cos(angle), target[2] + up)
        found.append(Camera(tuple(float(np.float32(v)) for v in eye), tuple(map(float, target)), fov_deg))
    return found


def camera_matrices(
    scene: Scene,
    times: Sequence[float] = (0.0,),
    size: int | tuple[int, int] = 64,
    cameras: Sequence[Camera] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What projects world points to the pixels of `render(scene, times, size, cameras=cameras)`: with
    `q = T_cw @ (x, y, z, 1)` and `p = K @ q[:3]`, the place is `(p[0], p[1]) / p[2]`, pixel centres at half numbers.

    Args:
        times: T times in frames. size: H = W, or (H, W), pixels. cameras: V cameras, as `render` takes them.

    Returns:
        K, float64 (3, 3), in pixels, and T_cw, float64 (T, 4, 4), world to camera in metres; (V, 3, 3) and
        (V, T, 4, 4) where `cameras` are given.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    height, width, times, cameras = *check_size(size), check_times(times), check_cameras(cameras)
    seen = [scene.camera] if cameras is None else cameras
    k = torch.stack([torch.from_numpy(intrinsics(c, height, width)) for c in seen])
    poses = torch.stack([camera_at(replace(scene, camera=c), torch.tensor(times, dtype=torch.float64)) for c in seen])
    return (k[0], poses[0]) if cameras is None else (k, poses)
