"""What the frames of a finished video say about its motion."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from wm_pipelines.media.boxes import box_iou
from wm_pipelines.media.flow import measure_flow
from wm_pipelines.media.pictures import to_tensor
from wm_pipelines.mojito.objects import MotionObject


def frames_tensor(video: Any) -> torch.Tensor:
    """A video in any output form as float32 (F, 3, H, W) in [0, 1]."""
    if isinstance(video, torch.Tensor):
        return video.detach().float().cpu().clamp(0, 1)
    if isinstance(video, np.ndarray):
        return torch.from_numpy(np.moveaxis(video, -1, 1).copy()).float().clamp(0, 1)
    return torch.stack([to_tensor(frame) for frame in video])


def measured_flow(video: torch.Tensor) -> torch.Tensor | None:
    """(F - 1,) mean optical flow of each pair, px a frame; None for a single frame."""
    return torch.as_tensor(measure_flow(video)).float() if len(video) > 1 else None


def measured_iou(
    video: torch.Tensor,
    objects: Sequence[MotionObject],
    boxes: torch.Tensor,
    detector: Callable[[torch.Tensor, str], torch.Tensor],
) -> torch.Tensor:
    """(O, F) intersection over union of the detected and the wanted boxes (O, F, 4); 0 where nothing is found."""
    rows = []
    for item, wanted in zip(objects, boxes, strict=True):
        found = torch.as_tensor(detector(video, item.phrase)).float()
        if found.shape != wanted.shape:
            raise ValueError(
                f"detector returned {tuple(found.shape)} for {item.phrase!r}; it must be {tuple(wanted.shape)}"
            )
        rows.append(torch.nan_to_num(box_iou(found, wanted)))
    return torch.stack(rows)
