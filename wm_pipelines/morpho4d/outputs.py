"""What `Morpho4DPipeline` gives."""

from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput

from wm_pipelines.morpho4d.fitting import FitReport
from wm_pipelines.morpho4d.scene import Scene4D


@dataclass
class Morpho4DOutput(BaseOutput):
    """Result of `Morpho4DPipeline`.

    Args:
        scene: the scene in time.
        frames: (T, 3, H, W) float32 in [0, 1], seen by its first camera.
        depth: (T, H, W) float32, metres along the optical axis, inf where nothing is.
        alpha: (T, H, W) float32.
        object_ids: (T, H, W) int64, 0 = background.
        features: (T, F, H, W) float32.
        report: what the fit took.
    """

    scene: Scene4D
    frames: torch.Tensor
    depth: torch.Tensor
    alpha: torch.Tensor
    object_ids: torch.Tensor
    features: torch.Tensor
    report: FitReport
