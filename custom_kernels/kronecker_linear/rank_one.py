"""The linear map with rank-one A in plain torch, with its gradients written by hand.

    hidden = (x Qᵀ) ∘ mask        Qᵀ[(i,k), (p,q)]   = a_in[i,p]  v[i,q,k]
    y = x Wᵀ + b + s·hidden P     P[(i,k), (p',s')]  = a_out[i,p'] u[i,s',k]

    m  = (s·g Pᵀ) ∘ mask          dx = g W + m Qᵀ      dP = s·hiddenᵀ g      dQᵀ = mᵀ x

Adapter products are added in place to the output of the base product, so nothing of the size of x or y is made twice.
P and Qᵀ are as small as a LoRA.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "A_IN",
    "A_OUT",
    "BIAS",
    "Factors",
    "MASK",
    "U",
    "V",
    "WEIGHT",
    "X",
    "backward_torch",
    "delta_dtype",
    "forward_torch",
    "mask_gradient",
    "masked",
    "rank_sized_torch",
]

# positions of the inputs that may have a gradient
X, WEIGHT, BIAS, A_OUT, A_IN, U, V, MASK = 0, 1, 2, 3, 4, 5, 6, 7


class Factors:
    """Factors of one call, per sample (N = B) where an index says so, else N = 1."""

    def __init__(
        self,
        a_out: Tensor,
        a_in: Tensor,
        u: Tensor,
        v: Tensor,
        slices: Sequence[int],
        index: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self.given, self.dtype, self.index = (a_out, a_in, u, v), dtype, index
        self.parts, self.count, self.valid = max(len(slices) // 2, 1), 1, None
        if index is not None:
            rows = index.clamp(min=0)
            a_out, a_in, u, v = (t.index_select(0, rows) for t in self.given)
            self.count, self.valid = len(index), index >= 0
        if index is not None or slices:  # a product is expanded term by term, so all leading sizes are one
            a_out, a_in, u, v = (t.flatten(0, -n) for t, n in ((a_out, 2), (a_in, 2), (u, 3), (v, 3)))
        self.out_side, self.in_side = self._sides(a_out, u), self._sides(a_in, v)

    @staticmethod
    def _sides(slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """(M, 1, n, 1) and (M, r, 1, size/n): the rank before the rows, so that products run along rows."""
        terms, rows, rank = fast.shape
        fast = fast if rank == 1 else fast.transpose(1, 2)
        return _dense(slow, terms, 1, -1, 1), _dense(fast, terms, rank, 1, rows)

    def p(self) -> Sequence[Tensor]:
        """P of each part, (m·r, rows), or (N, m·r, rows) with an index."""
        slow, fast = self.out_side
        p, rows = (slow * fast).to(self.dtype), slow.shape[2] * fast.shape[3]
        if self.index is not None:
            return p.view(self.count, self.parts, -1, rows).unbind(1)
        return [p.view(-1, rows)] if self.parts == 1 else p.view(self.parts, -1, rows).unbind(0)

    def q(self) -> Tensor:
        """Qᵀ of all parts, (parts·m·r, di), or (N, parts·m·r, di) with an index."""
        slow, fast = self.in_side
        lead = () if self.index is None else (self.count,)
        return (slow * fast).to(self.dtype).view(*lead, -1, slow.shape[2] * fast.shape[3])

    def gradients(self, d_p: Tensor | None, d_q: Tensor | None, needs: Sequence[bool]) -> list[Tensor | None]:
        """Gradients of a_out, a_in, u, v (where needed) from those of P and Qᵀ, in the shapes that were given."""
        found: list[Tensor | None] = [None] * 4
        for i, (slow, fast), d in ((0, self.out_side, d_p), (1, self.in_side, d_q)):
            if d is None:
                continue
            terms, rank, _, rows = fast.shape
            d = d.to(fast.dtype).view(terms, rank, -1, rows)
            # Σ over the rank as well is one product for each term, along its (rank, rows)
            d = d[:, 0] if rank == 1 else d.transpose(1, 2).reshape(terms, -1, rank * rows)
            if needs[i]:
                found[i] = self._as_given(torch.bmm(fast.view(terms, 1, -1), d.transpose(1, 2)), self.given[i])
            if needs[i + 2]:
                d = torch.bmm(slow.view(terms, 1, -1), d).view(terms, rank, rows).transpose(1, 2)
                found[i + 2] = self._as_given(d, self.given[i + 2])
        return found

    def _as_given(self, grad: Tensor, like: Tensor) -> Tensor:
        if self.index is not None:
            grad = grad.reshape(self.count, *like.shape[1:]) * self.valid.view(-1, *[1] * (like.dim() - 1))
            grad = torch.zeros_like(like).index_add_(0, self.index.clamp(min=0), grad)
        return grad.reshape(like.shape)


def _dense(t: Tensor, *shape: int) -> Tensor:
    """`t` of this shape with the strides of a new tensor: where a size is one, `contiguous` leaves any stride."""
    return t.contiguous().flatten().view(shape)


def columns(t: Tensor, slices: Sequence[int]) -> Sequence[Tensor]:
    """The columns of each slice, all of them where there are none."""
    return [t[:, lo:hi] for lo, hi in zip(slices[::2], slices[1::2], strict=True)] or [t]


def masked(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """hidden (T, k) times mask (B, 1 or tokens a sample, k)."""
    return hidden if mask is None else (hidden.view(mask.shape[0], -1, mask.shape[2]) * mask).view_as(hidden)


def mask_gradient(m: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
    """Of the mask, from the gradient m (T, k) of the masked sum, before m is masked itself."""
    per_sample = (m * hidden).view(mask.shape[0], -1, mask.shape[2])
    return (per_sample.sum(1, keepdim=True) if mask.shape[1] == 1 else per_sample).to(mask.dtype)


def _by_sample(t: Tensor, count: int) -> Tensor:
    return t.view(count, -1, t.shape[1]) if t.is_contiguous() else t.unflatten(0, (count, -1))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left (T, n) @ right (n, k); with right (N, n, k) each of the N for its own T/N rows."""
    if right.dim() == 2:
        return left @ right
    return torch.bmm(_by_sample(left, len(right)), right).flatten(0, 1)


def _add_product(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """total (T, n) += scale·(left @ right) in place, as in `_product`."""
    if left.dtype != total.dtype:
        total.add_(_product(left, right), alpha=scale)
    elif right.dim() == 2:
        total.addmm_(left, right, alpha=scale)
    else:
        _by_sample(total, len(right)).baddbmm_(_by_sample(left, len(right)), right, alpha=scale)


def _outer(left: Tensor, right: Tensor, factors: Factors) -> Tensor:
    """leftᵀ (k, T) @ right (T, n): (k, n), or (N, k, n) within each sample."""
    if factors.index is None:
        return left.t() @ right
    return torch.bmm(_by_sample(left, factors.count).transpose(1, 2), _by_sample(right, factors.count))


def _drop_unadapted(t: Tensor, factors: Factors) -> Tensor:
    """Zeroes the rows of samples without an adapter, in place."""
    if factors.valid is not None:
        _by_sample(t, factors.count).mul_(factors.valid[:, None, None])
    return t


def delta_dtype(x: Tensor, u: Tensor, narrow: bool) -> torch.dtype:
    return x.dtype if narrow else torch.promote_types(x.dtype, u.dtype)


def rank_sized_torch(x: Tensor, factors: Factors) -> Tensor:
    """hidden (T, parts·k) = x Qᵀ of x (T, di), before the mask; zero for samples without an adapter."""
    return _drop_unadapted(_product(x.to(factors.dtype), factors.q().transpose(-1, -2)), factors)


def forward_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Factors,
    scale: float,
    slices: Sequence[int],
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(y (T, do), hidden (T, parts·k)) of x (T, di); hidden before the mask."""
    y = F.linear(x, weight, bias)
    hidden = rank_sized_torch(x, factors)
    shrunk = masked(hidden, mask).chunk(factors.parts, 1)
    for rows, part, p in zip(columns(y, slices), shrunk, factors.p(), strict=True):
        _add_product(rows, part, p, scale)
    return y, hidden


def backward_torch(
    g: Tensor,
    x: Tensor | None,
    hidden: Tensor | None,
    weight: Tensor,
    factors: Factors,
    scale: float,
    slices: Sequence[int],
    mask: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients by position, of what `needs` names; g (T, do), x (T, di)."""
    grads: list[Tensor | None] = [None] * 8
    adapted = columns(g.to(factors.dtype), slices)
    d_p = d_q = None
    if needs[U] or needs[A_OUT]:
        shrunk = masked(hidden, mask).chunk(factors.parts, 1)
        found = [_outer(part, rows, factors) for part, rows in zip(shrunk, adapted, strict=True)]
        d_p = (torch.stack(found, -3) if len(found) > 1 else found[0]).mul_(scale)
    if needs[X] or needs[V] or needs[A_IN] or needs[MASK]:
        found = [_product(rows, p.transpose(-1, -2)) for rows, p in zip(adapted, factors.p(), strict=True)]
        m = _drop_unadapted((torch.cat(found, 1) if len(found) > 1 else found[0]).mul_(scale), factors)
        if needs[MASK]:
            grads[MASK] = mask_gradient(m, hidden, mask)
        m = masked(m, mask)
        if needs[V] or needs[A_IN]:
            d_q = _outer(m, x.to(factors.dtype), factors)
        if needs[X]:
            grads[X] = g @ weight
            _add_product(grads[X], m, factors.q(), 1.0)
    grads[A_OUT], grads[A_IN], grads[U], grads[V] = factors.gradients(d_p, d_q, needs[A_OUT : V + 1])
    if needs[WEIGHT]:
        grads[WEIGHT] = g.t() @ x
    if needs[BIAS]:
        grads[BIAS] = g.sum(0)
    return grads
