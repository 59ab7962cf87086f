"""What a Mojito call gives back: frames, and a report that says whether the objects went where they were sent."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput


@dataclass
class MotionReport:
    """Measured while one video was sampled.

    Args:
        energy: per guided step, the energy a latent frame of each iteration, from 0 (all attention in the boxes) to
            the mean weight of the objects.
        in_box: (O, F) share of each object's attention inside its box, at the last guided step; F latent frames.
        boxes: (O, F, 4) at latent frames, xyxy in [0, 1].
        iterations: updates of the latent in all.
        forwards: partial forward passes of the conditional branch that guidance took, up to the last tapped layer;
            each but the measuring ones has a backward pass of equal length.
        flow: (frames - 1,) mean optical flow of each pair of frames, px a frame; None where no frames were decoded.
        iou: (O, frames) of the detected and the wanted box; None without a detector.
        conflicts: what text and trajectories disagree about, found before sampling, and which will win.
        warnings: frames in which a trajectory shows no place for its object, and what went wrong while sampling.
    """

    energy: list[list[float]] = field(default_factory=list)
    in_box: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    iterations: int = 0
    forwards: int = 0
    flow: torch.Tensor | None = None
    iou: torch.Tensor | None = None
    conflicts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, for JSON."""
        return {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in asdict(self).items()}


@dataclass
class MojitoPipelineOutput(BaseOutput):
    """Result of `MojitoPipeline`; its tuple form holds the same two values in this order.

    Args:
        frames: one list of PIL pictures a video, array or tensor `(B, F, ...)`, or latents, by `output_type`.
        report: one `MotionReport` a video.
    """

    frames: list[list[PIL.Image.Image]] | np.ndarray | torch.Tensor
    report: list[MotionReport]
