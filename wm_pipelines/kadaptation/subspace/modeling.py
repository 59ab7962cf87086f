"""A model whose chosen parameters move in a random subspace only: theta = theta0 + P z (Li et al., 1804.08838)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from wm_pipelines.kadaptation.subspace.projections import make_projection


class SubspaceModel(nn.Module):
    """Called like `model`, which is neither changed nor copied: the moved parameters are passed in at every call.

    Train `z`, and whatever else of the model is to be trained as it is (a head). The projection is made from the
    seed; a checkpoint needs `z` and the arguments of `__init__` only.

    Args:
        model: any module.
        names: full names of its parameters that move, all by one z.
        dim: d, the size of z, which starts at zero.
        projection: "fastfood", "dense" or "sparse".
        seed: of the projection.

    Raises:
        ValueError: a name that is no floating-point parameter, twice the same, or a projection that can't be made.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], dim: int, projection: str = "fastfood", seed: int = 0):
        super().__init__()
        known = dict(model.named_parameters())
        for name in names:
            if name not in known or not known[name].is_floating_point():
                raise ValueError(f"names: {name!r} is no floating-point parameter of the {type(model).__name__}")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"names must be one or more different parameters, got {list(names)}")
        self.model, self.names = model, tuple(names)
        first = known[names[0]]
        size = sum(known[name].numel() for name in names)
        self.projection = make_projection(projection, size, dim, seed).to(first.device)
        self.z = nn.Parameter(torch.zeros(dim, device=first.device))

    def moved(self) -> dict[str, torch.Tensor]:
        """{name: theta0 + its part of P z}, differentiable in z only."""
        known = dict(self.model.named_parameters())
        start = [known[name].detach() for name in self.names]
        parts = self.projection(self.z).split([p.numel() for p in start])
        return {name: p + part.view_as(p).to(p) for name, p, part in zip(self.names, start, parts, strict=True)}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns at theta0 + P z."""
        return functional_call(self.model, self.moved(), args, kwargs)

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Writes theta0 + P z into the model, sets z to zero, returns the model."""
        known = dict(self.model.named_parameters())
        for name, value in self.moved().items():
            known[name].copy_(value)
        self.z.zero_()
        return self.model
