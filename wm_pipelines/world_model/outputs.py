"""What a world model's pipelines give back."""

from dataclasses import dataclass

import PIL.Image
import torch
from diffusers.utils import BaseOutput


@dataclass
class WorldModelOutput(BaseOutput):
    """B sources, N candidates each, in the order in which they were drawn.

    images: the candidates of each source, or the chosen one alone where `return_candidates` is False. image_tokens:
    `(B, N, L)` int64, row by row; None for an editor without a dynamics model. scores: `(B, N)` of the verifier, NaN
    without one. selected: `(B,)` the best by score of those that are no near copy (of all where each is one).
    margins: `(B, N)` score minus that of the source itself; NaN where it is not known. kept: `(B, N)` no near copy.
    accepted: `(B,)` the chosen one is no near copy, and its margin, if known, is large enough. logprobs: `(B, N)` mean
    log-probability under the world model itself; NaN for an editor. change: `(B, N, h, w)` how far each place is from
    the source's.
    """

    images: list[list[PIL.Image.Image]] | list[torch.Tensor]
    image_tokens: torch.Tensor | None
    scores: torch.Tensor
    selected: torch.Tensor
    margins: torch.Tensor
    kept: torch.Tensor
    accepted: torch.Tensor
    logprobs: torch.Tensor
    change: torch.Tensor

    def chosen(self) -> list:
        """The chosen picture of each source."""
        rows = zip(self.images, self.selected.tolist(), strict=True)
        return [row[0] if len(row) == 1 else row[n] for row, n in rows]
