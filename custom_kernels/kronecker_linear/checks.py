"""What `kronecker_linear` and its forms refuse, and what only its kernels refuse."""

from collections.abc import Sequence

import torch

__all__ = ["check", "check_factors", "limits"]

MAX_RANK = 128  # columns of the rank-sized sum, all slices together; more would not stay in registers


def check_factors(
    x_dim: int | None,
    u: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor | None,
    a_out: torch.Tensor | None,
    a_in: torch.Tensor | None,
    lead: tuple[int, ...] = (),
) -> tuple[int, int]:
    """Returns (n_out, n_in); ValueError naming the argument that does not fit. All factors begin with `lead`."""
    if (a is None) == (a_out is None or a_in is None) or (a_out is None) != (a_in is None):
        raise ValueError("give either `a` (m, n_out, n_in), or both `a_out` (m, n_out) and `a_in` (m, n_in)")
    k = len(lead)
    for name, factor, dims in (("a", a, 3), ("a_out", a_out, 2), ("a_in", a_in, 2), ("u", u, 3), ("v", v, 3)):
        if factor is not None and (factor.dim() != k + dims or tuple(factor.shape[:k]) != lead):
            raise ValueError(f"`{name}` must have {dims} dimensions after {lead}, got {tuple(factor.shape)}")
    n_out, n_in = a.shape[k + 1 :] if a is not None else (a_out.shape[k + 1], a_in.shape[k + 1])
    terms = {t.shape[k] for t in (u, v, a, a_out, a_in) if t is not None}
    if u.shape[-1] != v.shape[-1] or len(terms) != 1:
        raise ValueError(
            f"`u` (m, out/n_out, r) and `v` (m, in/n_in, r) must agree in m and r, got {tuple(u.shape)} and "
            f"{tuple(v.shape)} with terms {sorted(terms)}"
        )
    if x_dim is not None and x_dim != n_in * v.shape[-2]:
        raise ValueError(f"`x` has {x_dim} features; `v` {tuple(v.shape)} with n_in={n_in} needs {n_in * v.shape[-2]}")
    return n_out, n_in


def check(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a_out: torch.Tensor | None,
    a_in: torch.Tensor | None,
    u: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    slices: Sequence[tuple[int, int]] | None,
    index: torch.Tensor | None,
    gate: torch.Tensor | None,
    dropout: float,
) -> None:
    """ValueError naming the argument that does not fit."""
    out_dim, in_dim = weight.shape
    if x.shape[-1] != in_dim:
        raise ValueError(f"`x` has {x.shape[-1]} features, `weight` {tuple(weight.shape)} needs {in_dim}")
    lead: tuple[int, ...] = ()
    if index is not None:
        if x.dim() < 2 or index.shape != x.shape[:1] or index.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"`adapter_index` must hold one integer a sample, ({x.shape[0] if x.dim() > 1 else 'batch'},), got "
                f"{tuple(index.shape)} of {index.dtype}"
            )
        lead += (u.shape[0],)
        if index.device.type == "cpu" and not torch.compiler.is_compiling() and len(index):
            low, high = index.min().item(), index.max().item()
            if low < -1 or high >= u.shape[0]:
                raise ValueError(f"`adapter_index` must be in [-1, {u.shape[0] - 1}], got {low} to {high}")
    rows = out_dim
    if slices is not None:
        bounds = [bound for part in slices for bound in part]
        sizes = {hi - lo for lo, hi in slices}
        if bounds != sorted(bounds) or len(sizes) != 1 or bounds[0] < 0 or bounds[-1] > out_dim or 0 in sizes:
            raise ValueError(
                f"`slices` must be ascending, disjoint row ranges of one size in [0, {out_dim}], got {list(slices)}"
            )
        lead, rows = (*lead, len(slices)), sizes.pop()
    n_out, _ = check_factors(in_dim, u, v, a, a_out, a_in, lead)
    if n_out * u.shape[-2] != rows:
        raise ValueError(f"`u` {tuple(u.shape)} with n_out={n_out} makes {n_out * u.shape[-2]} rows, not {rows}")
    for name, t, shape in (("bias", bias, (out_dim,)), ("delta_bias", delta_bias, (*lead, rows))):
        if t is not None and tuple(t.shape) != shape:
            raise ValueError(f"`{name}` must be {shape}, got {tuple(t.shape)}")
    if gate is not None and (gate.dim() != 2 or gate.shape[0] != x.shape[0] or gate.shape[1] != u.shape[-1]):
        raise ValueError(f"`gate` must be (batch, r), ({x.shape[0]}, {u.shape[-1]}), got {tuple(gate.shape)}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"`dropout` must be in [0, 1), got {dropout!r}")


def limits(rank: int) -> str | None:
    """Why the kernels can't take a rank-sized sum of that many columns; None where they can."""
    if rank > MAX_RANK:
        return f"the rank-sized sum has {rank} columns, the kernels take up to {MAX_RANK}"
    return None
