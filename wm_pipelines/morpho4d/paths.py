"""Paths of a camera through a scene in time."""

import math
from collections.abc import Sequence

import torch

from wm_pipelines.morpho4d.scene import Scene4D

PATHS = ("own", "hold", "orbit", "swing", "dolly")
"""`own`: as the scene's camera moved. `hold`: where it stands at the first time. `orbit`: around the middle of the
scene, once through the angle. `swing`: to one side by half the angle, to the other, and back. `dolly`: towards it."""

UP = {"z": (0.0, 0.0, 1.0), "-y": (0.0, -1.0, 0.0)}


def camera_path(
    scene: Scene4D,
    kind: str = "own",
    view: int = 0,
    degrees: float = 30.0,
    approach: float = 0.3,
    times: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """K (3, 3) in pixels of `size` and T_cw (T', 4, 4), as `Scene4D.render` takes them.

    The middle of the scene is the point on the camera's axis that is nearest to the mean of its Gaussians.

    Args:
        kind: of `PATHS`.
        view: number of the scene's camera that the path starts from.
        degrees: of `orbit` (counter-clockwise seen from above) and `swing`, -3600 to 3600.
        approach: of `dolly`: the share of the way to the middle that it goes, -10 to 0.95.
        times: T' times in frames; None: every frame.
        size: (height, width); None: that of the scene's cameras.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    if kind not in PATHS:
        raise ValueError(f"`kind` is {kind!r}; allowed: {', '.join(PATHS)}")
    if not 0 <= view < len(scene.cameras):
        raise ValueError(f"`view` is {view!r}; the scene has cameras 0 to {len(scene.cameras) - 1}")
    if not -3600 <= degrees <= 3600:
        raise ValueError(f"`degrees` is {degrees!r}; allowed: -3600 to 3600")
    if not -10 <= approach <= 0.95:
        raise ValueError(f"`approach` is {approach!r}; allowed: -10 to 0.95")
    times = [float(t) for t in (range(scene.frames) if times is None else times)]
    if not times:
        raise ValueError("`times` is empty; at least one is needed")
    height, width = scene.cameras.size if size is None else size
    scale = torch.tensor([width / scene.cameras.size[1], height / scene.cameras.size[0], 1.0])
    k = scene.cameras.K[view] * scale[:, None]
    if kind == "own":
        return k, torch.stack([scene.cameras.at(view, t)[1] for t in times])
    pose = scene.cameras.at(view, times[0])[1].double()
    eye, ahead = -pose[:3, :3].T @ pose[:3, 3], pose[2, :3]
    means = scene.at(times[0]).means.double()
    distance = float((means.mean(0) - eye) @ ahead) if len(means) else 1.0
    middle = eye + max(distance, 0.1) * ahead
    return k, torch.stack([_moved(pose, eye, middle, kind, (degrees, approach), s, scene.up) for s in _shares(times)])


def _shares(times: list[float]) -> list[float]:
    return [n / max(len(times) - 1, 1) for n in range(len(times))]


def _moved(
    pose: torch.Tensor,
    eye: torch.Tensor,
    middle: torch.Tensor,
    kind: str,
    amounts: tuple[float, float],
    share: float,
    up: str,
) -> torch.Tensor:
    """The pose after a share of the way."""
    degrees, approach = amounts
    turn, away = torch.eye(3, dtype=torch.float64), 1.0
    if kind in ("orbit", "swing"):
        part = share if kind == "orbit" else 0.5 * math.sin(2 * math.pi * share)
        turn = _about(torch.tensor(UP[up], dtype=torch.float64), math.radians(degrees) * part)
    elif kind == "dolly":
        away = 1 - approach * share
    moved = torch.eye(4, dtype=torch.float64)
    moved[:3, :3] = pose[:3, :3] @ turn.T
    moved[:3, 3] = -moved[:3, :3] @ (middle + turn @ (eye - middle) * away)
    return moved.float()


def _about(axis: torch.Tensor, angle: float) -> torch.Tensor:
    """The matrix that turns by `angle`, radians, about a unit axis (Rodrigues)."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
