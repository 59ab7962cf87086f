"""Which candidate is taken: near copies dropped, the rest ranked, the best accepted if it beats the copy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wm_pipelines.dynamics.pictures import same_codes
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline

LIKELIHOOD = "likelihood"
Scorer = Callable[[torch.Tensor, torch.Tensor, str], Any]
"""A source `(3, H, W)`, candidates `(N, 3, H, W)`, both in [0, 1], and the action, to N scores; higher is better."""
DIFFERENT = "verifier and world model use different VQ tokenisers; set `rescore_pixels=True`"


@dataclass(frozen=True)
class Gate:
    """When a candidate counts as changed and the best one as good.

    Args:
        threshold: squared distance of two codes' vectors beyond which a place counts as changed.
        min_changed: places that must have changed; fewer make a near copy, which is not ranked.
        min_margin: by how much the best one's score must lie above the score of the source itself.
    """

    threshold: float = 0.0
    min_changed: int = 1
    min_margin: float = 0.0

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise ValueError(f"`threshold` is {self.threshold}; it must be 0 or more")
        if isinstance(self.min_changed, bool) or not isinstance(self.min_changed, int) or self.min_changed < 0:
            raise ValueError(f"`min_changed` is {self.min_changed!r}; it must be an integer, 0 or more")


@dataclass(frozen=True)
class Choice:
    """`scores`, `margins` `(B, N)` (NaN where there are none), `kept` `(B, N)`, `selected` and `accepted` `(B,)`."""

    scores: torch.Tensor
    margins: torch.Tensor
    kept: torch.Tensor
    selected: torch.Tensor
    accepted: torch.Tensor


def check_verifier(verifier: Any, pictures: Any, rescore_pixels: bool) -> None:
    """Refuses a verifier before anything is drawn.

    Args:
        pictures: the world model's tokeniser; None for an editor, which has none.

    Raises:
        ValueError: no verifier that is known, or one of other codes without `rescore_pixels`.
    """
    if isinstance(verifier, DynamicsModelPipeline):
        if not rescore_pixels and (pictures is None or not same_codes(pictures, verifier.backend.pictures)):
            raise ValueError(DIFFERENT)
    elif verifier == LIKELIHOOD:
        if pictures is None:
            raise ValueError("`verifier` 'likelihood' needs a token model; an editor has no likelihood")
    elif verifier is not None and not callable(verifier):
        raise ValueError(
            f"`verifier` is {verifier!r}; it must be a DynamicsModelPipeline, 'likelihood', a callable or None"
        )


def score_pictures(
    verifier: DynamicsModelPipeline | Scorer,
    source: torch.Tensor,
    candidates: torch.Tensor,
    actions: Sequence[str],
    resize: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and margins over the copy, `(B, N)` each, of pictures.

    Args:
        source: `(B, 3, H, W)`. candidates: `(B, N, 3, H, W)`. resize: for a dynamics model of another size.

    Raises:
        ValueError: a callable that gives anything but one finite number for each candidate.
    """
    pictures = torch.cat([candidates, source[:, None]], 1)  # the copy last
    if isinstance(verifier, DynamicsModelPipeline):
        size = pictures.shape[:2]
        flat = verifier.fitted([*pictures.flatten(0, 1), *source], resize, "candidates")
        codes = verifier.encode(flat)
        cut = size[0] * size[1]
        scores = verifier.score_codes(codes[cut:], codes[:cut].unflatten(0, size), actions)
    else:
        scores = torch.stack([_called(verifier, *row) for row in zip(source, pictures, actions, strict=True)])
    return scores[:, :-1], scores[:, :-1] - scores[:, -1:]


def score_codes(
    verifier: DynamicsModelPipeline, source: torch.Tensor, candidates: torch.Tensor, actions: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `score_pictures`, of codes `(B, h, w)` and `(B, N, h, w)` that verifier and world model share."""
    scores = verifier.score_codes(source, torch.cat([candidates, source[:, None]], 1), actions)
    return scores[:, :-1], scores[:, :-1] - scores[:, -1:]


def _called(verifier: Scorer, source: torch.Tensor, candidates: torch.Tensor, action: str) -> torch.Tensor:
    scores = torch.as_tensor(verifier(source, candidates, action), dtype=torch.float32).cpu()
    if scores.shape != (len(candidates),) or not bool(scores.isfinite().all()):
        raise ValueError(
            f"`verifier` gave {tuple(scores.shape)} values for {len(candidates)} candidates; it must give one finite "
            "number for each"
        )
    return scores


def pixel_change(source: torch.Tensor, candidates: torch.Tensor, side: int = 16) -> torch.Tensor:
    """What changed where there are no codes: mean squared difference, times 3, in `side` x `side` cells.

    Args:
        source: `(B, 3, H, W)`. candidates: `(B, N, 3, H, W)`.

    Returns:
        `(B, N, side, side)`.
    """
    square = (candidates - source[:, None]).square().sum(2)
    return torch.nn.functional.adaptive_avg_pool2d(square, side)


def choose(scores: torch.Tensor | None, margins: torch.Tensor | None, change: torch.Tensor, gate: Gate) -> Choice:
    """The best candidate that is no near copy; the best of all where every one is, and that is never accepted.

    Args:
        scores, margins: `(B, N)`; None ranks nothing and takes the first. change: `(B, N, h, w)`.
    """
    kept = (change > gate.threshold).flatten(2).sum(2) >= gate.min_changed
    nothing = torch.full(kept.shape, torch.nan)
    ranked = torch.zeros(kept.shape) if scores is None else scores
    if scores is None:
        selected = torch.zeros(len(kept), dtype=torch.long)
    else:
        allowed = kept | ~kept.any(1, keepdim=True)
        selected = ranked.masked_fill(~allowed, -torch.inf).argmax(1)
    rows = torch.arange(len(kept))
    accepted = kept[rows, selected]
    if margins is not None:
        accepted = accepted & (margins[rows, selected] > gate.min_margin)
    return Choice(
        nothing if scores is None else scores, nothing if margins is None else margins, kept, selected, accepted
    )
