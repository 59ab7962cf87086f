"""The head that KAdaptation trains beside its adapter. The path of this module is part of the file format."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  pipelines look it up here
from torch import nn
from torch.nn import functional

from wm_pipelines.hub.models import WMModel

HEADS = ("cosine", "linear_bn")


class KAdaptationHead(WMModel, ConfigMixin):
    """From image features to classes, in float32 at least.

    "cosine" (ours): unit feature · exp(logit_scale) · Wᵀ, with the logit scale of the CLIP, which stays as it is.
    "linear_bn" (the released code): non-affine batch normalisation, then a linear layer with bias.

    Args:
        features: width of the image features.
        class_names: one per row of W.
        kind: "cosine" or "linear_bn".

    Raises:
        ValueError: an unknown `kind`, or fewer than two classes.
    """

    _no_split_modules: list[str] = []

    @register_to_config
    def __init__(self, features: int, class_names: Sequence[str], kind: str = "cosine"):
        super().__init__()
        if kind not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}; got {kind!r}")
        if len(class_names) < 2:
            raise ValueError(f"class_names has {len(class_names)} entries; a classifier needs at least 2")
        self.weight = nn.Parameter(torch.zeros(len(class_names), features))
        if kind == "cosine":
            self.register_buffer("logit_scale", torch.zeros(()))
        else:
            self.norm = nn.BatchNorm1d(features, affine=False)
            self.bias = nn.Parameter(torch.zeros(len(class_names)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Image features (B, D), not normalised, to logits (B, classes)."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        features, weight = features.to(wide), self.weight.to(wide)
        if self.config.kind == "cosine":
            return functional.linear(functional.normalize(features, dim=-1) * self.logit_scale.to(wide).exp(), weight)
        features = self.norm(features.to(self.norm.running_mean.dtype)).to(wide)
        return functional.linear(features, weight, self.bias.to(wide))
