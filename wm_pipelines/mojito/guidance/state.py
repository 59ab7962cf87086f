"""What the attention processors of one call share: whose tokens belong where, and what they measured."""

import dataclasses
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import torch

from wm_pipelines.mojito.bases.geometry import grid_of
from wm_pipelines.mojito.trajectories.objects import MotionObject
from wm_pipelines.text.prompts import Phrase, find_phrases, specials_around

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_SLOTS = 128
"""Slots of a video. Up to 16 the kernels of `motion_attention` take on a GPU; with more it runs in plain torch."""


@dataclasses.dataclass(frozen=True)
class Slots:
    """The slots of one video: a slot is one token of one object's phrase.

    Attributes:
        tokens, owners: (J,) of each slot, the text position and the index of its object.
        boxes: (O, F, 4) at latent frames, xyxy in [0, 1].
        weights: (O,).
        length: text tokens that are no padding.
    """

    tokens: torch.Tensor
    owners: torch.Tensor
    boxes: torch.Tensor
    weights: torch.Tensor
    length: int

    def to(self, device: torch.device) -> "Slots":
        moved = {name: getattr(self, name).to(device) for name in ("tokens", "owners", "boxes", "weights")}
        return dataclasses.replace(self, **moved)


@dataclasses.dataclass(frozen=True)
class TextRules:
    """How a base reads its prompts, and what of a text is guided beside the phrases.

    Attributes:
        tokenizer: reads a text after `convert`, `limit` tokens at most.
        trailing: so many text positions from the end of text on join every object, as TrailBlazer (arXiv 2401.00896)
            edits them. None: nobody asked; then it is `usual`, for a lone object and as far as there is room. Several
            objects would each pull the same positions into boxes of their own.
        padding: whether the denoiser sees what follows the end of text.
    """

    tokenizer: "PreTrainedTokenizerBase"
    convert: Callable[[str], str]
    limit: int
    trailing: int | None = None
    usual: int = 0
    padding: bool = True

    def __post_init__(self) -> None:
        if self.trailing is not None and (
            isinstance(self.trailing, bool) or not isinstance(self.trailing, Integral) or self.trailing < 0
        ):
            raise ValueError(f"trailing_tokens={self.trailing!r}; a whole number, 0 or more")


def find_slots(prompt: str, objects: Sequence[MotionObject], boxes: torch.Tensor, rules: TextRules) -> Slots:
    """Find the phrases of `objects` in the prompt; every token of theirs becomes a slot.

    Args:
        boxes: (O, F, 4) at latent frames.

    Raises:
        ValueError: a phrase that is absent, there more than once without a span or past the token limit, the same
            words for two objects, or more than `MOST_SLOTS` slots.
    """
    tokenizer, limit = rules.tokenizer, rules.limit
    phrases: list[Phrase] = []
    for i, item in enumerate(objects):
        (phrase,) = find_phrases(tokenizer, prompt, [(item.phrase, item.span)], rules.convert, limit)
        twin = next((k for k, other in enumerate(phrases) if other.span == phrase.span), None)
        if twin is not None:
            raise ValueError(f"objects[{i}] and objects[{twin}] have the same words of the prompt, {phrase.text!r}")
        phrases.append(phrase)
    _, after = specials_around(tokenizer)
    length = len(tokenizer(rules.convert(prompt)).input_ids)
    length = min(length, limit)
    end = length - after
    trailing = _trailing(rules, phrases, end, length)
    tokens, owners = [], []
    for i, phrase in enumerate(phrases):
        own = [*range(*phrase.tokens), *range(end, end + trailing)]
        tokens += own
        owners += [i] * len(own)
    if len(tokens) > MOST_SLOTS:
        raise ValueError(
            f"the objects have {len(tokens)} tokens, trailing ones included; at most {MOST_SLOTS} can be guided"
        )
    weights = torch.tensor([float(item.weight) for item in objects])
    return Slots(torch.tensor(tokens), torch.tensor(owners), boxes.float(), weights, length)


def _trailing(rules: TextRules, phrases: Sequence[Phrase], end: int, length: int) -> int:
    """How many positions from `end` on join every object of a text of `length` tokens."""
    asked, limit = rules.trailing, rules.limit
    if asked is None:
        if len(phrases) != 1:
            return 0
        first, last = phrases[0].tokens
        return max(0, min(rules.usual, (limit if rules.padding else length) - end, MOST_SLOTS - (last - first)))
    if asked and end + asked > limit:
        raise ValueError(f"trailing_tokens={asked}; the text leaves room for {limit - end} of {limit} tokens")
    if not rules.padding and end + asked > length:
        raise ValueError(
            f"trailing_tokens={asked}; LattePipeline drops what follows the {length} tokens of a single prompt: ask "
            "for fewer, or pass mask_feature=False"
        )
    return asked


class Sums(NamedTuple):
    """What one layer measured of one video, float32 (F, H, J) each: attention of each slot inside its box, in all, and
    weighted by the x and y of the cells."""

    inside: torch.Tensor
    total: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    cells: int


@dataclasses.dataclass
class MotionState:
    """What the layers of the running call read and write.

    Attributes:
        slots: one per video.
        frames, height, width: the finest token grid.
        tapped: names of the layers that are measured while `measuring`.
        rows: for each row of the running call, the index of its video, or None where it is unconditional.
        measuring: whether tapped layers write to `sums`.
        bias_in, bias_out: on the logits of a slot inside and outside its box; both 0 leaves the layers alone.
        edit: instead of the bias, an edit after the softmax; see `edits`.
        renormalise: measure over the tokens that are no padding.
        sums: of each tapped layer that ran, one per video.
    """

    slots: list[Slots]
    tapped: frozenset[str] = frozenset()
    frames: int = 0
    height: int = 0
    width: int = 0
    rows: list[int | None] = dataclasses.field(default_factory=list)
    measuring: bool = False
    bias_in: float = 0.0
    bias_out: float = 0.0
    edit: str | None = None
    renormalise: bool = False
    sums: dict[str, list[Sums]] = dataclasses.field(default_factory=dict)

    @property
    def biased(self) -> bool:
        return self.bias_in != 0 or self.bias_out != 0 or self.edit is not None

    def acts_on(self, name: str) -> bool:
        """Whether the layer must run here and not in its own processor."""
        if not any(video is not None for video in self.rows):
            return False
        return self.biased or (self.measuring and name in self.tapped)

    def grid(self, cells: int) -> tuple[int, int]:
        """Height and width of a layer with so many cells a frame: each downsampling halves a side, rounding up."""
        return grid_of(cells, self.height, self.width)
