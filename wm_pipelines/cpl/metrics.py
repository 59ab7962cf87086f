"""How well pictures were recognised, and the baselines that a few-shot method is printed beside.

The baselines work on frozen features: zero-shot CLIP with one template or an ensemble of them, a linear probe, and
Tip-Adapter (Zhang et al. 2022, arXiv 2207.09519), the training-free cache.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from wm_pipelines.clip.towers import encode_texts

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

# A short ensemble of CLIP's own templates (Radford et al. 2021), the seven that its authors name as the most useful.
ENSEMBLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of rows of `(N, C)` whose largest entry is the label's, in per cent."""
    _check(logits, labels)
    return 100 * (logits.argmax(1) == labels).double().mean().item()


def per_class_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> list[float | None]:
    """Accuracy in per cent for each of the C classes, None for one that no row shows."""
    _check(logits, labels)
    right = logits.argmax(1) == labels
    return [
        100 * right[labels == c].double().mean().item() if bool((labels == c).any()) else None
        for c in range(logits.shape[1])
    ]


def harmonic(base: float, new: float) -> float:
    """H of the base-to-new protocol: the harmonic mean of both accuracies, 0 if one is."""
    return 2 * base * new / (base + new) if base + new else 0.0


def recall_at(logits: torch.Tensor, true: Sequence[Sequence[int]], k: int = 1) -> float:
    """Share of pictures, in per cent, for which one of their own texts is among the k with the largest logits."""
    if len(true) != len(logits) or not 1 <= k <= logits.shape[1]:
        raise ValueError(f"true has {len(true)} entries for {len(logits)} rows, k={k} for {logits.shape[1]} texts")
    best = logits.topk(k, dim=1).indices.tolist()
    return 100 * sum(bool(set(b) & set(t)) for b, t in zip(best, true, strict=True)) / len(true)


@torch.no_grad()
def zero_shot_weights(
    clip: "CLIPModel", tokenizer: "CLIPTokenizer", names: Sequence[str], templates: str | Sequence[str]
) -> torch.Tensor:
    """Unit class weights `(C, d)`: the mean of the unit features of each class's sentences."""
    templates = [templates] if isinstance(templates, str) else list(templates)
    sentences = [t.format(name.replace("_", " ")) for name in names for t in templates]
    features = encode_texts(clip, tokenizer, sentences).float().view(len(names), len(templates), -1)
    return functional.normalize(features.mean(1), dim=-1)


def linear_probe(features: torch.Tensor, labels: torch.Tensor, classes: int, l2: float = 1e-3) -> torch.Tensor:
    """Weights `(C, d + 1)` of a logistic regression on unit features `(N, d)`, bias last; L-BFGS from zero.

    Args:
        l2: weight of half the squared norm of the weights (not of the bias), beside the mean loss.
    """
    inputs = functional.pad(features.double(), (0, 1), value=1.0)
    weights = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = functional.cross_entropy(inputs @ weights.T, labels) + l2 / 2 * weights[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return weights.detach().float()


def probe_logits(weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Logits `(N, C)` of a linear probe."""
    return functional.pad(features, (0, 1), value=1.0) @ weights.T


def tip_adapter_logits(
    features: torch.Tensor,
    keys: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor,
    alpha: float = 1.0,
    beta: float = 5.5,
) -> torch.Tensor:
    """Logits `(N, C)` of the training-free Tip-Adapter: 100 f W^T + alpha exp(-beta (1 - f K^T)) one-hot.

    Args:
        features: unit `(N, d)`. keys, labels: unit features `(M, d)` and labels of the training pictures.
        class_weights: unit zero-shot weights `(C, d)`. alpha, beta: its own defaults; they are not tuned here.
    """
    values = functional.one_hot(labels, len(class_weights)).to(features)
    cache = torch.exp(-beta * (1 - features @ keys.T)) @ values
    return 100 * features @ class_weights.T + alpha * cache


def _check(logits: torch.Tensor, labels: torch.Tensor) -> None:
    if logits.ndim != 2 or len(logits) != len(labels) or not len(labels):
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (N, C) and (N,), N > 0"
        )
    outside = (labels < 0) | (labels >= logits.shape[1])
    if bool(outside.any()):
        raise ValueError(f"label {int(labels[outside][0])} outside [0,{logits.shape[1]})")
