"""Applies a `MotionIntensityModel` to a denoiser for the length of a `with` block, by hooks; nothing else changes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from wm_pipelines.mojito.bases.geometry import grid_of
from wm_pipelines.mojito.guidance.steering import DenoiserCall
from wm_pipelines.mojito.modeling import POSITIONS, MotionIntensityModel, check_levels, position_terms


@contextmanager
def applied(
    model: MotionIntensityModel,
    denoiser: nn.Module,
    levels: Sequence[float | None],
    gradient: bool = False,
    factor: Callable[[Any], float] | None = None,
) -> Iterator[None]:
    """Inside the block every call of `denoiser` has the levels' motion.

    A call's batch of B clips takes the levels over and over: with classifier-free guidance the rows [unconditional...,
    conditional...] get the same ones.

    Args:
        levels: one per clip, in [0, 10] or None.
        gradient: keep the graph to the model's weights (training).
        factor: timestep of a call -> what its levels are multiplied by, from 0 to 1; None: 1 in every call.

    Raises:
        ValueError: a level out of range, a place that the denoiser doesn't have, an empty list; inside the block, a
            batch that the levels do not divide.
    """
    check_levels(levels)
    if not levels:
        raise ValueError("levels is empty; one level for each clip")
    modules = dict(denoiser.named_modules())
    for name, width in zip(model.config.targets, model.config.widths, strict=False):
        if name not in modules:
            raise ValueError(f"the intensity model changes {name!r}, which {type(denoiser).__name__} doesn't have")
        have = getattr(modules[name], "normalized_shape", (width,))[0]
        if have != width:
            raise ValueError(f"the intensity model has {width} channels for {name!r}, the denoiser {have}")
    call = _Call(model, list(levels), gradient, factor)
    handles = [denoiser.register_forward_pre_hook(call.before, with_kwargs=True)]
    if model.config.inject != "text":
        for name in model.config.targets:
            handles.append(modules[name].register_forward_hook(call.change(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Call:
    """The embedding of the call of the denoiser that is under way."""

    def __init__(
        self,
        model: MotionIntensityModel,
        levels: list[float | None],
        gradient: bool,
        factor: Callable[[Any], float] | None,
    ):
        self.model, self.levels, self.gradient, self.factor = model, levels, gradient, factor
        self.rows, self.size = 0, (0, 0)
        self.parts: dict[str, torch.Tensor] = {}

    def before(self, denoiser: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        call = DenoiserCall(args, kwargs)
        sample = call.input
        self.rows, self.size = len(sample), sample.shape[-2:]
        if self.rows % len(self.levels):
            raise ValueError(f"{len(self.levels)} levels do not divide a batch of {self.rows} clips")
        levels = self.levels * (self.rows // len(self.levels))
        if self.factor is not None:
            by = self.factor(call.timestep)
            levels = [None if level is None else by * level for level in levels]
        at = 2 if len(args) > 2 else "encoder_hidden_states"
        context = args[2] if at == 2 else kwargs.get(at)
        text = None
        if self.model.config.text_dim:
            # AnimateDiff repeats the context for each frame, the frames of a clip together
            text = context[:: len(context) // self.rows, -1]
        with torch.set_grad_enabled(self.gradient and torch.is_grad_enabled()):
            e = self.model(levels, text).to(sample.dtype)
        if self.model.config.inject == "text":
            context = self._add_to_context(context, e)
            if at == 2:
                args = (*args[:2], context, *args[3:])
            else:
                kwargs = {**kwargs, at: context}
        else:
            each = {"timestep": 1, "temporal": 2 + POSITIONS * self.model.config.positions}[self.model.config.inject]
            pieces = e.split([each * width for width in self.model.config.widths], dim=1)
            self.parts = dict(zip(self.model.config.targets, pieces, strict=True))
        return args, kwargs

    def _add_to_context(self, context: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        tokens = self.model.config.tokens
        added = e.unflatten(1, (tokens, -1)).repeat_interleave(len(context) // self.rows, dim=0)
        return torch.cat([context[:, :-tokens], context[:, -tokens:] + added.to(context.dtype)], dim=1)

    def change(self, name: str):
        """The forward hook of the module `name`."""

        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            e = self.parts[name].to(output.dtype)
            if self.model.config.inject == "timestep":
                return output + e.repeat_interleave(len(output) // self.rows, dim=0)
            vectors = e.unflatten(1, (-1, module.normalized_shape[0]))  # (B, 2 or 7, C)
            scale, shift = vectors[:, :2, None, None].unbind(1)  # (B, 1, 1, C) each
            clips = output.unflatten(0, (self.rows, -1))  # (B, places, F, C)
            changed = clips * (1 + scale) + shift
            if self.model.config.positions:
                terms = position_terms(clips.shape[2], *grid_of(clips.shape[1], *self.size), output.device)
                changed = changed + torch.einsum("pfk,bkc->bpfc", terms.to(output.dtype), vectors[:, 2:])
            return changed.flatten(0, 1)

        return hook
