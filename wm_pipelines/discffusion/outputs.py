"""What the pipeline gives."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils import BaseOutput

from wm_pipelines.discffusion import ranking
from wm_pipelines.discffusion.reading import Rule


@dataclass
class DiscffusionOutput(BaseOutput):
    """Scores of B pairs, or of all pictures with all captions: `shape` is `(B,)` or `(images, texts)`.

    Args:
        score: float32 `shape`; higher fits better. Compare candidates of one item only.
        lse, dc: its parts, the means of A_t and of B_t; dc is None where no pass with the empty caption was needed.
        error: mean square of the prediction's error; its negative is the score of Diffusion Classifier.
        standard_error: of the score, over timesteps; NaN for one timestep.
        difference, difference_ci95: to the best rival, paired over timesteps, and its 95 % interval `(*shape, 2)`;
            rivals are the captions of a picture, or the pictures of the only caption. None for pairs one to one.
        steps: `(3, n, *shape)`: A_t, B_t (NaN where there is none) and the error at each of `timesteps`.
        forwards: samples that went through the denoiser.
        maps: of each pair, in order, the share of attention `(tokens, h, w)`, mean over timesteps, where asked for.
    """

    score: torch.Tensor
    lse: torch.Tensor
    dc: torch.Tensor | None
    error: torch.Tensor
    standard_error: torch.Tensor
    difference: torch.Tensor | None
    difference_ci95: torch.Tensor | None
    steps: torch.Tensor
    timesteps: list[int]
    forwards: int
    maps: list[torch.Tensor] | None = None


@dataclass
class DiscffusionRanking(BaseOutput):
    """Candidates of one picture or of one caption.

    Args:
        order: candidates from best to worst; equal scores keep the order given.
        score, lse, dc, error: `(M,)`, in the order given: means over the timesteps that each was looked at.
        seen: int64 `(M,)`, how many those were.
        difference, difference_ci95: as in `DiscffusionOutput`; None after elimination.
        best: the first of `order`; None where another one has the same score: a tie is no answer.
        forwards: samples that went through the denoiser.
    """

    order: list[int]
    score: torch.Tensor
    lse: torch.Tensor
    dc: torch.Tensor | None
    error: torch.Tensor
    seen: torch.Tensor
    difference: torch.Tensor | None
    difference_ci95: torch.Tensor | None
    best: int | None
    forwards: int


def output_of(
    steps: np.ndarray,
    rule: Rule,
    lone: bool,
    timesteps: list[int],
    forwards: int,
    maps: list[torch.Tensor] | None,
) -> DiscffusionOutput:
    """The output of what was read, `(3, n, *shape)`.

    Args:
        lone: pairs are one to one, so that none is another's rival. maps: as in `DiscffusionOutput`.
    """
    scores = rule.combine(steps[0], steps[1])
    differences, intervals = ranking.rivals(scores, lone)
    return DiscffusionOutput(
        score=mean(scores),
        lse=mean(steps[0]),
        dc=mean(steps[1]) if rule.needs_empty else None,
        error=mean(steps[2]),
        standard_error=single(ranking.standard_errors(scores)),
        difference=single(differences),
        difference_ci95=single(intervals),
        steps=single(steps),
        timesteps=timesteps,
        forwards=forwards,
        maps=maps,
    )


def ranking_of(
    race: ranking.Race, steps: np.ndarray, rule: Rule, eliminate: bool, forwards: int
) -> DiscffusionRanking:
    """The ranking of M candidates after a race, of what was read in it, `(3, n, M)`, NaN where nothing was."""
    scores, first = mean(race.scores), race.order[0]
    whole = not eliminate and steps.shape[2] > 1
    rivals, intervals = ranking.against_rivals(race.scores) if whole else (None, None)
    tied = any(float(scores[c]) == float(scores[first]) for c in race.order[1:])
    return DiscffusionRanking(
        order=race.order,
        score=scores,
        lse=mean(steps[0]),
        dc=mean(steps[1]) if rule.needs_empty else None,
        error=mean(steps[2]),
        seen=torch.from_numpy(race.seen),
        difference=single(rivals),
        difference_ci95=single(intervals),
        best=None if tied else first,
        forwards=forwards,
    )


def mean(values: np.ndarray) -> torch.Tensor:
    """Over the steps that were looked at; the others are NaN."""
    counts = (~np.isnan(values)).sum(0)
    return single(np.nansum(values, 0) / np.where(counts, counts, 1))


def single(values: np.ndarray | None) -> torch.Tensor | None:
    """In float32."""
    return None if values is None else torch.from_numpy(np.asarray(values, dtype=np.float32))
