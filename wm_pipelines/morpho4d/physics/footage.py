"""Videos of the miniature world without depth and masks: `diorama-judge` says what is where, the floor how far it is
(our design)."""

import torch

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.scene import COLOURS
from wm_pipelines.hub import embedded
from wm_pipelines.morpho4d import clips
from wm_pipelines.morpho4d.gaussians import Cameras

LEAST_SHARE = 0.003
"""Of a picture, that a colour must fill in two frames or more to count as an object."""


def world_camera(frames: int, size: tuple[int, int]) -> Cameras:
    """The miniature world's own camera, at rest."""
    k, poses = clips.scene_camera(frames, size)
    return Cameras(k[None], poses[None], size)


@torch.no_grad()
def judged_masks(frames: torch.Tensor) -> tuple[torch.Tensor, dict[int, str]]:
    """Object ids (T, H, W) int64 of frames (T, 3, H, W) in [0, 1], one for each colour, and what they are called.

    Raises:
        ValueError: sides that are no multiples of 4, or no colour of the world in two frames or more.
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
        raise ValueError("`video` shows no object of the miniature world's colours; pass masks, depth and cameras")
    return masks, names


def floor_depth(masks: torch.Tensor, cameras: Cameras) -> torch.Tensor:
    """Depth (T, H, W) of the first view, as `clips.floor_depth` has it. Of what flies it says nothing true."""
    poses = cameras.T_cw[0]
    return torch.stack([clips.floor_depth(mask, cameras.K[0], pose) for mask, pose in zip(masks, poses, strict=True)])
