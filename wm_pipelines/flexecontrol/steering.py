"""One sampling run under conditions: from the step number to the UNet's residuals and the phrases' regions."""

from collections.abc import Sequence
from typing import Any

import torch

from wm_pipelines.flexecontrol import windows
from wm_pipelines.flexecontrol.attention import PhraseAttention
from wm_pipelines.flexecontrol.binding import Binding, stack_regions
from wm_pipelines.flexecontrol.condition import PreparedCondition
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.text.prompts import token_index


class Steering:
    """Keeps what the active set of conditions implies, and computes it anew only when the set changes.

    Args:
        rows: the prepared conditions of each prompt; one and the same list object where prompts share them.
        bindings: the phrases of each prompt.
        state: the attention's state, or None if no phrase is bound or recorded.
        pictures: prompts times pictures per prompt; pictures of one prompt stand together.
        size: height and width in pixels.
        scale: factor on all residuals.
        normalise_overlap: divide by the number of regions of one type that meet at a pixel.
        device: where the adapter runs.
    """

    def __init__(
        self,
        control: FlexEControlModel,
        rows: Sequence[list[PreparedCondition]],
        bindings: Sequence[Binding],
        state: PhraseAttention | None,
        pictures: int,
        size: tuple[int, int],
        scale: float,
        normalise_overlap: bool,
        device: torch.device,
    ) -> None:
        self.control, self.rows, self.bindings, self.state = control, rows, bindings, state
        self.pictures, self.size, self.scale, self.device = pictures, size, scale, device
        self.normalise_overlap = normalise_overlap
        # Prompts that share their conditions share one row of features.
        self.distinct = rows[:1] if all(row is rows[0] for row in rows) else rows
        self.history: list[windows.Active] = []
        self._active: windows.Active | None = None
        self._features: list[torch.Tensor] = []
        self._strengths: torch.Tensor | None = None

    def advance(self, step: int, steps: int) -> None:
        """Enter a step: recompute features, type weights and regions if the active set is a new one."""
        active = windows.active_set(self.rows, step, steps)
        self.history.append(active)
        if active == self._active:
            return
        self._active = active
        flags = active[: len(self.distinct)]
        self._features = []
        self._strengths = windows.type_strengths(self.distinct, flags, self.control.config.types)
        if self.scale != 0 and bool(self._strengths.any()):
            slots = windows.build_slots(self.distinct, flags, self.device, self.control.dtype)
            features = self.control.condition_features(slots, normalise_overlap=self.normalise_overlap)
            self._features = [self._per_picture(feature) for feature in features]
        if self.state is not None and self.state.bind:
            self._hold_phrases(active)

    def residuals(self, sample: torch.Tensor, timestep: torch.Tensor, prompt_embeds: torch.Tensor) -> dict[str, Any]:
        """What the adapter adds to the UNet at this step: its keyword arguments, none if no condition is active.

        Exactly zero for the pictures none of whose conditions is active.

        Args:
            sample: `(pictures, C, h, w)`, or twice that with the unconditional half first.
        """
        if not self._features:
            return {}
        copies = len(sample) // self.pictures
        strengths = self._per_picture(self._strengths)
        if len(strengths) > 1:
            strengths = strengths.repeat(copies, 1)  # (N, types)
        if self.control.config.fast == "per_type":
            self.control.set_type_weights(strengths if len(strengths) > 1 else strengths[0])
        down, mid = self.control(
            sample, timestep, prompt_embeds, self._features, conditioning_scale=self.scale, return_dict=False
        )
        acts = strengths.any(dim=1)
        if not bool(acts.all()):
            keep = acts.to(sample)[:, None, None, None]
            down, mid = tuple(residual * keep for residual in down), mid * keep
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    def steps_of(self, prompt: int, condition: int) -> list[int]:
        """The steps at which one condition of one prompt was active."""
        return [step for step, active in enumerate(self.history) if active[prompt][condition]]

    def _per_picture(self, values: torch.Tensor) -> torch.Tensor:
        """Rows of prompts -> rows of pictures; a single row stays single and broadcasts."""
        if len(self.distinct) == 1:
            return values
        return values.repeat_interleave(self.pictures // len(self.distinct), dim=0)

    def _hold_phrases(self, active: windows.Active) -> None:
        held = [b.regions(row, flags) for b, row, flags in zip(self.bindings, self.rows, active, strict=True)]
        places, which = stack_regions(held, max(len(b.phrases) for b in self.bindings), self.size)
        repeat = self.pictures // len(self.bindings)
        self.state.hold(
            places.repeat_interleave(repeat, dim=0).to(self.device),
            which.repeat_interleave(repeat, dim=0).to(self.device),
        )


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
    """
    bind = bind and any(b.fixed or any(owner is not None for owner in b.owners) for b in bindings)
    if not any(b.phrases for b in bindings) or not (bind or record_stride):
        return None
    index = token_index([b.phrases for b in bindings], text_length).to(device)
    index = index.repeat_interleave(num_images_per_prompt, dim=0)
    return PhraseAttention(index, regions=None, bind=bind, record_stride=record_stride, latent_hw=latent_size)
