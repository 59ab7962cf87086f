"""The stock pipeline at work: what stands around its denoiser, and what runs after each of its steps."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging

from wm_pipelines.mojito.bases.calls import LiveScale, StockCall
from wm_pipelines.mojito.bases.shared_noise import share_noise
from wm_pipelines.mojito.guidance.dual_clock import DualClock
from wm_pipelines.mojito.guidance.steering import MotionGuide
from wm_pipelines.mojito.intensity import applied
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.runtime.factors import factor_at

StepCallback = Callable[[Any, int, int, dict], dict] | PipelineCallback | MultiPipelineCallbacks
logger = logging.get_logger(__name__)


@contextlib.contextmanager
def surrounded(
    pipe: WMPipeline,
    guide: MotionGuide | None,
    levels: Sequence[float | None],
    fps: float | None,
    schedule: Sequence[float] | None = None,
) -> Iterator[None]:
    """In the block the denoiser of `pipe` is steered, knows the level of each video, and its frame rate.

    Args:
        schedule: factors on the levels, from the first step to the last; None: 1 all the time.
    """
    if pipe.intensity is not None and pipe.intensity.config.text_dim and pipe.text_encoder.dtype == torch.bfloat16:
        logger.warning(
            "the intensity model tells motions apart by small differences of the text encoder's state, which "
            "bfloat16 rounds away in part; keep pipe.text_encoder in float32 or float16"
        )
    with contextlib.ExitStack() as stack:
        if guide is not None:
            stack.enter_context(guide.active())
        if pipe.intensity is not None:  # a level of None is learned too
            # behind the guide, whose own passes have other rows: what a call's hooks see last must be the call
            factor = None if schedule is None else functools.partial(_factor, pipe.scheduler, schedule)
            stack.enter_context(applied(pipe.intensity, pipe.denoiser, levels, factor=factor))
        if pipe.fps_embedding is not None:
            stack.enter_context(pipe.fps_embedding.applied(pipe.denoiser, fps))
        yield


def _factor(scheduler: Any, schedule: Sequence[float], timestep: Any) -> float:
    """The factor at the step that has this timestep, also in a later round of FreeInit."""
    timesteps = scheduler.timesteps.cpu().float()
    step = int((timesteps - float(timestep)).abs().argmin())
    return factor_at(schedule, step, len(timesteps))


def sample(
    pipe: WMPipeline,
    call: StockCall,
    asked: dict[str, Any],
    callback: StepCallback | None,
    tensor_inputs: Sequence[str],
    clock: DualClock | None,
) -> Any:
    """The frames that the stock pipeline makes of what is `asked` and of the call's options.

    `pipe` stands for it before callbacks, and so has its guidance scale and whether it was asked to stop.
    """
    stock = call.stock
    share = pipe.recommended("shared_noise", None, otherwise=0.0)
    if share:
        share_noise(stock, share)
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        tensor_inputs = callback.tensor_inputs
    scale = LiveScale(call.value("guidance_scale"))
    pipe._guidance_scale, pipe._interrupt = scale.value, False
    with contextlib.nullcontext() if clock is None else clock.watching(pipe.denoiser):
        return stock(
            **call.options | asked | {"guidance_scale": scale},
            callback_on_step_end=_step_end(pipe, scale, callback, clock),
            callback_on_step_end_tensor_inputs=list(dict.fromkeys([*tensor_inputs, *(["latents"] if clock else [])])),
        ).frames


def _step_end(
    pipe: WMPipeline, scale: LiveScale, callback: StepCallback | None, clock: DualClock | None
) -> Callable[[Any, int, int, dict], dict]:
    """What runs after each step: the clocks, then the caller's callback on `pipe`; what it sets there acts on the
    stock pipeline that runs."""

    def step_end(stock: Any, i: int, t: int, tensors: dict) -> dict:
        found = {}
        if clock is not None:
            tensors["latents"] = found["latents"] = clock.after_step(i, tensors["latents"])
        pipe._guidance_scale = before = float(stock.guidance_scale)
        found |= callback(pipe, i, t, tensors) if callback is not None else {}
        if pipe._guidance_scale != before:
            scale.value = pipe._guidance_scale
            stock._guidance_scale = scale
        stock._interrupt = pipe._interrupt
        return found

    return step_end
