"""The forms that a sum of Kronecker products can take: a weight, a pair of low-rank factors, a product with x.

    ΔW = s·Σ_i A_i ⊗ U_i V_iᵀ          out = p'·(do/n_out) + s',  in = p·(di/n_in) + q

Shapes used throughout: m terms, A_i dense `a` (m, n_out, n_in), or of rank one, A_i = a_out_i a_in_iᵀ with
`a_out` (m, n_out) and `a_in` (m, n_in); `u` (m, do/n_out, r); `v` (m, di/n_in, r).
Gradients come from autograd, through all factors.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .checks import check_factors

__all__ = [
    "dense_delta",
    "folding_pays",
    "kronecker_delta",
    "kronecker_lora_factors",
    "kronecker_weight",
]

# Measured on one CPU core, fp32, in units of a base multiply-add: a thin product costs 2.5 times its count, the batch
# of n × n products 16 times, and building ΔW 40 for every entry plus 1.2 for every entry and term.
_THIN, _MIX, _ENTRY, _ENTRY_TERM = 2.5, 16.0, 40.0, 1.2


def kronecker_weight(
    u: torch.Tensor,
    v: torch.Tensor,
    *,
    a: torch.Tensor | None = None,
    a_out: torch.Tensor | None = None,
    a_in: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """ΔW (do, di) = scale·Σ_i A_i ⊗ U_i V_iᵀ by one GEMM over the terms, in the factors' dtype."""
    n_out, n_in = check_factors(None, u, v, a, a_out, a_in)
    if a is None:
        out_factor, in_factor = kronecker_lora_factors(u, v, a_out=a_out, a_in=a_in, scale=scale)
        return out_factor @ in_factor
    blocks = torch.einsum("isk,iqk->isq", u * scale, v)  # (m, do/n_out, di/n_in)
    weight = a.flatten(1).t() @ blocks.flatten(1)  # (n_out·n_in, do/n_out·di/n_in)
    weight = weight.view(n_out, n_in, u.shape[1], v.shape[1]).transpose(1, 2)
    return weight.reshape(n_out * u.shape[1], n_in * v.shape[1])


def kronecker_lora_factors(
    u: torch.Tensor,
    v: torch.Tensor,
    *,
    a: torch.Tensor | None = None,
    a_out: torch.Tensor | None = None,
    a_in: torch.Tensor | None = None,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact (P, Qᵀ) with ΔW = P Qᵀ: P (do, k), Qᵀ (k, di), the scale in P.

    k = m·r for rank-one A; for dense A k = min(m·n_in·r, m·n_out·r, do, di), that is n²r capped by the layer.
    """
    n_out, n_in = check_factors(None, u, v, a, a_out, a_in)
    terms, _, rank = u.shape
    u = u * scale
    if a is None:
        out_factor = torch.einsum("ip,isk->psik", a_out, u).reshape(n_out * u.shape[1], terms * rank)
        return out_factor, torch.einsum("ip,iqk->ikpq", a_in, v).reshape(terms * rank, n_in * v.shape[1])
    out_dim, in_dim = n_out * u.shape[1], n_in * v.shape[1]
    if min(out_dim, in_dim) <= terms * rank * min(n_out, n_in):
        weight = kronecker_weight(u, v, a=a)
        identity = torch.eye(min(out_dim, in_dim), dtype=weight.dtype, device=weight.device)
        return (identity, weight) if out_dim < in_dim else (weight, identity)
    if n_in <= n_out:  # A ⊗ UVᵀ = (A ⊗ U)(I ⊗ Vᵀ)
        identity = torch.eye(n_in, dtype=v.dtype, device=v.device)
        out_factor = torch.einsum("ipj,isk->psijk", a, u).reshape(out_dim, -1)
        return out_factor, torch.einsum("jp,iqk->ijkpq", identity, v).reshape(-1, in_dim)
    identity = torch.eye(n_out, dtype=u.dtype, device=u.device)  # A ⊗ UVᵀ = (I ⊗ U)(A ⊗ Vᵀ)
    out_factor = torch.einsum("pj,isk->psijk", identity, u).reshape(out_dim, -1)
    return out_factor, torch.einsum("ijp,iqk->ijkpq", a, v).reshape(-1, in_dim)


def kronecker_delta(
    x: torch.Tensor,
    u: torch.Tensor,
    v: torch.Tensor,
    *,
    a: torch.Tensor | None = None,
    a_out: torch.Tensor | None = None,
    a_in: torch.Tensor | None = None,
    scale: float = 1.0,
    gate: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """x ΔWᵀ (..., do) in factored form; ΔW is never built.

    Args:
        x: (..., di).
        gate: (B, r) or None: sample b's rank columns of U, V are weighted by gate[b]; x is then (B, ..., di).
        dropout: probability in [0, 1) on the rank-sized intermediate.
    """
    check_factors(x.shape[-1], u, v, a, a_out, a_in)
    if a is not None:
        return dense_delta(x, a * scale, u, v, gate=gate, dropout=dropout)
    terms, _, rank = u.shape
    out_factor, in_factor = kronecker_lora_factors(u, v, a_out=a_out, a_in=a_in, scale=scale)
    hidden = F.linear(x, in_factor)  # (..., m·r)
    if gate is not None:
        gate = gate.to(x.dtype).view(gate.shape[0], *(1,) * (x.dim() - 2), 1, rank)
        hidden = (hidden.unflatten(-1, (terms, rank)) * gate).flatten(-2)
    return F.linear(F.dropout(hidden, dropout, dropout > 0), out_factor)


def dense_delta(
    x: torch.Tensor,
    a: torch.Tensor,
    u: torch.Tensor,
    v: torch.Tensor,
    *,
    gate: torch.Tensor | None = None,
    dropout: float = 0.0,
    mix: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """x ΔWᵀ (..., do) for dense A in three steps: X V, A, Uᵀ; each is one GEMM over all terms, or a batch of them.

    Args:
        x: (..., di); (B, ..., di) where anything is per sample.
        a, u, v: as everywhere here, or all with a leading (B,), one set a sample. The scale is in `a`.
        mix: (hidden (T, n_in, m, r), a) -> (T, n_out, m, r), the middle step; einsum by default.
    """
    (terms, n_out, n_in), rank = a.shape[-3:], u.shape[-1]
    batch = x.shape[0] if u.dim() == 4 or gate is not None else 1
    tokens = x.numel() // (batch * x.shape[-1])
    right = v.transpose(-1, -2).flatten(-3, -2)  # (m·r, di/n_in)
    left = u.transpose(-3, -2).flatten(-2)  # (do/n_out, m·r)
    flat = x.reshape(batch, tokens * n_in, x.shape[-1] // n_in)
    hidden = torch.bmm(flat, right.transpose(-1, -2)) if u.dim() == 4 else F.linear(flat, right)
    hidden = hidden.view(batch, tokens, n_in, terms, rank)
    if gate is not None:
        hidden = hidden * gate.to(x.dtype).view(batch, 1, 1, 1, rank)
    hidden = F.dropout(hidden, dropout, dropout > 0)
    if u.dim() == 4:
        mixed = torch.einsum("biop,btpik->btoik", a, hidden)
    elif mix is None:
        mixed = torch.einsum("iop,...pik->...oik", a, hidden)
    else:
        mixed = mix(hidden.flatten(0, 1), a)
    mixed = mixed.reshape(batch, tokens * n_out, terms * rank)
    y = torch.bmm(mixed, left.transpose(-1, -2)) if u.dim() == 4 else F.linear(mixed, left)
    return y.reshape(*x.shape[:-1], n_out * u.shape[-2])


def folding_pays(tokens: int, out_dim: int, in_dim: int, a_shape: tuple[int, ...], rank: int, training: bool) -> bool:
    """Whether W + ΔW costs less than the factored product, for dense A of shape (m, n_out, n_in).

    Training runs every adapter product three times, and folding then also needs the full dW = gᵀx, which a frozen W
    does without.
    """
    terms, n_out, n_in = a_shape
    passes = 3 if training else 1
    factored = passes * tokens * terms * rank * (_THIN * (out_dim + in_dim) + _MIX * n_out * n_in)
    build = passes * (_ENTRY + _ENTRY_TERM * terms) * out_dim * in_dim
    return build + (tokens * out_dim * in_dim if training else 0) < factored
