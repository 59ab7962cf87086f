"""Where the Kronecker factors go in the adapter, and how the factors of several condition types are mixed."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from wm_pipelines.adapters.kronecker.layer import KroneckerLinear

TypeWeights = Mapping[str, float] | Sequence[str] | torch.Tensor | None


def target_names(model: nn.Module, preset: str) -> list[str]:
    """Linears to decompose: `paper` the four of every attn2 (28 in SD 1.5), `transformer` all ten of a block (70)."""
    if preset not in ("paper", "transformer"):
        return []
    attention = ("to_q", "to_k", "to_v", "to_out.0")
    endings = tuple(f".attn2.{x}" for x in attention)
    if preset == "transformer":
        endings += tuple(f".attn1.{x}" for x in attention) + (".ff.net.0.proj", ".ff.net.2")
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.endswith(endings)]


def inject(
    model: nn.Module, names: Sequence[str], n: int, r: int, scale: float, types: int | None, share_a: bool
) -> None:
    """Replace the named linears by `KroneckerLinear`, in place.

    Args:
        types: factors (U, V) per condition type, or None for one pair. share_a: one A for the whole model.
    """
    owner = None
    for name in names:
        try:
            layer = KroneckerLinear.from_linear(
                model.get_submodule(name), n=n, r=r, scale=scale, types=types, share_with=owner
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        model.set_submodule(name, layer)
        if share_a and owner is None:
            owner = layer


def kronecker_layers(model: nn.Module) -> Iterator[tuple[str, KroneckerLinear]]:
    """Every decomposed layer with its name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, KroneckerLinear))


def mixture(weights: TypeWeights, types: Sequence[str]) -> list[float] | torch.Tensor | None:
    """Strengths of the active types -> weights that sum to 1, in slot order; nothing active -> None (dW = 0).

    Args:
        weights: {type: strength >= 0}, a list of equally active types, or a tensor (types,) | (batch, types) of
            strengths (a row of zeros stays zero: that sample has no active condition).
    """
    if weights is None:
        return None
    if isinstance(weights, torch.Tensor):
        if weights.ndim not in (1, 2) or weights.shape[-1] != len(types):
            raise ValueError(
                f"type weights must be ({len(types)},) or (batch, {len(types)}), got {tuple(weights.shape)}"
            )
        strengths = weights.float()
    else:
        table = dict(weights) if isinstance(weights, Mapping) else dict.fromkeys(weights, 1.0)
        unknown = sorted(set(table) - set(types))
        if unknown:
            raise ValueError(f"unknown condition type {unknown[0]!r}; known: {', '.join(types)}")
        strengths = torch.tensor([float(table.get(t, 0.0)) for t in types])
    if bool((strengths < 0).any()):
        raise ValueError(f"type weights must be >= 0, got {strengths.tolist()}")
    shares = strengths / strengths.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    if shares.ndim == 2:
        return shares
    return shares.tolist() if bool(shares.any()) else None
