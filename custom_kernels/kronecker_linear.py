"""A linear map plus a sum of Kronecker products, without ever building the n-fold tensor.

    y = x (W + s·Σ_i A_i ⊗ U_i V_iᵀ)ᵀ + b          out = p'·(do/n_out) + s',  in = p·(di/n_in) + q

Shapes used throughout: m terms, A_i dense `a` (m, n_out, n_in), or of rank one, A_i = a_out_i a_in_iᵀ with
`a_out` (m, n_out) and `a_in` (m, n_in); `u` (m, do/n_out, r); `v` (m, di/n_in, r); x (..., di); W (do, di).
Gradients come from autograd in every form, and run through all factors.
"""

import torch
import torch.nn.functional as F

# Measured on one CPU core, fp32, in units of a base multiply-add: a thin product costs 2.5 times its count, the batch
# of n × n products 16 times, and building ΔW 40 for every entry plus 1.2 for every entry and term.
_THIN, _MIX, _ENTRY, _ENTRY_TERM = 2.5, 16.0, 40.0, 1.2


def _dense(a: torch.Tensor | None, a_out: torch.Tensor | None, a_in: torch.Tensor | None) -> torch.Tensor:
    return torch.einsum("ip,iq->ipq", a_out, a_in) if a is None else a


def _check(x_dim: int | None, u, v, a, a_out, a_in) -> tuple[int, int]:
    """Returns (n_out, n_in); raises ValueError naming the argument that does not fit."""
    if (a is None) == (a_out is None or a_in is None) or (a_out is None) != (a_in is None):
        raise ValueError("give either `a` (m, n_out, n_in), or both `a_out` (m, n_out) and `a_in` (m, n_in)")
    if a is not None and a.dim() != 3:
        raise ValueError(f"`a` must be (m, n_out, n_in), got {tuple(a.shape)}")
    n_out, n_in = a.shape[1:] if a is not None else (a_out.shape[1], a_in.shape[1])
    terms = {t.shape[0] for t in (u, v, a, a_out, a_in) if t is not None}
    if u.dim() != 3 or v.dim() != 3 or u.shape[2] != v.shape[2] or len(terms) != 1:
        raise ValueError(
            f"`u` (m, out/n_out, r) and `v` (m, in/n_in, r) must agree in m and r, got {tuple(u.shape)} and "
            f"{tuple(v.shape)} with terms {sorted(terms)}"
        )
    if x_dim is not None and x_dim != n_in * v.shape[1]:
        raise ValueError(f"`x` has {x_dim} features; `v` {tuple(v.shape)} with n_in={n_in} needs {n_in * v.shape[1]}")
    return n_out, n_in


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
    n_out, n_in = _check(None, u, v, a, a_out, a_in)
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
    n_out, n_in = _check(None, u, v, a, a_out, a_in)
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
    n_out, n_in = _check(x.shape[-1], u, v, a, a_out, a_in)
    terms, _, rank = u.shape
    if gate is not None:
        gate = gate.to(x.dtype).view(gate.shape[0], *(1,) * (x.dim() - 2), 1, rank)
    if a is None:
        out_factor, in_factor = kronecker_lora_factors(u, v, a_out=a_out, a_in=a_in, scale=scale)
        hidden = F.linear(x, in_factor)  # (..., m·r)
        if gate is not None:
            hidden = (hidden.unflatten(-1, (terms, rank)) * gate).flatten(-2)
        return F.linear(F.dropout(hidden, dropout, dropout > 0), out_factor)
    # the three steps X V, A, Uᵀ of section 3.5; each is one GEMM over all terms or a batch of n x n products
    hidden = F.linear(x.unflatten(-1, (n_in, -1)), v.transpose(1, 2).flatten(0, 1))  # (..., n_in, m·r)
    hidden = hidden.unflatten(-1, (terms, rank))
    if gate is not None:
        hidden = hidden * gate.unsqueeze(-3)
    hidden = F.dropout(hidden, dropout, dropout > 0)
    mixed = torch.einsum("iop,...pik->...oik", a * scale, hidden)  # (..., n_out, m, r)
    return F.linear(mixed.flatten(-2), u.transpose(0, 1).flatten(1)).flatten(-2)


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
) -> torch.Tensor:
    """The definition: every term built by `torch.kron`, summed, and added to the weight."""
    _check(x.shape[-1], u, v, a, a_out, a_in)
    a = _dense(a, a_out, a_in)
    delta = sum(torch.kron(a[i].contiguous(), u[i] @ v[i].t()) for i in range(u.shape[0]))
    y = F.linear(x, weight + scale * delta, bias)
    return y if delta_bias is None else y + delta_bias


def kronecker_linear(
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
    gate: torch.Tensor | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """y = x (W + s·Σ_i A_i ⊗ U_i V_iᵀ)ᵀ + bias + delta_bias, in x's dtype.

    Args:
        x: (..., di). weight: (do, di). bias, delta_bias: (do,) or None.
        a_out, a_in: (m, n_out), (m, n_in), both None when `a` (m, n_out, n_in) is given.
        u, v: (m, do/n_out, r), (m, di/n_in, r). Factors wider than x (fp32 beside fp16) keep their precision.
        gate, dropout: as in `kronecker_delta`; either rules out folding.
        backend: "auto" or "torch".

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
    """
    if backend not in ("auto", "torch"):
        raise ValueError(f"`backend` must be 'auto' or 'torch', got {backend!r}")
    _check(x.shape[-1], u, v, a, a_out, a_in)
    # in half precision W + ΔW would round the delta away, so only full precision may fold
    full = weight.dtype in (torch.float32, torch.float64) and weight.dtype == x.dtype
    if a is not None and full and gate is None and not dropout and not torch.is_autocast_enabled(x.device.type):
        tokens = x.numel() // x.shape[-1]
        if folding_pays(tokens, *weight.shape, tuple(a.shape), u.shape[2], torch.is_grad_enabled()):
            delta = kronecker_weight(u, v, a=a, scale=scale).to(weight.dtype)
            y = F.linear(x, weight + delta, bias)
            return y if delta_bias is None else y + delta_bias.to(y.dtype)
    y = F.linear(x, weight, bias)
    wide = x.to(torch.promote_types(x.dtype, u.dtype))
    delta = kronecker_delta(wide, u, v, a=a, a_out=a_out, a_in=a_in, scale=scale, gate=gate, dropout=dropout)
    if delta_bias is not None:
        delta = delta + delta_bias
    return (y + delta).to(y.dtype)
