"""How strongly, how often and in which steps a call is steered."""

import dataclasses
import math
from numbers import Integral, Real

from wm_pipelines.mojito.guidance.edits import STYLES

# Argument of a call, lowest and highest value of each field that is a number.
_RANGES = {
    "eta": ("guidance_eta", 0, math.inf),
    "fraction": ("guidance_fraction", 0, 1),
    "threshold": ("guidance_threshold", 0, 1),
    "smooth_weight": ("smooth_weight", 0, math.inf),
    "bias_in": ("bias_in", -math.inf, math.inf),
    "bias_out": ("bias_out", -math.inf, math.inf),
    "bias_fraction": ("bias_fraction", 0, 1),
    "temporal_weight": ("temporal_weight", 0, math.inf),
}


@dataclasses.dataclass(frozen=True)
class GuidanceSettings:
    """Settings of directional motion control.

    Args:
        eta: step size of an update of the latent.
        iterations: updates a guided step, at most; 0 only measures.
        fraction: share of the steps, from the first, that are guided.
        threshold: energy a frame below which a step is left as it is.
        smooth_weight: of the smoothness term.
        bias_in, bias_out: on the logits of a phrase inside its box, and taken off outside.
        bias_fraction: share of the steps, from the first, in which the attention is biased.
        bias_style: "logit", or an edit after the softmax.
        temporal_weight: off the temporal logits of frames of which one has a cell in a box and the other has not.

    Raises:
        ValueError: a value that is out of range, by the name of the call's argument.
    """

    eta: float = 30.0
    iterations: int = 5
    fraction: float = 0.2
    threshold: float = 0.2
    smooth_weight: float = 0.0
    bias_in: float = 0.0
    bias_out: float = 0.0
    bias_fraction: float = 0.1
    bias_style: str = "logit"
    temporal_weight: float = 0.0

    def __post_init__(self) -> None:
        for field, (name, low, high) in _RANGES.items():
            value = getattr(self, field)
            if not isinstance(value, Real) or not math.isfinite(value) or not low <= value <= high:
                bounds = "a finite number" if low == -math.inf else f"from {low} to {high:g}"
                raise ValueError(f"{name}={value!r}; it must be {bounds}")
        if self.bias_style not in STYLES:
            raise ValueError(f"bias_style={self.bias_style!r}; choose from {', '.join(STYLES)}")
        if self.bias_style != "logit" and (self.bias_in or self.bias_out):
            raise ValueError(f"bias_in and bias_out belong to bias_style='logit', not to {self.bias_style!r}")
        if not isinstance(self.iterations, Integral) or self.iterations < 0:
            raise ValueError(f"guidance_iterations={self.iterations!r}; a whole number, 0 or more")

    @property
    def moves(self) -> bool:
        """Whether any latent can be moved."""
        return bool(self.iterations and self.fraction and self.eta)

    def guided(self, steps: int) -> int:
        """How many of so many steps are guided, or measured."""
        return _share(self.fraction, steps)

    def biased(self, steps: int) -> int:
        """In how many of so many steps the attention is biased."""
        acts = self.bias_in or self.bias_out or self.bias_style != "logit"
        return _share(self.bias_fraction, steps) if acts else 0


def _share(fraction: float, steps: int) -> int:
    return 0 if fraction == 0 else max(1, round(fraction * steps))
