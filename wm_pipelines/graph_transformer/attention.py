"""Quasi-attention, the attention of the Multimodal Graph Transformer (arXiv 2305.00581):

    QA = softmax(Q Kᵀ / √d + G + λ·Ĝ) V

G is fixed for each example, 0 or −inf; Ĝ is trained, for each head. The weights stay a softmax. Three ways to run it:
"explicit", the definition; "sdpa", scaled dot-product attention with an additive mask; and "flex", FlexAttention,
which never holds the logits and leaves out blocks of 128 x 128 cells that are cut, for long contexts on a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

BACKENDS = ("auto", "explicit", "sdpa", "flex")
LONG = 1024  # tokens from which the logits are not held in memory


@dataclass(frozen=True)
class Cells:
    """What is added to the logits, in parts.

    Args:
        allowed (bool `(B, S, S)`): where G is 0; no row is without one. valid (bool `(B, S)`): not padding.
        ghat (`(H, S, S)`): λ·Ĝ, cropped to the tokens; None without one.
        penalty (`(H,)`): what a cut cell costs in place of −inf; None: −inf. A padding key is −inf all the same.
    """

    allowed: Tensor
    valid: Tensor
    ghat: Tensor | None = None
    penalty: Tensor | None = None

    @cached_property
    def plan(self) -> "_Plan":
        """What FlexAttention needs, made once for all layers that share the bias."""
        return _plan(self)

    def additive(self, dtype: torch.dtype) -> Tensor:
        """`(B, 1 or H, S, S)`: the sum of both biases."""
        shape = self.allowed[:, None].shape
        keys = self.valid[:, None, None, :]
        if self.penalty is None:
            bias = torch.zeros(shape, dtype=dtype, device=self.allowed.device)
        else:
            bias = torch.where(self.allowed[:, None], 0.0, -self.penalty[:, None, None].to(dtype))
        if self.ghat is not None:
            bias = bias + self.ghat.to(dtype)
        return bias.masked_fill(~(self.allowed[:, None] & keys if self.penalty is None else keys), -torch.inf)


def quasi_attention(q: Tensor, k: Tensor, v: Tensor, cells: Cells, backend: str = "auto") -> Tensor:
    """softmax(q kᵀ/√d + G + λ·Ĝ) v.

    Args:
        q, k, v: `(B, H, S, d)`. cells: the bias.
        backend: "explicit", "sdpa", "flex", or "auto": "flex" from 1024 tokens on a GPU, "sdpa" otherwise. On the CPU
            "flex" has no gradient; on a GPU it sums that of Ĝ in no fixed order.

    Returns:
        `(B, H, S, d)`.

    Raises:
        ValueError: an unknown backend, a bias of another size, or a gradient asked of "flex" on the CPU.
    """
    if backend not in BACKENDS:
        raise ValueError(f"`backend` is {backend!r}; allowed: {', '.join(BACKENDS)}")
    wanted = (q.shape[0], q.shape[2], k.shape[2])
    if tuple(cells.allowed.shape) != wanted:
        raise ValueError(f"`cells` is for {tuple(cells.allowed.shape)} (batch, rows, columns), attention is {wanted}")
    if backend == "auto":
        backend = "flex" if q.device.type == "cuda" and q.shape[2] >= LONG else "sdpa"
    if backend == "flex":
        _check_gradient(q, k, v, cells)
        return cells.plan.attend(q, k, v)
    bias = cells.additive(q.dtype)
    if backend == "sdpa":
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias, -1) @ v


def component_order(allowed: Tensor, valid: Tensor) -> Tensor:
    """An order of the tokens in which those that see all come first, then each component of the graph, then padding.

    Args:
        allowed: bool `(B, S, S)`. valid: bool `(B, S)`.

    Returns:
        int64 `(B, S)`.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    orders = []
    for cells, keys in zip(allowed.cpu(), valid.cpu(), strict=True):
        everyone = (cells & keys)[:, keys].all(1) & keys
        own = (keys & ~everyone).nonzero().flatten()
        labels = torch.where(keys, -1, len(keys))
        inner = csr_matrix(cells[own[:, None], own[None]].numpy())
        labels[own] = torch.from_numpy(connected_components(inner, directed=False)[1]).long()
        orders.append(labels.sort(stable=True).indices)
    return torch.stack(orders).to(allowed.device)


@dataclass(frozen=True)
class _Plan:
    """What FlexAttention is told: the order of the tokens, the blocks that it visits, and what it adds to a logit."""

    order: Tensor
    mask: Any
    score: Callable[..., Tensor] | None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        there = self.order[:, None, :, None]
        moved = (t.gather(2, there.expand(-1, t.shape[1], -1, t.shape[3])) for t in (q, k, v))
        out = _flex_attention(q.device.type)(*moved, score_mod=self.score, block_mask=self.mask)
        back = self.order.argsort(1)[:, None, :, None]
        return out.gather(2, back.expand(-1, out.shape[1], -1, out.shape[3]))


def _plan(cells: Cells) -> _Plan:
    from torch.nn.attention.flex_attention import create_block_mask

    order, (batch, size, _) = component_order(cells.allowed, cells.valid), cells.allowed.shape
    rows = torch.arange(batch, device=order.device)[:, None, None]
    at = (rows, order[:, :, None], order[:, None, :])
    keys = cells.valid[:, None, :].expand(-1, size, -1)
    seen = (keys if cells.penalty is not None else cells.allowed & keys)[at]
    cut, ghat, penalty = ~cells.allowed[at], cells.ghat, cells.penalty
    mask = create_block_mask(lambda b, h, i, j: seen[b, i, j], batch, None, size, size, device=str(order.device))

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if ghat is not None:
            s = s + ghat[h, order[b, i], order[b, j]]
        return s if penalty is None else s - penalty[h] * cut[b, i, j]

    return _Plan(order, mask, None if ghat is None and penalty is None else score)


@cache
def _flex_attention(device: str) -> Callable[..., Tensor]:
    """FlexAttention, compiled where it is fast only then."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if device == "cpu" else torch.compile(flex_attention)


def _check_gradient(q: Tensor, k: Tensor, v: Tensor, cells: Cells) -> None:
    parts = [t for t in (q, k, v, cells.ghat, cells.penalty) if t is not None]
    if q.device.type == "cpu" and torch.is_grad_enabled() and any(t.requires_grad for t in parts):
        raise ValueError("`backend` 'flex' has no gradient on the CPU; use 'sdpa'")


@contextmanager
def attending(layers: list[nn.Module], backend: str) -> Iterator[None]:
    """ViLT's own attention modules run by `quasi_attention` for a while; they then take `Cells` as their mask.

    Args:
        layers: `ViltSelfAttention`s. backend: as `quasi_attention` takes it.
    """
    own = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = MethodType(_forward(backend), layer)
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            if before is None:
                del layer.forward
            else:
                layer.forward = before


def _forward(backend: str) -> Callable[..., tuple[Tensor]]:
    def forward(self: Any, hidden_states: Tensor, attention_mask: Cells, output_attentions: bool = False) -> tuple:
        shape = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        q, k, v = (part(hidden_states).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value))
        out = quasi_attention(q, k, v, attention_mask, backend)
        return (out.transpose(1, 2).flatten(2),)

    return forward
