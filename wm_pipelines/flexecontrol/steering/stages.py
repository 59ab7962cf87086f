"""What acts at a step: features, weights and regions of the active conditions, and what the adapter makes of them.

A run is a row of stages. A stage is computed when the strengths of the conditions change, and is not changed after.
The noise that the models predict is a function of the latents and the stage alone (`residuals`, `predict_noise`); what
has to be written into the models for it, the phrases' regions and the mixture of condition types, is written by the
hooks that stand around (`hooks`).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.steering import windows
from wm_pipelines.flexecontrol.steering.attention import PhraseAttention, phrase_attention
from wm_pipelines.flexecontrol.steering.binding import Binding, stack_regions
from wm_pipelines.flexecontrol.steering.plan import Plan
from wm_pipelines.text.prompts import token_index


@dataclass(frozen=True)
class Frame:
    """What stays the same through one sampling run.

    Args:
        pictures: prompts times pictures per prompt; pictures of one prompt stand together.
        size: height and width in pixels.
        scale: factor on all residuals.
        normalise_overlap: divide by the number of regions of one type that meet at a pixel.
        device: where the adapter runs.
    """

    pictures: int
    size: tuple[int, int]
    scale: float
    normalise_overlap: bool
    device: torch.device


@dataclass(frozen=True, eq=False)
class Stage:
    """What the strengths of the conditions at a step imply.

    Args:
        active: the strengths.
        features: of the adapter, finest first, one row for all pictures or one per picture; empty if nothing acts.
        strengths: `(1 or pictures, types)` float32 on the CPU, summed strength of each type.
        keep: bool `(1 or pictures,)`, the pictures that any condition acts on; None: all.
        regions: `(pictures, phrases, H, W)` where each phrase may act, and `held` `(pictures, phrases)` bool, which
            are kept there; None if phrases are not bound.
    """

    active: windows.Active
    features: tuple[torch.Tensor, ...]
    strengths: torch.Tensor
    keep: torch.Tensor | None
    regions: torch.Tensor | None = None
    held: torch.Tensor | None = None


class Stages:
    """The stages of a run, of which the current one is kept.

    Args:
        bind: whether phrases are kept to their places.
    """

    def __init__(self, control: FlexEControlModel, plan: Plan, frame: Frame, bind: bool) -> None:
        self.control, self.plan, self.frame, self.bind = control, plan, frame, bind
        # Prompts that share their conditions share one row of features.
        self.rows = plan.rows[:1] if all(row is plan.rows[0] for row in plan.rows) else plan.rows
        self._current: Stage | None = None

    def at(self, step: int, steps: int) -> Stage:
        """The stage of `step` (0-based) of `steps`; the same object while the strengths are the same."""
        active = windows.active_set(self.plan.rows, step, steps)
        if self._current is None or self._current.active != active:
            self._current = self._make(active)
        return self._current

    def _make(self, active: windows.Active) -> Stage:
        frame, control = self.frame, self.control
        flags = active[: len(self.rows)]
        strengths = windows.type_strengths(self.rows, flags, control.config.types)
        features: tuple[torch.Tensor, ...] = ()
        if frame.scale != 0 and bool(strengths.any()):
            slots = windows.slots_of_rows(self.rows, flags, frame.device, control.dtype)
            made = control.condition_features(slots, normalise_overlap=frame.normalise_overlap)
            features = tuple(self._per_picture(feature) for feature in made)
        strengths = self._per_picture(strengths)
        acts = strengths.any(dim=1)
        regions, held = self._places(active) if self.bind else (None, None)
        return Stage(active, features, strengths, None if bool(acts.all()) else acts, regions, held)

    def _per_picture(self, values: torch.Tensor) -> torch.Tensor:
        """Rows of prompts -> rows of pictures; a single row stays single and broadcasts."""
        if len(self.rows) == 1:
            return values
        return values.repeat_interleave(self.frame.pictures // len(self.rows), dim=0)

    def _places(self, active: windows.Active) -> tuple[torch.Tensor, torch.Tensor]:
        bindings = self.plan.bindings
        places = [b.regions(row, flags) for b, row, flags in zip(bindings, self.plan.rows, active, strict=True)]
        regions, held = stack_regions(places, max(len(b.phrases) for b in bindings), self.frame.size)
        repeat = self.frame.pictures // len(bindings)
        return tuple(x.repeat_interleave(repeat, dim=0).to(self.frame.device) for x in (regions, held))


def residuals(
    control: FlexEControlModel,
    stage: Stage,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    prompt_embeds: torch.Tensor,
    scale: float,
) -> dict[str, Any]:
    """What the adapter adds to the UNet at this step: its keyword arguments, none if no condition is active.

    Exactly zero for the pictures none of whose conditions is active.

    Args:
        sample: `(pictures, C, h, w)`, or twice that with the unconditional half first.
        scale: factor on all residuals.
    """
    if not stage.features:
        return {}
    down, mid = control(sample, timestep, prompt_embeds, stage.features, conditioning_scale=scale, return_dict=False)
    if stage.keep is not None:
        keep = stage.keep.to(sample).repeat(len(sample) // len(stage.keep))[:, None, None, None]
        down, mid = tuple(residual * keep for residual in down), mid * keep
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


@contextlib.contextmanager
def hooks(
    unet: nn.Module, control: FlexEControlModel, state: PhraseAttention | None
) -> Iterator[Callable[[Stage, int], None]]:
    """Phrase processors in both models, if there are phrases; on exit everything is as it was, also after an error.

    Yields `enter(stage, copies)`, to be called before each step with 2 copies of the pictures under guidance, else 1:
    it writes the stage's regions and its mixture of types where the models read them.
    """
    with contextlib.ExitStack() as stack:
        if state is not None:
            stack.enter_context(phrase_attention({"unet": unet, "control": control}, state))
        stack.callback(control.set_type_weights, None)
        entered: list[Stage] = []

        def enter(stage: Stage, copies: int) -> None:
            if stage.features and control.config.fast == "per_type":
                strengths = stage.strengths
                control.set_type_weights(strengths.repeat(copies, 1) if len(strengths) > 1 else strengths[0])
            if stage.regions is not None and entered[-1:] != [stage]:
                state.hold(stage.regions, stage.held)
                entered[:] = [stage]

        yield enter


def attention_state(
    bindings: Sequence[Binding],
    num_images_per_prompt: int,
    bind: bool,
    record_stride: int | None,
    latent_size: tuple[int, int],
    text_length: int,
    device: torch.device,
) -> PhraseAttention | None:
    """State of the phrase attention, one row per picture; None if no phrase is to be bound or recorded.

    Args:
        bind: whether phrases with a place are kept to it.
        record_stride: maps are recorded where the grid is the latent divided by this; None: nowhere.
        text_length: tokens of the text, with the encodings of phrases that are told apart.
    """
    bind = bind and any(b.fixed or any(owner is not None for owner in b.owners) for b in bindings)
    if not any(b.phrases for b in bindings) or not (bind or record_stride):
        return None
    own = blocks(bindings)
    index = token_index([b.phrases for b in bindings], text_length // (1 + int(own.max()))).to(device)
    index, own = (x.repeat_interleave(num_images_per_prompt, dim=0) for x in (index, own.to(device)))
    return PhraseAttention(
        index, regions=None, bind=bind, record_stride=record_stride, latent_hw=latent_size, block=own
    )


def blocks(bindings: Sequence[Binding]) -> torch.Tensor:
    """Which encoding of its prompt each phrase is read in, int (B, P): 0, the prompt's own, or one of the phrase's."""
    found = torch.zeros(len(bindings), max(len(b.phrases) for b in bindings), dtype=torch.long)
    for b, binding in enumerate(bindings):
        for k, p in enumerate(binding.told_apart(), 1):
            found[b, p] = k
    return found
