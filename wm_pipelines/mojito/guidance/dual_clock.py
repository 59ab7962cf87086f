"""Two clocks for an animated picture: what lies in a box begins denoising later, from a crude animation of it.

Time-to-Move (Singer et al., arXiv 2511.08633, section 3.2) starts from a reference clip in which the object has been
cut out and dragged along its path. All of it begins at a high noise level (the weak clock); from there to a lower one
(the strong clock) the moving region is set to the reference with noise after each step, and is then free. It needs no
gradient, so it can be had instead of the guidance or beside it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import nn

from wm_pipelines.kernels import box_masks
from wm_pipelines.mojito.bases.calls import StockCall
from wm_pipelines.mojito.bases.latents import LatentForm, encode_video
from wm_pipelines.mojito.guidance.noise_variance import FLOW_MATCHING, VARIANCE_PRESERVING
from wm_pipelines.mojito.guidance.plan import MotionPlan


def check_clocks(clocks: Any) -> tuple[float, float]:
    """The shares of the steps at which the weak and the strong clock end.

    Raises:
        ValueError: anything but two numbers with 0 <= weak <= strong <= 1.
    """
    pair = list(clocks) if isinstance(clocks, tuple | list) else []
    numbers = len(pair) == 2 and all(isinstance(n, Real) and not isinstance(n, bool) for n in pair)
    if not numbers or not 0 <= pair[0] <= pair[1] <= 1:
        raise ValueError(f"dual_clock={clocks!r}; two shares of the steps, 0 <= weak <= strong <= 1")
    return float(pair[0]), float(pair[1])


def dragged(picture: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """A crude animation: what lies in each object's first box, moved and scaled to its later ones.

    The place it leaves is filled, row by row, evenly from its left edge to its right. Later objects lie over earlier.

    Args:
        picture (`torch.Tensor` of shape `(3, H, W)`).
        boxes (`torch.Tensor` of shape `(O, F, 4)`, fractions).

    Returns:
        `(F, 3, H, W)`; the first frame is the picture.
    """
    height, width = picture.shape[1:]
    corners = (boxes * torch.tensor([width, height, width, height])).round().long()
    corners[..., 2:] = torch.maximum(corners[..., 2:], corners[..., :2] + 1)
    empty = picture.clone()
    for x0, y0, x1, y1 in corners[:, 0].tolist():
        left, right = empty[:, y0:y1, max(x0 - 1, 0)], empty[:, y0:y1, min(x1, width - 1)]
        share = torch.linspace(0, 1, x1 - x0)
        empty[:, y0:y1, x0:x1] = left[..., None] * (1 - share) + right[..., None] * share
    frames = [picture]
    for f in range(1, boxes.shape[1]):
        frame = empty.clone()
        for (x0, y0, x1, y1), (u0, v0, u1, v1) in zip(corners[:, 0].tolist(), corners[:, f].tolist(), strict=True):
            patch = torch.nn.functional.interpolate(
                picture[None, :, y0:y1, x0:x1], (v1 - v0, u1 - u0), mode="bilinear", align_corners=False
            )[0]
            place = frame[:, v0:v1, u0:u1]
            place.copy_(patch[:, : place.shape[1], : place.shape[2]])
        frames.append(frame)
    return torch.stack(frames)


@dataclass
class DualClock:
    """The clocks of one call.

    Attributes:
        scheduler: of the call.
        weak, strong: shares of the steps.
        reference: (V, C, f, h, w) latents of the reference clips.
        inside: (V, 1, f, h, w) bool, the moving region.
        form: of the call's latents.
        noise: (V, C, f, h, w) that the call began with; set when it begins.
    """

    scheduler: Any
    weak: float
    strong: float
    reference: torch.Tensor
    inside: torch.Tensor
    form: LatentForm
    noise: torch.Tensor | None = None

    @contextlib.contextmanager
    def watching(self, denoiser: nn.Module) -> Iterator[None]:
        """In the block the noise of the denoiser's first call is kept."""

        def keep(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
            if self.noise is None:
                self.noise = self.form.plain(self.form.own(given))[-len(self.reference) :].float()

        hook = denoiser.register_forward_pre_hook(keep, with_kwargs=True, prepend=True)
        try:
            yield
        finally:
            hook.remove()

    def after_step(self, step: int, latents: torch.Tensor) -> torch.Tensor:
        """The latents, in the call's form, that the step after `step`, counted from 0, begins with."""
        steps = len(self.scheduler.timesteps)
        done = step + 1
        if done > round(self.strong * steps):
            return latents
        noisy = self._noisy(done).to(latents)
        if done > round(self.weak * steps):
            noisy = torch.where(self.inside.to(latents.device), noisy, self.form.plain(latents))
        return self.form.holding(self.form.kept(noisy), latents)

    def _noisy(self, step: int) -> torch.Tensor:
        """The reference with the noise that the latents hold when step `step` begins; without any at the end."""
        if step >= len(self.scheduler.timesteps):
            return self.reference
        if type(self.scheduler).__name__ in FLOW_MATCHING:
            sigma = float(self.scheduler.sigmas[step])
            return (1 - sigma) * self.reference + sigma * self.noise
        t = self.scheduler.timesteps[step].reshape(1).repeat(len(self.reference))
        return self.scheduler.add_noise(self.reference, self.noise, t)


def make_clock(
    call: StockCall, plans: Sequence[MotionPlan], clocks: tuple[float, float], reference: torch.Tensor | None
) -> DualClock:
    """The clocks over each video's reference clip.

    Args:
        plans: one a video. clocks: weak and strong, as `check_clocks` gives them.
        reference: `(F, 3, H, W)` in [0, 1], for all videos; None: each one's picture, dragged along its boxes.

    Raises:
        ValueError: a reference of another size.
    """
    frames = plans[0].boxes.shape[1]
    form = call.latent_form(frames)
    height, width = (side * call.spatial for side in form.shape[1:])
    if reference is None:
        pictures = call.stock.video_processor.preprocess(call.options["image"], height=height, width=width)
        each = len(plans) // len(pictures)
        clips = [dragged(pictures[v // each].float().cpu(), plan.boxes) for v, plan in enumerate(plans)]
    else:
        if tuple(reference.shape) != (frames, 3, height, width):
            raise ValueError(
                f"reference is {tuple(reference.shape)}; it must be the clip's {(frames, 3, height, width)}"
            )
        clips = [reference * 2 - 1] * len(plans)
    encoded = [encode_video(call.stock, call.family, clip.transpose(0, 1)[None]) for clip in clips]
    return DualClock(
        call.stock.scheduler,
        weak=clocks[0],
        strong=clocks[1],
        reference=torch.cat(encoded),
        inside=torch.stack([moving_region(plan.latent_boxes, form.shape[1:]) for plan in plans]),
        form=form,
    )


def check_clock_scheduler(scheduler: Any) -> None:
    """ValueError unless it is known how the scheduler's latents hold noise at a step's beginning."""
    known = (*FLOW_MATCHING[:1], *VARIANCE_PRESERVING)
    if type(scheduler).__name__ not in known:
        raise ValueError(f"scheduler is a {type(scheduler).__name__}; dual_clock knows {', '.join(known)}")


def moving_region(boxes: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(1, f, h, w) bool: cells of latent frames that a box of boxes (O, f, 4) covers by half or more."""
    return (box_masks(boxes, grid) >= 0.5).any(0).unflatten(-1, grid)[None]
