"""Directional motion control in a stock pipeline: hooks that give its first steps a moved latent.

A `MotionGuide` stands between a stock pipeline's loop, its denoiser and its scheduler. Before a denoiser call of a
guided step it runs the conditional branch up to the last tapped layer, has `update.updated` move the latent by what
that measured, and gives the moved latent to the denoiser and, with the step, to the scheduler. (Mojito, arXiv
2412.08948, as we read it; the energy and the constants are those of arXiv 2304.03373.)
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from wm_pipelines.mojito.bases.families import Family
from wm_pipelines.mojito.bases.latents import LatentForm
from wm_pipelines.mojito.guidance.attention import motion_attention_processors
from wm_pipelines.mojito.guidance.noise_variance import input_scale, latent_noise_variance
from wm_pipelines.mojito.guidance.settings import GuidanceSettings
from wm_pipelines.mojito.guidance.state import MotionState
from wm_pipelines.mojito.guidance.temporal import temporal_processors
from wm_pipelines.mojito.guidance.update import Measured, measured, updated


class _Exit(Exception):
    """Ends a forward pass after the last tapped layer."""


@dataclasses.dataclass(frozen=True)
class DenoiserCall:
    """The arguments of one call of a denoiser, whatever it names its latents; `form` says what else is in them."""

    args: tuple
    kwargs: dict[str, Any]
    form: LatentForm | None = None

    @property
    def input(self) -> torch.Tensor:
        """What the denoiser is given: the latents, and behind their channels a picture's."""
        return self.args[0] if self.args else self.kwargs[self._name]

    @property
    def latents(self) -> torch.Tensor:
        return self.input if self.form is None else self.form.own(self.input)

    @property
    def timestep(self) -> Any:
        """Schedulers know one for all; the cells of a picture's own frames say 0."""
        t = self.args[1] if len(self.args) > 1 else self.kwargs["timestep"]
        return t.max() if isinstance(t, torch.Tensor) else t

    @property
    def _name(self) -> str:
        return "hidden_states" if "hidden_states" in self.kwargs else "sample"

    def with_latents(self, latents: torch.Tensor) -> "DenoiserCall":
        return self._with_input(latents if self.form is None else self.form.beside(self.input, latents))

    def _with_input(self, value: torch.Tensor) -> "DenoiserCall":
        if self.args:
            return dataclasses.replace(self, args=(value, *self.args[1:]))
        return dataclasses.replace(self, kwargs={**self.kwargs, self._name: value})

    def of_rows(self, rows: slice, names: Iterable[str]) -> "DenoiserCall":
        """The call with these rows of its latents, and of the inputs `names` that have one row a video, or one for
        each of its frames."""
        total = len(self.latents)

        def chosen(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or value.ndim == 0 or len(value) % total:
                return value
            each = len(value) // total
            return value[rows.start * each : rows.stop * each]

        kwargs = {k: chosen(v) if k in names else v for k, v in self.kwargs.items()}
        return dataclasses.replace(self, kwargs=kwargs)._with_input(self.input[rows])


class MotionGuide:
    """Steers one call of a stock pipeline; read what it measured afterwards.

    Attributes:
        energies: per video, per guided step, the energy a frame of each iteration.
        updates: per video, how often its latent was moved.
        in_box: per video, (O, F) share of each object's attention inside its box at the last guided forward pass.
        unseen: per video, objects whose tokens no tapped layer attends to.
        forwards: partial forward passes taken.
        move: (V, ...) that the running step's latents are moved by, unscaled; None where they are not.
    """

    def __init__(
        self,
        family: Family,
        denoiser: nn.Module,
        scheduler: Any,
        state: MotionState,
        settings: GuidanceSettings,
        form: LatentForm | None = None,
    ) -> None:
        self.family, self.denoiser, self.scheduler, self.form = family, denoiser, scheduler, form
        self.state, self.settings = state, settings
        self.energies: list[list[list[float]]] = [[] for _ in state.slots]
        self.updates = [0] * len(state.slots)
        self.in_box: list[torch.Tensor | None] = [None] * len(state.slots)
        self.unseen: list[list[int]] = [[] for _ in state.slots]
        self.forwards = 0
        self.step = 0
        self.move: torch.Tensor | None = None
        self._calls = 0  # denoiser calls of the running step
        self._within = False  # a pass of the guide's own

    @contextlib.contextmanager
    def active(self) -> Iterator["MotionGuide"]:
        """Steer every call of the denoiser in the block; everything is put back on exit."""
        step = self.scheduler.step
        signature = inspect.signature(step)

        @functools.wraps(step)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            if self.move is not None:
                sample = bound.arguments["sample"]
                move = self.move if self.form is None else self.form.stepped(self.move, sample)
                bound.arguments["sample"] = sample + move.to(sample)
                if getattr(self.scheduler, "last_sample", None) is not None:
                    self.scheduler.last_sample = None  # UniPC would correct the latent from where it came, unmoved
            self.move, self._calls = None, 0
            self.step = (self.step + 1) % len(self.scheduler.timesteps)  # FreeInit samples in several rounds
            return step(*bound.args, **bound.kwargs)

        try:
            self.scheduler.step = stepped
            weight = self.settings.temporal_weight
            with (
                motion_attention_processors(self.family, self.denoiser, self.state),
                temporal_processors(self.family, self.denoiser, self.state, weight),
                self._in_front(),
            ):
                yield self
        finally:
            del self.scheduler.step

    @contextlib.contextmanager
    def _in_front(self) -> Iterator[None]:
        """In the block `_before` sees each call of the denoiser first. Where `denoiser.compile()` was called, it stays
        outside of what is compiled, and the guide's own passes, which end early, run as they are."""
        compiled = self.denoiser._compiled_call_impl
        if compiled is None:
            hook = self.denoiser.register_forward_pre_hook(self._before, with_kwargs=True)
            try:
                yield
            finally:
                hook.remove()
            return

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._within:
                return self.denoiser._call_impl(*args, **kwargs)
            changed = self._before(self.denoiser, args, kwargs)
            args, kwargs = (args, kwargs) if changed is None else changed
            return compiled(*args, **kwargs)

        self.denoiser._compiled_call_impl = call
        try:
            yield
        finally:
            self.denoiser._compiled_call_impl = compiled

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        """The denoiser's hook: moves the latent where a guided step begins, and says what the layers shall do."""
        if self._within:
            return None
        call, state = DenoiserCall(args, kwargs, self.form), self.state
        latents, steps, count = call.latents, len(self.scheduler.timesteps), len(state.slots)
        conditional = self._conditional(len(latents))
        state.frames, state.height, state.width = self.family.grid(latents, kwargs, module)
        first_call = self._calls == 0
        self._calls += 1
        self._set_bias(self.step < self.settings.biased(steps))
        scale = input_scale(self.scheduler, call.timestep)
        if first_call and self.step < self.settings.guided(steps) and begins_step(self.scheduler):
            self._steer(call, conditional, scale)
        # where guidance is two calls, the first is the conditional one
        rows = range(len(latents))[conditional] if first_call or self.family.one_call else ()
        state.rows = [row % count if row in rows else None for row in range(len(latents))]
        if self.move is None:
            return None
        # every call of the step, unconditional rows too: both halves of the guidance must speak of one latent
        change = self.move * scale
        moved = latents + change.repeat(len(latents) // count, *[1] * (change.ndim - 1)).to(latents)
        call = call.with_latents(moved)
        return call.args, call.kwargs

    def _conditional(self, rows: int) -> slice:
        """The conditional rows of a call: the second half where guidance stacks [unconditional, conditional]."""
        count = len(self.state.slots)
        if rows == count:
            return slice(0, count)
        if rows == 2 * count and self.family.one_call:
            return slice(count, rows)
        raise ValueError(f"the denoiser is called with {rows} rows for {count} videos")

    def _set_bias(self, acts: bool) -> None:
        state, settings = self.state, self.settings
        state.bias_in, state.bias_out = (settings.bias_in, settings.bias_out) if acts else (0.0, 0.0)
        state.edit = settings.bias_style if acts and settings.bias_style != "logit" else None

    def _steer(self, call: DenoiserCall, conditional: slice, scale: float) -> None:
        """Sets `move` for the step that begins with `call`, and keeps what was measured."""
        state, dtype = self.state, call.latents.dtype
        rate = self.settings.eta * latent_noise_variance(self.scheduler, call.timestep)
        call = call.of_rows(conditional, self.family.per_video)
        # in the scheduler's scale, which is the one that it will step from
        start = call.latents.detach().float() / scale
        state.rows = list(range(len(state.slots)))

        def measure(z: torch.Tensor) -> list[Measured]:
            state.sums.clear()
            if self.form is not None:
                z = self.form.holding(z, start)
            run_to_last_tap(self.family, self.denoiser, state.tapped, call.with_latents((z * scale).to(dtype)))
            return [
                measured([layer[v] for layer in state.sums.values()], slots, self.settings.smooth_weight)
                for v, slots in enumerate(state.slots)
            ]

        self._within = state.measuring = True
        try:
            with _frozen(self.denoiser):
                found = updated(start, measure, rate, self.settings)
        finally:
            self._within = state.measuring = False
            state.sums.clear()
        self.move = None if torch.equal(found.latents, start) else found.latents - start
        self.forwards += found.measurements
        self.updates = [n + m for n, m in zip(self.updates, found.moves, strict=True)]
        for v, last in enumerate(found.last):
            self.energies[v].append(found.energies[v])
            self.in_box[v], self.unseen[v] = last.in_box, last.unseen


def run_to_last_tap(family: Family, denoiser: nn.Module, tapped: Iterable[str], call: DenoiserCall) -> None:
    """The denoiser's pass up to the last of the layers `tapped`, and no further."""
    with ended_after(family, denoiser, tapped):
        ended_pass(denoiser, call)


@contextlib.contextmanager
def ended_after(family: Family, denoiser: nn.Module, tapped: Iterable[str]) -> Iterator[None]:
    """In the block each pass of the denoiser ends after the last of the layers `tapped`; `ended_pass` runs one."""
    following = family.after(denoiser, sorted(tapped))
    hook = following.register_forward_pre_hook(_leave) if following is not None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def ended_pass(denoiser: nn.Module, call: DenoiserCall) -> None:
    """A pass that `ended_after` ends."""
    try:
        denoiser(*call.args, **call.kwargs)
    except _Exit:
        pass


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


@contextlib.contextmanager
def _frozen(denoiser: nn.Module) -> Iterator[None]:
    """No weight takes a gradient in the block.

    Not for the whole call: a linear layer's rounding depends on whether its weight could take one.
    """
    free = [p for p in denoiser.parameters() if p.requires_grad]
    try:
        for parameter in free:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


def _leave(module: nn.Module, args: tuple) -> None:
    raise _Exit
