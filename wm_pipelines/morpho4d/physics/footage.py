"""Videos of the miniature world without depth and masks: `diorama-judge` says what is where, the floor how far it is
(our design)."""

from collections.abc import Sequence

import torch

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.scene import COLOURS
from wm_pipelines.hub import embedded
from wm_pipelines.morpho4d import clips
from wm_pipelines.morpho4d.gaussians import Cameras
from wm_pipelines.morpho4d.physics.report import PhysicsReport, clip_physics

LEAST_FRAMES = 5
LEAST_SHARE = 0.003
"""Of a picture, that a colour must fill in two frames or more to count as an object."""


class NothingSeen(ValueError):
    """No object of the miniature world's colours is in a clip."""


def footage_physics(
    frames: torch.Tensor, fps: float = 8.0, gravity: float = 9.81, simulator: bool = True
) -> PhysicsReport:
    """Measures a clip of the miniature world of which nothing but its frames is known: everything is taken to stand on
    the floor, before the world's own camera.

    Args:
        frames: (T, 3, H, W) in [0, 1], 5 or more, sides multiples of 4.
        fps, gravity, simulator: as in `clip_physics`.

    Raises:
        NothingSeen: as `judged_masks`. ValueError: too few frames, or as `clip_physics`.
    """
    if len(frames) < LEAST_FRAMES:
        raise ValueError(f"a clip has {len(frames)} frames; {LEAST_FRAMES} or more are needed to see how things move")
    masks, names = judged_masks(frames)
    camera = world_camera(len(masks), tuple(masks.shape[1:]))
    depth = floor_depth(masks, camera)
    return clip_physics(masks, depth, camera, names=names, fps=fps, gravity=gravity, simulator=simulator)


def ranked_clips(
    clips: Sequence[torch.Tensor], fps: float = 8.0, gravity: float = 9.81
) -> list[tuple[int, PhysicsReport | None]]:
    """Number and report of each clip, the most physical first; those in which nothing is seen last, without a report.

    Args:
        clips: each as `footage_physics` takes it. fps, gravity: of all.

    Raises:
        ValueError: as `footage_physics`, but for what is not seen.
    """
    reports: list[PhysicsReport | None] = []
    for clip in clips:
        try:
            reports.append(footage_physics(clip, fps, gravity, simulator=False))
        except NothingSeen:
            reports.append(None)
    scores = [float("inf") if report is None else report.score for report in reports]
    return [(n, reports[n]) for n in sorted(range(len(clips)), key=scores.__getitem__)]


def world_camera(frames: int, size: tuple[int, int]) -> Cameras:
    """The miniature world's own camera, at rest."""
    k, poses = clips.scene_camera(frames, size)
    return Cameras(k[None], poses[None], size)


@torch.no_grad()
def judged_masks(frames: torch.Tensor) -> tuple[torch.Tensor, dict[int, str]]:
    """Object ids (T, H, W) int64 of frames (T, 3, H, W) in [0, 1], one for each colour, and what they are called.

    Raises:
        NothingSeen: no colour of the world in two frames or more. ValueError: sides that are no multiples of 4.
    """
    judge = DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()
    masks = torch.cat([clips.colour_masks(judge, some, tuple(COLOURS)) for some in frames.float().split(16)])
    names = {}
    for n, colour in enumerate(COLOURS, 1):
        share = (masks == n).float().mean((1, 2))
        if int((share >= LEAST_SHARE).sum()) >= 2:
            names[n] = f"{colour} object"
        else:
            masks[masks == n] = 0
    if not names:
        raise NothingSeen("`video` shows no object of the miniature world's colours; pass masks, depth and cameras")
    return masks, names


def floor_depth(masks: torch.Tensor, cameras: Cameras) -> torch.Tensor:
    """Depth (T, H, W) of the first view, as `clips.floor_depth` has it. Of what flies it says nothing true."""
    poses = cameras.T_cw[0]
    return torch.stack([clips.floor_depth(mask, cameras.K[0], pose) for mask, pose in zip(masks, poses, strict=True)])
