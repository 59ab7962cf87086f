"""Directional Motion Control: the latent of the first steps is moved until the phrases attend to their boxes.

A `MotionGuide` stands between a stock pipeline's loop, its denoiser and its scheduler. Before a denoiser call of a
guided step it runs the conditional branch up to the last tapped layer, takes the gradient of the energy with respect
to the latent, and moves the latent: z <- z - eta * c_n**2 * gradient (Mojito, arXiv 2412.08948, as we read it; the
energy and the constants are those of arXiv 2304.03373). The same change is given to the scheduler with the step.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from wm_pipelines.mojito import energy
from wm_pipelines.mojito.attention import motion_attention_processors
from wm_pipelines.mojito.families import Family
from wm_pipelines.mojito.noise_variance import input_scale, latent_noise_variance
from wm_pipelines.mojito.state import MotionState


@dataclasses.dataclass(frozen=True)
class Settings:
    """`eta`: step size. `iterations`: at most, a guided step; 0 only measures. `fraction`: of the steps, from the
    first, that are guided. `threshold`: energy a frame below which a step is left. `smooth_weight`: of the smoothness
    term. `bias_fraction`: of the steps, from the first, in which the attention is biased. `bias_style`: how."""

    eta: float = 30.0
    iterations: int = 5
    fraction: float = 0.2
    threshold: float = 0.2
    smooth_weight: float = 0.0
    bias_in: float = 0.0
    bias_out: float = 0.0
    bias_fraction: float = 0.1
    bias_style: str = "logit"

    def guided(self, steps: int) -> int:
        return _share(self.fraction, steps)

    def biased(self, steps: int) -> int:
        acts = self.bias_in or self.bias_out or self.bias_style != "logit"
        return _share(self.bias_fraction, steps) if acts else 0


def _share(fraction: float, steps: int) -> int:
    return 0 if fraction == 0 else max(1, round(fraction * steps))


class _Exit(Exception):
    """Ends a forward pass after the last tapped layer."""


class MotionGuide:
    """Steers one call; read `energies` and `in_box` afterwards.

    Attributes:
        energies: per video, per guided step, the energy a frame of each iteration.
        updates: per video, how often its latent was moved.
        in_box: per video, (O, F) share of each object's attention inside its box at the last guided forward pass.
        unseen: per video, objects whose tokens no tapped layer attends to.
        forwards: partial forward passes taken.
    """

    def __init__(
        self,
        family: Family,
        denoiser: nn.Module,
        scheduler: Any,
        state: MotionState,
        settings: Settings,
    ) -> None:
        self.family, self.denoiser, self.scheduler = family, denoiser, scheduler
        self.state, self.settings = state, settings
        self.energies: list[list[list[float]]] = [[] for _ in state.guides]
        self.updates = [0] * len(state.guides)
        self.in_box: list[torch.Tensor | None] = [None] * len(state.guides)
        self.unseen: list[list[int]] = [[] for _ in state.guides]
        self.forwards = 0
        self.step = 0
        self._calls = 0  # denoiser calls of the running step
        self._delta: torch.Tensor | None = None
        self._within = False
        self._stopped = [False] * len(state.guides)  # in the running step, as below the threshold

    @contextlib.contextmanager
    def active(self) -> Iterator["MotionGuide"]:
        """Steer every call of the denoiser in the block; everything is put back on exit."""
        hook = self.denoiser.register_forward_pre_hook(self._before, with_kwargs=True)
        step = self.scheduler.step
        signature = inspect.signature(step)

        @functools.wraps(step)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            if self._delta is not None:
                sample = bound.arguments["sample"]
                bound.arguments["sample"] = sample + self._delta.to(sample)
                if getattr(self.scheduler, "last_sample", None) is not None:
                    self.scheduler.last_sample = None  # UniPC would correct the latent from where it came, unmoved
            self._delta, self._calls = None, 0
            self.step += 1
            return step(*bound.args, **bound.kwargs)

        try:
            self.scheduler.step = stepped
            with motion_attention_processors(self.family, self.denoiser, self.state):
                yield self
        finally:
            hook.remove()
            del self.scheduler.step

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        if self._within:
            return None
        state, steps = self.state, len(self.scheduler.timesteps)
        latents = _latents(args, kwargs)
        t = args[1] if len(args) > 1 else kwargs["timestep"]
        t = t.flatten()[0] if isinstance(t, torch.Tensor) else t
        conditional = self._conditional(len(latents))
        state.frames, state.height, state.width = self.family.grid(latents, kwargs, module)
        first_call = self._calls == 0
        self._calls += 1
        biased = self.step < self.settings.biased(steps)
        state.bias_in, state.bias_out = (self.settings.bias_in, self.settings.bias_out) if biased else (0.0, 0.0)
        state.edit = self.settings.bias_style if biased and self.settings.bias_style != "logit" else None
        scale = input_scale(self.scheduler, t)
        if first_call and self.step < self.settings.guided(steps) and begins_step(self.scheduler):
            self._guide(latents[conditional], conditional, len(latents), args, kwargs, t, scale)
        count = len(state.guides)
        rows = range(len(latents))[conditional] if first_call or self.family.one_call else ()
        state.videos = [row % count if row in rows else None for row in range(len(latents))]
        if self._delta is None:
            return None
        change = self._delta * scale
        moved = latents + change.repeat(len(latents) // count, *[1] * (change.ndim - 1)).to(latents)
        return _with_latents(args, kwargs, moved)

    def _conditional(self, rows: int) -> slice:
        """The conditional rows of a call: the second half where guidance stacks [unconditional, conditional]."""
        count = len(self.state.guides)
        if rows == count:
            return slice(0, count)
        if rows == 2 * count and self.family.one_call:
            return slice(count, rows)
        raise ValueError(f"the denoiser is called with {rows} rows for {count} videos")

    def _guide(
        self, latents: torch.Tensor, conditional: slice, rows: int, args: tuple, kwargs: dict, t: Any, scale: float
    ) -> None:
        """Moves the latents of one step; what they moved by is kept for the step."""
        settings, state = self.settings, self.state
        start = latents.detach().float() / scale
        z = start
        rate = settings.eta * latent_noise_variance(self.scheduler, t)
        kwargs = {k: self._rows(v, conditional, rows) if k in self.family.rows else v for k, v in kwargs.items()}
        state.videos = list(range(len(state.guides)))
        for found in self.energies:
            found.append([])
        self._stopped = [False] * len(state.guides)
        # only here: a linear layer's rounding depends on whether its weight could take a gradient
        frozen = [p for p in self.denoiser.parameters() if p.requires_grad]
        self._within = state.measuring = True
        try:
            for parameter in frozen:
                parameter.requires_grad_(False)
            for _ in range(max(settings.iterations, 1)):
                with torch.enable_grad():
                    z = z.detach().requires_grad_(settings.iterations > 0)
                    loss, moving = self._measure(z * scale, latents.dtype, args, kwargs)
                    if settings.iterations == 0 or not moving.any():
                        break
                    (gradient,) = torch.autograd.grad(loss, z)
                self.updates = [n + int(m) for n, m in zip(self.updates, moving, strict=True)]
                moving = moving.to(z.device).view(-1, *[1] * (z.ndim - 1))
                z = z.detach() - rate * gradient * moving
        finally:
            self._within = state.measuring = False
            state.sums.clear()
            for parameter in frozen:
                parameter.requires_grad_(True)
        z = z.detach()
        self._delta = None if z is start or torch.equal(z, start) else z - start

    def _measure(
        self, inputs: torch.Tensor, dtype: torch.dtype, args: tuple, kwargs: dict
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One partial forward pass: the loss of the videos that are above the threshold, and which these are."""
        state, settings = self.state, self.settings
        state.sums.clear()
        args, kwargs = _with_latents(args, kwargs, inputs.to(dtype))
        self.forwards += 1
        self._run(args, kwargs)
        losses, moving = [], []
        for v, guide in enumerate(state.guides):
            sums = [layer[v] for layer in state.sums.values()]
            energies = energy.frame_energies(sums, guide)
            loss = energies.sum()
            if settings.smooth_weight:
                loss = loss + settings.smooth_weight * energy.smoothness(sums, guide)
            level = float(energies.detach().mean())
            if not self._stopped[v]:
                self.energies[v][-1].append(level)
                self.in_box[v] = energy.in_box(sums, guide).detach().cpu()
                self.unseen[v] = energy.unseen(sums, guide)
                self._stopped[v] = level < settings.threshold
            losses.append(loss)
            moving.append(not self._stopped[v])
        return torch.stack([x for x, m in zip(losses, moving, strict=True) if m] or losses).sum(), torch.tensor(moving)

    def _run(self, args: tuple, kwargs: dict) -> None:
        """The denoiser up to the last tapped layer."""
        following = self.family.after(self.denoiser, sorted(self.state.tapped))
        hook = following.register_forward_pre_hook(_leave) if following is not None else None
        try:
            self.denoiser(*args, **kwargs)
        except _Exit:
            pass
        finally:
            if hook is not None:
                hook.remove()

    def _rows(self, value: Any, conditional: slice, rows: int) -> Any:
        """The conditional rows of an input that has one, or one for each frame, a video."""
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or len(value) % rows:
            return value
        each = len(value) // rows
        return value[conditional.start * each : conditional.stop * each]


def begins_step(scheduler: Any) -> bool:
    """Whether the coming evaluation begins a step.

    Heun's and KDPM2's second one, and PNDM's further ones of a Runge-Kutta step, go on from the latent that the
    scheduler has kept, so a move of the one they are given would be lost.
    """
    if type(scheduler).__name__ == "PNDMScheduler":
        return (
            scheduler.counter % 4 == 0 if scheduler.counter < len(scheduler.prk_timesteps) else scheduler.counter != 1
        )
    return getattr(scheduler, "state_in_first_order", True)


def _leave(module: nn.Module, args: tuple) -> None:
    raise _Exit


def _latents(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"] if "hidden_states" in kwargs else kwargs["sample"]


def _with_latents(args: tuple, kwargs: dict[str, Any], latents: torch.Tensor) -> tuple[tuple, dict[str, Any]]:
    if args:
        return (latents, *args[1:]), kwargs
    name = "hidden_states" if "hidden_states" in kwargs else "sample"
    return args, {**kwargs, name: latents}
