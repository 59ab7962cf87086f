"""One pass of the denoiser and what a score takes from it.

With z_t the picture's latents with noise ε, y a caption and "" the empty one (our reading of the authors' code, which
averages over the whole batch; here nothing of one sample enters the score of another):

    A_t = Σ_{l,h} w_{l,h} · mean over pixels of (1/λ) log Σ_j exp(λ s_{l,h}[i, j]),  averaged over y and ""
    B_t = ‖ε - ε̂(z_t, "")‖ - ‖ε - ε̂(z_t, y)‖

w is even over sites and over the heads of a site, unless it was learnt.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from wm_pipelines.discffusion.captions import Captions
from wm_pipelines.discffusion.capture import Capture, capturing
from wm_pipelines.discffusion.denoisers import Denoiser
from wm_pipelines.discffusion.settings import Mask, Score, Sites


@dataclass(frozen=True)
class Rule:
    """How a score is made.

    Args:
        score: "lse" is the mean of A_t over timesteps, "dc" that of B_t, "lse+dc" that of A_t + bias_weight · B_t.
        sites: "released" or "all", which cross-attention layers of a UNet; a transformer is always read at all.
        token_mask: tokens that enter the LogSumExp: "all", "no_bos", or "content", the caption's own words. The empty
            caption has none, so with "content" A_t is that of y alone.
        cond_only: A_t of y alone.
        lse_lambda: λ. on: s is "logits", or "probs", their softmax over the tokens.
    """

    score: str = "lse+dc"
    sites: str = "released"
    token_mask: str = "all"
    cond_only: bool = False
    bias_weight: float = 1.0
    lse_lambda: float = 1.0
    on: str = "logits"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("score", get_args(Score)), ("sites", get_args(Sites)), ("token_mask", get_args(Mask)),
            ("on", ("logits", "probs")),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        if not isinstance(self.cond_only, bool):
            raise ValueError(f"`cond_only` is {self.cond_only!r}; it must be True or False")
        for name, least in (("bias_weight", -math.inf), ("lse_lambda", 0.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least < value < math.inf:
                raise ValueError(f"`{name}` is {value!r}; it must be a finite number above {least:g}")

    @property
    def halved(self) -> bool:
        """Whether the empty caption's attention is half of A_t."""
        return not self.cond_only and self.token_mask != "content"

    @property
    def needs_empty(self) -> bool:
        """Whether anything is taken from the pass with the empty caption."""
        return self.halved or self.score != "lse"

    def combine(self, lse: Any, dc: Any) -> Any:
        """The score of its two parts."""
        if self.score == "lse+dc":
            return lse + self.bias_weight * dc
        return lse if self.score == "lse" else dc


@dataclass
class Reading:
    """Of B samples: `lse` `(B, heads of all sites)`, `norm` of the error `(B,)`, its mean square `(B,)`; float32.

    `maps` `(B, T, h, w)`: the share of attention that each token gets, where it was asked for.
    """

    lse: torch.Tensor
    norm: torch.Tensor
    error: torch.Tensor
    maps: torch.Tensor | None = None


def read_pass(
    denoiser: Denoiser,
    sites: Mapping[str, nn.Module],
    rule: Rule,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    captions: Captions,
    maps: bool = False,
) -> Reading:
    """Run B samples once.

    Args:
        latents, noise: float32 `(B, C, h, w)`. timesteps: int64 `(B,)`. captions: of B rows.
    """
    keep = captions.keep(rule.token_mask)
    capture = Capture(keep, lse_lambda=rule.lse_lambda, on=rule.on, latent=tuple(latents.shape[-2:]) if maps else None)
    with capturing(sites, capture):
        predicted = denoiser.predict(denoiser.noised(latents, noise, timesteps), timesteps, captions)
    squares = (denoiser.target(latents, noise) - predicted).square().flatten(1)
    return Reading(
        capture.stacked(list(sites)), squares.sum(1).sqrt(), squares.mean(1), capture.mean_map() if maps else None
    )


def even_weights(sites: Mapping[str, nn.Module]) -> torch.Tensor:
    """`(heads of all sites,)`: every site weighs the same, and every head of a site."""
    parts = [torch.full((layer.heads,), 1 / (len(sites) * layer.heads)) for layer in sites.values()]
    return torch.cat(parts)


def parts_of(
    rule: Rule, weights: torch.Tensor, own: Reading, empty: Reading | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A_t and B_t `(B,)` of the passes with the captions and with the empty one; B_t is None without the latter."""
    lse = own.lse @ weights
    if rule.halved:
        lse = (lse + empty.lse @ weights) / 2
    return lse, None if empty is None else empty.norm - own.norm
