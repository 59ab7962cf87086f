"""A linear map plus a sum of Kronecker products, without ever building the n-fold tensor.

    y = x (W + s·Σ_i A_i ⊗ U_i V_iᵀ)ᵀ + b          out = p'·(do/n_out) + s',  in = p·(di/n_in) + q

Rank-one A, A_i = a_out_i a_in_iᵀ, is a LoRA of rank m·r with the parameters of one of rank r (arXiv 2203.16329). The
reference below is the definition of both, rank-one A and dense.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ["Slices", "kronecker_linear_reference"]

Slices = Sequence[tuple[int, int]]


def kronecker_linear_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a_out: torch.Tensor | None,
    a_in: torch.Tensor | None,
    u: torch.Tensor,
    v: torch.Tensor,
    *,
    a: torch.Tensor | None = None,
    scale: float = 1.0,
    delta_bias: torch.Tensor | None = None,
    slices: Slices | None = None,
    adapter_index: torch.Tensor | None = None,
) -> torch.Tensor:
    """The definition: every term built by `torch.kron`, summed, and added to the weight, sample by sample."""
    factors = {"a": a, "a_out": a_out, "a_in": a_in, "u": u, "v": v, "delta_bias": delta_bias}
    factors = {name: factor for name, factor in factors.items() if factor is not None}
    if adapter_index is not None:
        chosen = [None if i < 0 else {name: t[i] for name, t in factors.items()} for i in adapter_index.tolist()]
        return torch.stack([_reference(x[b], weight, bias, scale, slices, one) for b, one in enumerate(chosen)])
    return _reference(x, weight, bias, scale, slices, factors)


def _reference(x, weight, bias, scale, slices, factors: dict[str, torch.Tensor] | None) -> torch.Tensor:
    if factors is None:
        return F.linear(x, weight, bias)
    parts = [factors] if slices is None else [{k: t[j] for k, t in factors.items()} for j in range(len(slices))]
    whole, extra = [], []
    for f in parts:
        a = torch.einsum("ip,iq->ipq", f["a_out"], f["a_in"]) if "a" not in f else f["a"]
        terms = range(len(f["u"]))
        whole.append(scale * sum(torch.kron(a[i].contiguous(), f["u"][i] @ f["v"][i].t()) for i in terms))
        extra.append(f.get("delta_bias"))
    pieces, shifts, stop = [], [], 0
    for (lo, hi), delta, shift in zip(slices or [(0, len(weight))], whole, extra, strict=True):
        pieces += [weight[stop:lo], weight[lo:hi] + delta]
        shifts += [weight.new_zeros(lo - stop), weight.new_zeros(hi - lo) if shift is None else shift]
        stop = hi
    y = F.linear(x, torch.cat([*pieces, weight[stop:]]), bias)
    return y + torch.cat([*shifts, weight.new_zeros(len(weight) - stop)])
