"""`temporal_motion_attention` in plain torch, by chunks of pixels, and its gradients.

    dS = P ∘ (G − Σ_j P G),  G = dO Vᵀ      dQ = τ dS K/√d      dK = τ dSᵀ Q/√d      dV = Pᵀ dO
    dτ = Σ dS ∘ Q Kᵀ/√d      dρ_h[δ] = Σ_{i−j=δ} dS

A batch row of queries, keys or values (B, L, F, H, d) is (L, H, F, d) here.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from custom_kernels.shared.boxes import box_masks

from .reference import box_bias, spread_diagonals

__all__ = ["backward_torch", "diagonal_sums", "forward_torch"]

CHUNK = 2**17  # logits that are worked on at a time


def diagonal_sums(s: Tensor) -> Tensor:
    """(..., F, F) -> (..., 2F−1): Σ_{i−j=δ} s[i, j] at δ + F − 1, by giving each diagonal a column."""
    frames = s.shape[-1]
    skewed = torch.nn.functional.pad(s.flip(-1), (0, frames)).flatten(-2)[..., :-frames]
    return skewed.unflatten(-1, (frames, 2 * frames - 1)).sum(-2)


class _Chunks:
    """Logits of a call, some pixels of a batch row at a time."""

    def __init__(self, q, k, boxes, tau, gamma, rho, grid: tuple[int, int]) -> None:
        self.q, self.k = q.transpose(2, 3), k.transpose(2, 3)  # (B, L, H, F, d)
        self.dtype, self.tau, self.gamma, self.scale = boxes.dtype, tau, gamma, q.shape[-1] ** -0.5
        self.masks = box_masks(boxes, grid)  # (B, O, F, L)
        self.rho = None if rho is None else spread_diagonals(rho, q.shape[2])

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        batch, pixels, heads, frames, _ = self.q.shape
        count = max(1, CHUNK // (heads * frames * frames))
        for b in range(batch):
            for start in range(0, pixels, count):
                yield b, slice(start, start + count)

    def product(self, b: int, pixels: slice) -> Tensor:
        """q·k/√d (pixels, H, F, F)."""
        return self.q[b, pixels].to(self.dtype) @ self.k[b, pixels].to(self.dtype).transpose(-1, -2) * self.scale

    def probabilities(self, b: int, pixels: slice, product: Tensor) -> Tensor:
        s = product * self.tau[b]
        if self.masks.shape[1]:
            s += box_bias(self.masks[b, :, :, pixels], self.gamma[b])
        if self.rho is not None:
            s += self.rho[b]
        p = torch.softmax(s, -1)
        if self.rho is None and not self.masks.shape[1]:
            return p
        return p.masked_fill_(s.amax(-1, keepdim=True) == -torch.inf, 0.0)  # a row that is wholly masked


def forward_torch(
    q: Tensor, k: Tensor, v: Tensor, boxes: Tensor, tau: Tensor, gamma: Tensor, rho: Tensor | None, grid: Sequence[int]
) -> Tensor:
    chunks, out = (
        _Chunks(q, k, boxes, tau, gamma, rho, grid),
        torch.empty_like(q, memory_format=torch.contiguous_format),
    )
    values, placed = v.transpose(2, 3), out.transpose(2, 3)
    for b, pixels in chunks:
        p = chunks.probabilities(b, pixels, chunks.product(b, pixels))
        placed[b, pixels] = (p @ values[b, pixels].to(p.dtype)).to(q.dtype)
    return out


def backward_torch(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    tau: Tensor,
    gamma: Tensor,
    rho: Tensor | None,
    grid: Sequence[int],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients by position in TRAINABLE, of what `needs` names."""
    chunks, values, g = _Chunks(q, k, boxes, tau, gamma, rho, grid), v.transpose(2, 3), g.transpose(2, 3)
    d_q, d_k, d_v = (
        torch.empty_like(t, memory_format=torch.contiguous_format) if need else None
        for t, need in zip((q, k, v), needs, strict=False)
    )
    frames, heads = q.shape[2], q.shape[3]
    d_tau = torch.zeros_like(tau) if needs[3] else None
    d_s_sum = tau.new_zeros(len(q), heads, frames, frames) if needs[4] else None
    for b, pixels in chunks:
        product = chunks.product(b, pixels)
        p = chunks.probabilities(b, pixels, product)
        mine = g[b, pixels].to(p.dtype)
        if needs[2]:
            d_v.transpose(2, 3)[b, pixels] = (p.transpose(-1, -2) @ mine).to(v.dtype)
        if not (needs[0] or needs[1] or needs[3] or needs[4]):
            continue
        g_p = mine @ values[b, pixels].to(p.dtype).transpose(-1, -2)
        d_s = torch.ops.aten._softmax_backward_data(g_p, p, -1, p.dtype)
        if needs[3]:
            d_tau[b] += (d_s * product).sum()
        if needs[4]:
            d_s_sum[b] += d_s.sum(0)
        d_s *= tau[b] * chunks.scale
        if needs[0]:
            d_q.transpose(2, 3)[b, pixels] = (d_s @ chunks.k[b, pixels].to(p.dtype)).to(q.dtype)
        if needs[1]:
            d_k.transpose(2, 3)[b, pixels] = (d_s.transpose(-1, -2) @ chunks.q[b, pixels].to(p.dtype)).to(k.dtype)
    return [d_q, d_k, d_v, d_tau, diagonal_sums(d_s_sum) if needs[4] else None]
