"""Unit quaternions (w, x, y, z): products, matrices, and the way from one to the next (our design).

Everything is elementwise, for numbers, arrays and tensors alike.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

UPRIGHT = (1.0, 0.0, 0.0, 0.0)


def product(a: Sequence[Any], b: Sequence[Any]) -> tuple:
    """The quaternion that turns by b, then by a; each is four numbers, arrays or tensors."""
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


def rows(w: Any, x: Any, y: Any, z: Any) -> tuple:
    """The rows of the rotation matrix of a unit quaternion."""
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


def leaning(yaw: float, tilt: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """The quaternion of a solid that is tilted, then turned by `yaw` about z."""
    return product((math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)), tilt)


def yaw_and_tilt(quaternion: tuple[float, ...]) -> tuple[float, tuple[float, float, float, float]]:
    """The inverse of `leaning`, with a tilt about a horizontal axis (swing and twist)."""
    w, x, y, z = quaternion
    yaw = 2 * math.atan2(z, w)
    tilt = product((math.cos(yaw / 2), 0.0, 0.0, -math.sin(yaw / 2)), quaternion)
    length = math.sqrt(sum(c * c for c in tilt[:3]))
    tilt = (tilt[0] / length, tilt[1] / length, tilt[2] / length, 0.0)
    return (yaw, UPRIGHT) if math.hypot(tilt[1], tilt[2]) < 1e-12 else (yaw, tilt)


def slerp(a: torch.Tensor, b: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The rotation at the share u (...) of the shorter way from a to b (..., 4): a itself at 0, b or -b at 1."""
    cosine = (a * b).sum(-1)
    b = torch.where((cosine < 0)[..., None], -b, b)
    half = torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)) * 2  # the angle between a and b
    near = half < 1e-6
    safe = torch.where(near, 1.0, half)
    left = torch.where(near, 1 - u, ((1 - u) * safe).sin() / safe.sin())
    right = torch.where(near, u, (u * safe).sin() / safe.sin())
    return left[..., None] * a + right[..., None] * b
