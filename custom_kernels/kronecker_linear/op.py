"""`kronecker_linear`: checks its arguments and chooses what runs.

Rank-one A runs as one registered operation (`registered.py`). Dense A runs in three products, or folded into W where
that was measured to be cheaper (`forms.py`).
"""

import functools

import torch
import torch.nn.functional as F

from custom_kernels.shared.backend import use_triton

from .checks import check, limits
from .forms import dense_delta, folding_pays, kronecker_weight
from .mix import kronecker_mix
from .recomputed import recomputed
from .reference import Slices
from .registered import rank_one

__all__ = ["kronecker_linear"]


def _in_one_dtype(*factors: torch.Tensor | None) -> list[torch.Tensor | None]:
    given = [t.dtype for t in factors if t is not None]
    wide = functools.reduce(torch.promote_types, given)
    return [None if t is None else t.to(wide) for t in factors]


def _spread(delta_bias: torch.Tensor, slices: Slices | None, out_dim: int) -> torch.Tensor:
    """(..., parts, rows) -> (..., do), zero outside the slices."""
    if slices is None:
        return delta_bias
    full = delta_bias.new_zeros(*delta_bias.shape[:-2], out_dim)
    for j, (lo, hi) in enumerate(slices):
        full[..., lo:hi] = delta_bias[..., j, :]
    return full


def _mask(x, u, gate, dropout, parts: int) -> torch.Tensor | None:
    """Weights of the rank columns, (B, 1 or tokens a sample, parts·m·r): the gate, dropout, or both."""
    terms, rank = u.shape[-3], u.shape[-1]
    mask = None if gate is None else gate.to(torch.promote_types(x.dtype, u.dtype)).repeat(1, parts * terms)[:, None]
    if dropout:
        batch = 1 if gate is None else x.shape[0]
        ones = u.new_ones(batch, x.numel() // (batch * x.shape[-1]), parts * terms * rank)
        kept = F.dropout(ones, dropout)
        mask = kept if mask is None else kept * mask
    return mask


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
    slices: Slices | None = None,
    adapter_index: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """y = x (W + s·Σ_i A_i ⊗ U_i V_iᵀ)ᵀ + bias + delta_bias, in x's dtype (autocast's where it is on).

    Args:
        x: (..., di). weight: (do, di). bias: (do,) or None.
        a_out, a_in: (m, n_out), (m, n_in), both None when `a` (m, n_out, n_in) is given.
        u, v: (m, do/n_out, r), (m, di/n_in, r). Factors wider than x (fp32 beside fp16) keep their precision on the
            torch path, outside autocast; the kernels multiply them in x's dtype and keep the rank-sized sum in fp32.
            Factors of several dtypes are all used in the one that holds them; each has its gradient in its own.
        delta_bias: (do,) or None, not scaled.
        slices: row ranges [start, stop) of the adapted parts of a fused layer, ascending and of one size. Every
            factor and `delta_bias` then has a leading (parts,); x is read once for all parts.
        adapter_index: (B,) integers, the adapter of each sample of x (B, ..., di), -1 for the base alone. Every
            factor and `delta_bias` then has a leading (adapters,), before (parts,).
        gate: (B, r) or None: weights of the rank columns of U, V, per sample. It rules out folding, as dropout does.
        dropout: probability in [0, 1) on the rank-sized intermediate.
        backend: "auto", "triton" or "torch"; see `custom_kernels/shared/backend.py` for `WM_KERNELS`.

    Raises:
        ValueError: shapes that do not fit, an index out of range (checked on the CPU), or an unusable backend.
    """
    check(x, weight, bias, a_out, a_in, u, v, a, delta_bias, slices, adapter_index, gate, dropout)
    if len({t.dtype for t in (a, a_out, a_in, u, v) if t is not None}) > 1:
        a, a_out, a_in, u, v = _in_one_dtype(a, a_out, a_in, u, v)
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # "meta" has none
    if autocast and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    parts = 1 if slices is None else len(slices)
    triton = use_triton(backend, x, limits(parts * u.shape[-3] * u.shape[-1]))
    if adapter_index is not None and not len(adapter_index):
        return F.linear(x, weight, bias)
    shift = None  # (B, do) where biases differ from sample to sample
    if delta_bias is not None:
        full = _spread(delta_bias, slices, len(weight))
        if adapter_index is None:
            bias = full.to(x.dtype) if bias is None else (bias + full).to(x.dtype)
        else:
            shift = full[adapter_index.clamp(min=0)] * (adapter_index >= 0)[:, None]
    if a is None:
        bounds = [] if slices is None else [bound for part in slices for bound in part]
        mask = _mask(x, u, gate, dropout, parts) if gate is not None or dropout else None
        y = rank_one(x, weight, bias, a_out, a_in, u, v, mask, adapter_index, float(scale), bounds, autocast, triton)
    else:
        y = _dense(x, weight, bias, a, u, v, scale, slices, adapter_index, gate, dropout, triton, autocast)
    return y if shift is None else (y + shift.view(len(shift), *(1,) * (x.dim() - 2), -1)).to(y.dtype)


def _dense(x, weight, bias, a, u, v, scale, slices, index, gate, dropout, triton, autocast) -> torch.Tensor:
    # in half precision W + ΔW would round the delta away, so only full precision may fold
    full = weight.dtype in (torch.float32, torch.float64) and weight.dtype == x.dtype
    plain = slices is None and index is None and gate is None and not dropout and not triton
    tokens, training = x.numel() // x.shape[-1], torch.is_grad_enabled()
    folded = plain and full and not autocast
    folded = folded and folding_pays(tokens, *weight.shape, tuple(a.shape), u.shape[2], training)

    def run(x, weight, bias, a, u, v, gate) -> torch.Tensor:
        if folded:
            return F.linear(x, weight + kronecker_weight(u, v, a=a * scale).to(weight.dtype), bias)
        return _in_products(x, weight, bias, a * scale, u, v, slices, index, gate, dropout, triton)

    # what is drawn can't be drawn again
    return run(x, weight, bias, a, u, v, gate) if dropout else recomputed(run, x, weight, bias, a, u, v, gate)


def _in_products(x, weight, bias, a, u, v, slices, index, gate, dropout, triton) -> torch.Tensor:
    mix = None
    if triton:
        a, u, v = (t.to(x.dtype) for t in (a, u, v))
        if index is None and max(a.shape[-2:]) <= 32:  # larger tiles would not stay in registers
            mix = kronecker_mix
    if index is not None:
        rows = index.clamp(min=0)
        valid = (index >= 0).to(a.dtype).view(-1, *(1,) * (a.dim() - 1))
        a, u, v = a[rows] * valid, u[rows], v[rows]
    y = F.linear(x, weight, bias)
    wide = x.to(torch.promote_types(x.dtype, u.dtype))
    if slices is None:
        return (y + dense_delta(wide, a, u, v, gate=gate, dropout=dropout, mix=mix)).to(y.dtype)
    pieces, stop, at = [], 0, 0 if index is None else 1
    for j, (lo, hi) in enumerate(slices):
        delta = dense_delta(wide, *(t.select(at, j) for t in (a, u, v)), gate=gate, dropout=dropout, mix=mix)
        pieces += [y[..., stop:lo], (y[..., lo:hi] + delta).to(y.dtype)]
        stop = hi
    return torch.cat([*pieces, y[..., stop:]], -1)
