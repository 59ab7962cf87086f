"""How an adapter is trained: the right candidate must lead the best wrong one by a margin (the authors' loss).

    loss = mean over items of relu(max over wrong candidates of s - s_right + margin)

A candidate's score in training is that of one timestep and one noise, the same for all candidates of an item, as at
inference; without `shared_noise` both are drawn for each candidate by itself, as in the authors' code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from wm_pipelines.discffusion.captions import Captions
from wm_pipelines.discffusion.denoisers import Denoiser
from wm_pipelines.discffusion.reading import Reading, Rule, even_weights, parts_of, read_pass
from wm_pipelines.training import KeyedNoise

WARM_STEPS, DECAY = 100, 0.9  # of the importance of heads
HEAD_WEIGHTS = ("uniform", "gradient", "learned")


class Heads(nn.Module):
    """Weights of attention heads `(S,)`, sum 1 (our design: the paper weighs heads, its code does not).

    Args:
        even: where they start. kind: "uniform" keeps them; "gradient" looks at the first 100 backward passes with even
            weights, then weighs each head by its importance, the running mean of |∂loss/∂gate| at gate 1; "learned"
            trains a softmax along with the adapter.
    """

    def __init__(self, even: torch.Tensor, kind: str):
        super().__init__()
        if kind not in HEAD_WEIGHTS:
            raise ValueError(f"`head_weights` is {kind!r}; it must be one of {', '.join(HEAD_WEIGHTS)}")
        self.kind = kind
        self.register_buffer("even", even)
        self.register_buffer("importance", torch.zeros_like(even))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.logits = nn.Parameter(even.log(), requires_grad=kind == "learned")

    def forward(self) -> torch.Tensor:
        """The weights to score with now; gradients that reach them while importance is measured are looked at."""
        if self.kind == "learned":
            return self.logits.softmax(0)
        if self.kind == "uniform":
            return self.even
        if int(self.seen) >= WARM_STEPS or not torch.is_grad_enabled():
            return self.final()
        weights = self.even.clone().requires_grad_(True)
        weights.register_hook(self._look)
        return weights

    def _look(self, gradient: torch.Tensor) -> None:
        # a gate multiplies weight and reading alike, so its gradient is the weight's times the weight
        found = (gradient * self.even).abs()
        first = not bool(self.seen)
        self.importance.copy_(found if first else DECAY * self.importance + (1 - DECAY) * found)
        self.seen += 1

    def final(self) -> torch.Tensor:
        """The weights to score with after training."""
        if self.kind == "gradient":
            total = self.importance.sum()
            return self.importance / total if bool(total > 0) else self.even
        return self().detach()


@dataclass
class Item:
    """Candidates of which the first is right: several pictures of one caption, or several captions of one picture.

    Args:
        latents: float32 `(P, C, h, w)`. captions: of M rows; P or M is 1.
    """

    latents: torch.Tensor
    captions: Captions

    @property
    def count(self) -> int:
        return max(len(self.latents), len(self.captions.embeds))


class Matcher:
    """Scores and losses of items.

    Args:
        empty: the empty caption, of one row. heads: weights of the heads of the rule's sites.
        checkpointing: hold no activations of a pass, but compute it again in the backward pass.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        rule: Rule,
        empty: Captions,
        heads: Heads,
        margin: float,
        shared_noise: bool,
        checkpointing: bool = False,
    ):
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
            raise ValueError(f"`margin` is {margin!r}; it must be a finite number of at least 0")
        self.denoiser, self.rule, self.empty, self.heads = denoiser, rule, empty, heads
        self.margin, self.shared_noise, self.checkpointing = margin, shared_noise, checkpointing
        self.sites = denoiser.sites(rule.sites)

    def _read(self, **given: Any) -> Reading:
        def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            found = read_pass(self.denoiser, self.sites, self.rule, **given)
            return found.lse, found.norm, found.error

        return Reading(*(checkpoint(parts, use_reentrant=False) if self.checkpointing else parts()))

    def scores(self, item: Item, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Of an item's K candidates `(K,)`, up to what is the same for all of them.

        Args:
            noise, timesteps: `(1, C, h, w)` and `(1,)` where they are shared, else of each candidate.
        """
        count, shared = item.count, len(noise) == 1
        given = {
            "latents": item.latents.expand(count, -1, -1, -1), "noise": noise.expand(count, -1, -1, -1),
            "timesteps": timesteps.expand(count),
        }  # fmt: skip
        weights = self.heads()
        several = len(item.captions.embeds) > 1
        own = self._read(**given, captions=item.captions if several else item.captions.rows([0] * count))
        if several and shared:  # the pass with the empty caption is the same for all, and cancels
            lse = own.lse @ weights / (2 if self.rule.halved else 1)
            return self.rule.combine(lse, -own.norm)
        empty = None
        if self.rule.needs_empty:
            empty = self._read(**given, captions=self.empty.rows([0] * count))
        return self.rule.combine(*parts_of(self.rule, weights, own, empty))

    def draw(self, item: Item, index: int, noise: KeyedNoise) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise and timesteps of an item at a step of training."""
        drawn = 1 if self.shared_noise else item.count
        made = noise.randn(index, (drawn, *item.latents.shape[1:]), "noise")
        t = noise.integers(index, (drawn,), "timestep", 0, self.denoiser.train_steps)
        return made.to(item.latents.device), t.to(item.latents.device)

    def loss(self, items: Sequence[Item], indices: Sequence[int], noise: KeyedNoise) -> dict[str, torch.Tensor]:
        """Mean loss of items, and the share of them whose right candidate leads."""
        losses, right = [], []
        for item, index in zip(items, indices, strict=True):
            scores = self.scores(item, *self.draw(item, index, noise))
            losses.append(torch.relu(scores[1:].max() - scores[0] + self.margin))
            right.append((scores[0] > scores[1:].max()).float())
        return {"loss": torch.stack(losses).mean(), "right": torch.stack(right).mean().detach()}


def rule_for(rule: Rule, head_weights: str) -> Rule:
    """Heads are weighed over all sites, so learning to weigh them needs all of them read."""
    return rule if head_weights == "uniform" else replace(rule, sites="all")


def make_heads(denoiser: Denoiser, rule: Rule, kind: str) -> Heads:
    return Heads(even_weights(denoiser.sites(rule.sites)), kind)
