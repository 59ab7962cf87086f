"""What a Mojito call gives back: frames, and a report that says whether the objects went where they were sent."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput

from wm_pipelines.media.boxes import box_iou
from wm_pipelines.media.flow import measure_flow
from wm_pipelines.media.pictures import to_tensor
from wm_pipelines.mojito.guidance.plan import MotionPlan
from wm_pipelines.mojito.guidance.steering import MotionGuide
from wm_pipelines.mojito.trajectories.objects import MotionObject

Detector = Callable[[torch.Tensor, str], torch.Tensor]
"""(frames (F, 3, H, W) in [0, 1], phrase) -> boxes (F, 4), NaN where nothing is found."""


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
        warnings: paths that were resampled to the clip's frames, frames in which a trajectory shows no place for its
            object, and what went wrong while sampling.
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
    """Result of `MojitoPipeline`; with `return_dict=False` the tuple of the first two.

    Args:
        frames: one list of PIL pictures a video, array or tensor `(B, F, ...)`, or latents, by `output_type`.
        report: one `MotionReport` a video.
        plan: one `MotionPlan` a video: what its objects became before sampling; None where nothing was steered.
    """

    frames: list[list[PIL.Image.Image]] | np.ndarray | torch.Tensor
    report: list[MotionReport]
    plan: list[MotionPlan] | None = None


def motion_reports(videos: int, plans: Sequence[MotionPlan], guide: MotionGuide | None) -> list[MotionReport]:
    """One report a video, of what was found before and while it was sampled."""
    if guide is None:
        return [MotionReport() for _ in range(videos)]
    reports = []
    for v, plan in enumerate(plans):
        report = MotionReport(
            energy=guide.energies[v],
            in_box=guide.in_box[v],
            boxes=plan.latent_boxes,
            iterations=guide.updates[v],
            forwards=guide.forwards,
            conflicts=list(plan.conflicts),
            warnings=list(plan.notes),
        )
        report.warnings += [
            f'no tapped layer attends to "{plan.phrases[o]}": the model may not know it' for o in guide.unseen[v]
        ]
        if report.iterations > 1 and report.energy[-1][-1] > report.energy[0][0] - 0.01:
            report.warnings.append(
                f"energy did not fall ({report.energy[0][0]:.2f}->{report.energy[-1][-1]:.2f}) in "
                f"{report.iterations} updates: raise guidance_eta or check the phrase"
            )
        reports.append(report)
    return reports


def measure_frames(
    reports: Sequence[MotionReport], plans: Sequence[MotionPlan], frames: Any, detector: Detector | None
) -> None:
    """Adds to each report the flow of its video, and how well a detector finds the boxes met."""
    for v, (video, report) in enumerate(zip(frames, reports, strict=True)):
        pictures = frames_tensor(video)
        report.flow = measured_flow(pictures)
        if detector is not None:
            report.iou = measured_iou(pictures, plans[v].objects, plans[v].boxes, detector)


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
    detector: Detector,
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
