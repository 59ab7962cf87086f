"""How the components of a caption are put beside the whole picture: the authors' rule and what it is compared with.

With g the picture's embedding, s_k those of the sub-images, a_k how well each matches its own word and T the caption:
w_k = a_k / sum_j a_j, z = g + sum_k w_k s_k, score = cos(z, T) (authors' code; the paper's own equation was not read).
"""

import math
from dataclasses import dataclass
from numbers import Real

import torch

FUSIONS = ("released", "gclip", "late", "equal")
MISSING = ("full", "blank")
EMBEDS = ("unit", "raw")
MIN_WEIGHT_SUM = 1e-6


@dataclass(frozen=True)
class Rule:
    """One way to score a pair; the defaults are the authors' rule on unit embeddings.

    `Rule(embed="raw", clamp=False)` is the authors' code as it stands for ComVG, SVO-Probes and Flickr30k.

    Args:
        fusion: "released", "gclip" (no normalisation by the sum), "equal" (all weights equal), "late" (mean of the
            entities' own cosines beside that of the whole; no relations).
        missing: what a component without a box sees: "full", the whole picture, as in the authors' code, or "blank", a
            black one. "full" adds the whole picture again, so it costs a picture nothing to lack an entity; see
            `benchmarks/comclip_micro.py` for what that does to foils. It stays the default for parity until that
            benchmark's five seeds say otherwise.
        embed: "unit", embeddings of length one; "raw", as the towers give them.
        clamp: take negative similarities as 0.
        min_weight_sum: up to this sum of similarities the weights are equal, and the pair is counted as a failure.

    Raises:
        ValueError: an unknown choice, or a `min_weight_sum` that is negative or not finite.
    """

    fusion: str = "released"
    missing: str = "full"
    embed: str = "unit"
    clamp: bool = True
    min_weight_sum: float = MIN_WEIGHT_SUM

    def __post_init__(self) -> None:
        for name, allowed in (("fusion", FUSIONS), ("missing", MISSING), ("embed", EMBEDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; choose from {', '.join(allowed)}")
        if not isinstance(self.clamp, bool):
            raise ValueError(f"clamp must be True or False, got {self.clamp!r}")
        least = self.min_weight_sum
        if isinstance(least, bool) or not isinstance(least, Real) or not math.isfinite(least) or least < 0:
            raise ValueError(f"min_weight_sum must be a finite number of at least 0, got {least!r}")


def weights_of(
    similarity: torch.Tensor,
    fusion: str = "released",
    clamp: bool = True,
    min_weight_sum: float = MIN_WEIGHT_SUM,
) -> tuple[torch.Tensor, bool]:
    """Weights `(K,)` of the components, and whether their sum was too small to divide by.

    "released": a_k / sum a_j, all equal where the sum is at most `min_weight_sum`. "gclip" (arXiv 2505.02278): a_k as
    they are. "equal": 1 / K. "late" weighs no embedding; see `late_score`.

    Args:
        similarity: a_k, float `(K,)`, at least one.
        clamp: take a negative a_k as 0 ("released", "gclip"). Without it negative sums flip the sign of all weights,
            as in the authors' code; only a sum no farther from 0 than `min_weight_sum` is replaced then.

    Raises:
        ValueError: an unknown fusion.
    """
    count = len(similarity)
    if fusion == "equal":
        return similarity.new_full((count,), 1 / count), False
    if fusion not in ("released", "gclip"):
        raise ValueError(f"fusion={fusion!r} has no weights; choose from released, gclip, equal")
    values = similarity.clamp_min(0) if clamp else similarity
    if fusion == "gclip":
        return values, False
    total = values.sum()
    if abs(float(total)) <= min_weight_sum:
        return similarity.new_full((count,), 1 / count), True
    return values / total, False


def combine(image: torch.Tensor, parts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """z = g + sum_k w_k s_k; a new tensor, no input is written to.

    Args:
        image: g, `(..., D)`. parts: s_k, `(K, ..., D)`. weights: `(K,)`.
    """
    return image + torch.tensordot(weights, parts, dims=1)


def late_score(baseline: torch.Tensor, entity_cosines: torch.Tensor) -> torch.Tensor:
    """½ [cos(g, T) + mean over entities of cos(s_k, w_k)], in [-1, 1] (ours); the baseline without an entity."""
    return (baseline + entity_cosines.mean()) / 2 if len(entity_cosines) else baseline


def cosine(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Cosine along the last dimension, broadcast over the others; 0 where a vector is 0."""
    product = (left * right).sum(-1)
    norms = left.norm(dim=-1) * right.norm(dim=-1)
    return torch.where(norms == 0, 0, product / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp(-1, 1)
