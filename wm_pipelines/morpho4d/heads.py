"""Feature heads: what a scene's few features say in the space of a teacher (Feature4X, arXiv 2503.20776)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wm_pipelines.morpho4d.gaussians import check_tensor
from wm_pipelines.runtime.random import keyed

FEATURES = 32
"""Of the authors' scenes."""
WIDTHS = {
    "sam2": (64, 128, 256),
    "langseg": (64, 128, 256, 512),
    "internvideo": (64, 128, 256, 512, 1024, 1408),
}
"""Of the authors' heads, by teacher; the last is the teacher's own."""


@dataclass
class FeatureHead:
    """Linear layers with ReLU between them; one layer is a 1 x 1 convolution.

    Args:
        weights: of each layer (out, in). biases: (out,).
    """

    weights: tuple[torch.Tensor, ...]
    biases: tuple[torch.Tensor, ...]

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(..., F) -> (..., C)."""
        for n, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            features = torch.nn.functional.linear(features.relu() if n else features, weight, bias)
        return features

    @property
    def inputs(self) -> int:
        """F."""
        return self.weights[0].shape[1]

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(t.numel() for t in (*self.weights, *self.biases))

    def tensors(self) -> dict[str, torch.Tensor]:
        """By the names that a saved scene gives."""
        parts = enumerate(zip(self.weights, self.biases, strict=True))
        return {f"{n}.{kind}": t for n, both in parts for kind, t in zip(("weight", "bias"), both, strict=True)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], where: str) -> "FeatureHead":
        """A head from what `tensors` gave; `where` stands in messages.

        Raises:
            ValueError: a layer is missing, unknown, or does not fit the one before.
        """
        count = len(tensors) // 2
        wanted = [f"{n}.{kind}" for n in range(count) for kind in ("weight", "bias")]
        if not count or set(wanted) != set(tensors):
            raise ValueError(f"`{where}` has {sorted(tensors)}; it must have {wanted or 'a layer'}")
        head = cls(*(tuple(tensors[f"{n}.{kind}"] for n in range(count)) for kind in ("weight", "bias")))
        width = None
        for n, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
            check_tensor(f"{where}.{n}.weight", weight, (None, width), torch.float32)
            check_tensor(f"{where}.{n}.bias", bias, (len(weight),), torch.float32)
            width = len(weight)
        return head


def make_head(widths: Sequence[int], features: int = FEATURES, seed: int = 0) -> FeatureHead:
    """A head that has learnt nothing: normal weights of variance 2 / in, biases 0."""
    sides = list(zip((features, *widths), widths, strict=False))
    rng = keyed("morpho4d", "head", seed)
    weights = tuple(torch.from_numpy(rng.standard_normal((o, i))).float() * (2 / i) ** 0.5 for i, o in sides)
    return FeatureHead(weights, tuple(torch.zeros(o) for _, o in sides))
