"""Attention over the frames of a pixel that knows which frames have it inside an object's box.

    S_ij = τ q_i·k_j/√d − Σ_o γ_o |m_oi − m_oj| + ρ_h[i − j],   P = softmax_j(S),   out = P V

m_oi is the share of the cell that object o's box covers in frame i, so that frames in which the pixel belongs to an
object look at each other. The temperature τ and the table ρ carry the motion intensity; at τ = 1, ρ = 0 and γ = 0 this
is plain attention. A row that ρ masks wholly, by −inf, attends to nothing: its output is 0, and no gradient comes from
it; at the least finite number it is as any other. The reference below is the definition.
"""

import torch
from torch import Tensor

from custom_kernels.shared.boxes import box_masks
from custom_kernels.shared.precision import sum_dtype

__all__ = ["box_bias", "complete", "spread_diagonals", "temporal_motion_attention_reference"]


def temporal_motion_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    *,
    grid: tuple[int, int],
    tau: float | Tensor,
    gamma: float | Tensor,
    rho: Tensor | None,
) -> Tensor:
    """The definition: every logit in memory, gradients by autograd."""
    tau, gamma, rho = complete(q, boxes, tau, gamma, rho)
    masks = box_masks(boxes.to(tau.dtype), grid)
    s = torch.einsum("blihd,bljhd->blhij", q, k).to(tau.dtype) * q.shape[-1] ** -0.5 * tau.view(-1, 1, 1, 1, 1)
    s = s + torch.stack([box_bias(m, g) for m, g in zip(masks, gamma, strict=True)])
    if rho is not None:
        s = s + spread_diagonals(rho, q.shape[2])[:, None]
    masked = s.detach().amax(-1, keepdim=True) == -torch.inf
    p = torch.softmax(s.masked_fill(masked, 0.0), -1).masked_fill(masked, 0.0)
    return torch.einsum("blhij,bljhd->blihd", p.to(v.dtype), v)


def complete(
    q: Tensor, boxes: Tensor, tau: Tensor | float, gamma: Tensor | float, rho: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """tau (B,), gamma (B, O), rho (B, H, 2F−1), in the sums' dtype."""
    dtype = sum_dtype(q)
    tau, gamma = (
        t.to(dtype) if isinstance(t, Tensor) else torch.full((), t, dtype=dtype, device=q.device) for t in (tau, gamma)
    )
    rho = None if rho is None else rho.to(dtype).expand(len(q), -1, -1)
    return tau.expand(len(q)), gamma.expand(len(q), boxes.shape[1]), rho


def spread_diagonals(rho: Tensor, frames: int) -> Tensor:
    """(..., 2F−1) -> (..., F, F): entry (i, j) is rho[i − j + F − 1]."""
    frame = torch.arange(frames, device=rho.device)
    return rho[..., frame[:, None] - frame + frames - 1]


def box_bias(masks: Tensor, gamma: Tensor) -> Tensor:
    """−Σ_o γ_o |m_i − m_j| for masks (O, F, L) of one batch row and gamma (O,): (L, 1, F, F)."""
    masks = masks.movedim(-1, 0)  # (L, O, F)
    distance = (masks.unsqueeze(-1) - masks.unsqueeze(-2)).abs()
    return -torch.einsum("loij,o->lij", distance, gamma).unsqueeze(1)
