"""Videos of the miniature world without depth and masks: `diorama-judge` says what is where, the floor how far it is
(our design)."""

import torch

from wm_pipelines.diorama.cameras import camera_matrices
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.scene import COLOURS, Scene
from wm_pipelines.hub import embedded
from wm_pipelines.morpho4d.capture import lift
from wm_pipelines.morpho4d.gaussians import Cameras

LEAST_SHARE = 0.003
"""Of a picture, that a colour must fill in two frames or more to count as an object."""


def world_camera(frames: int, size: tuple[int, int]) -> Cameras:
    """The miniature world's own camera, at rest."""
    k, pose = camera_matrices(Scene(), (0.0,), size)
    return Cameras(k[None].float(), pose.float().expand(1, frames, 4, 4).clone(), size)


@torch.no_grad()
def judged_masks(frames: torch.Tensor) -> tuple[torch.Tensor, dict[int, str]]:
    """Object ids (T, H, W) int64 of frames (T, 3, H, W) in [0, 1], one for each colour, and what they are called.

    Raises:
        ValueError: sides that are no multiples of 4, or no colour of the world in two frames or more.
    """
    judge = DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()
    masks = torch.cat([judge(some).colour.argmax(1) for some in frames.float().split(16)])
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
    """Depth (T, H, W) of a picture whose objects stand on the floor z = 0: each as far as its lowest pixel, flat.

    Of what flies it says nothing true. inf where no floor is.
    """
    flat = torch.ones(masks.shape[1:], dtype=torch.float64)
    out = torch.empty(masks.shape, dtype=torch.float32)
    for t, mask in enumerate(masks):
        pose = cameras.T_cw[0, t].double()
        eye = -pose[:3, :3].mT @ pose[:3, 3]
        rays = lift(flat, cameras.K[0].double(), pose) - eye  # of depth 1
        down = -eye[2] / rays[..., 2]
        depth = torch.where(down > 0, down, torch.inf)
        for i in mask.unique().tolist():
            if i:
                rows = (mask == i).any(1).nonzero().squeeze(1)
                low = depth[rows[-1]][mask[rows[-1]] == i]
                depth = torch.where(mask == i, low.median(), depth)
        out[t] = depth.float()
    return out
