"""Attention over the frames of a pixel that knows which frames have it inside an object's box.

    S_ij = τ q_i·k_j/√d − Σ_o γ_o |m_oi − m_oj| + ρ_h[i − j],   P = softmax_j(S),   out = P V

m_oi is the share of the cell that object o's box covers in frame i, so that frames in which the pixel belongs to an
object look at each other. The temperature τ and the table ρ carry the motion intensity; at τ = 1, ρ = 0 and γ = 0 this
is plain attention. The reference below is the definition. No pipeline of this package calls the operation: it is for
those who train a temporal layer with it.
"""

import torch
from torch import Tensor

from .backend import use_triton
from .motion_attention import check_boxes
from .motion_masks import box_masks
from .motion_registered import as_autocast, sum_dtype
from .temporal_motion_registered import attend, box_bias, spread_diagonals

__all__ = ["temporal_motion_attention", "temporal_motion_attention_reference"]

MAX_FRAMES, MAX_WIDTH = 32, 256  # of the kernels


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
    tau, gamma, rho = _complete(q, boxes, tau, gamma, rho)
    masks = box_masks(boxes.to(tau.dtype), grid)
    s = torch.einsum("blihd,bljhd->blhij", q, k).to(tau.dtype) * q.shape[-1] ** -0.5 * tau.view(-1, 1, 1, 1, 1)
    s = s + torch.stack([box_bias(m, g) for m, g in zip(masks, gamma, strict=True)])
    if rho is not None:
        s = s + spread_diagonals(rho, q.shape[2])[:, None]
    return torch.einsum("blhij,bljhd->blihd", torch.softmax(s, -1).to(v.dtype), v)


def _complete(q, boxes, tau, gamma, rho) -> tuple[Tensor, Tensor, Tensor | None]:
    """tau (B,), gamma (B, O), rho (B, H, 2F−1), in the sums' dtype."""
    dtype = sum_dtype(q)
    tau, gamma = (
        t.to(dtype) if isinstance(t, Tensor) else torch.full((), t, dtype=dtype, device=q.device) for t in (tau, gamma)
    )
    rho = None if rho is None else rho.to(dtype).expand(len(q), -1, -1)
    return tau.expand(len(q)), gamma.expand(len(q), boxes.shape[1]), rho


def _check(q, k, v, boxes, grid, tau, gamma, rho) -> None:
    """ValueError naming the argument that does not fit."""
    if q.dim() != 5 or not q.is_floating_point():
        raise ValueError(f"`q` must be (B, L, F, H, d) of floats, got {tuple(q.shape)} of {q.dtype}")
    batch, _, frames, heads, _ = q.shape
    for name, t in (("k", k), ("v", v)):
        if t.shape != q.shape or t.dtype != q.dtype:
            raise ValueError(
                f"`{name}` must be as `q`, {tuple(q.shape)} of {q.dtype}, got {tuple(t.shape)} of {t.dtype}"
            )
    check_boxes(boxes, grid, batch, frames, q.shape[1], q.device)
    objects = boxes.shape[1]
    for name, t, shapes in (
        ("tau", tau, {"a number": (), "(B,)": (batch,)}),
        ("gamma", gamma, {"a number": (), "(O,)": (objects,), "(B, O)": (batch, objects)}),
        ("rho", rho, {"(H, 2F−1)": (heads, 2 * frames - 1), "(B, H, 2F−1)": (batch, heads, 2 * frames - 1)}),
    ):
        if isinstance(t, Tensor) and tuple(t.shape) not in shapes.values():
            raise ValueError(
                f"`{name}` must be {' or '.join(shapes)}, {' or '.join(map(str, shapes.values()))}, got "
                f"{tuple(t.shape)}"
            )
        if isinstance(t, Tensor) and t.device != q.device:
            raise ValueError(f"`{name}` must be on {q.device} as `q` is, got {t.device}")
    for name, t in (("boxes", boxes), ("gamma", gamma)):
        if isinstance(t, Tensor) and t.requires_grad:
            raise ValueError(f"`{name}` has no gradient here, but requires one; pass {name}.detach()")


def temporal_motion_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    *,
    grid: tuple[int, int],
    tau: float | Tensor,
    gamma: float | Tensor,
    rho: Tensor | None,
    backend: str = "auto",
) -> Tensor:
    """softmax_j(τ q_i·k_j/√d − Σ_o γ_o |m_oi − m_oj| + ρ_h[i − j]) v over the frames of each pixel.

    Args:
        q, k, v: (B, L, F, H, d), in any strides: a view of (B, F, L, H, d) will do.
        boxes: (B, O, F, 4), (x0, y0, x1, y1) in [0, 1], as in `motion_attention`; without gradient. O may be 0.
        grid: (h, w) with h·w = L.
        tau: a number or (B,), the temperature. gamma: a number, (O,) or (B, O), without gradient.
        rho: (H, 2F−1) or (B, H, 2F−1), the bias of the distance i − j at [i − j + F − 1], or None.
        backend: "auto", "triton" or "torch"; see `custom_kernels/backend.py` for `WM_KERNELS`.

    Returns:
        (B, L, F, H, d) in q's dtype (autocast's where it is on), contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, boxes out of range (checked on the CPU), `boxes` or
            `gamma` that require a gradient, or an unusable backend.
    """
    q, k, v = as_autocast(q, k, v)
    _check(q, k, v, boxes, grid, tau, gamma, rho)
    refused = None
    if q.shape[2] > MAX_FRAMES or q.shape[-1] > MAX_WIDTH:
        refused = f"{q.shape[2]} frames and heads {q.shape[-1]} wide; they take up to {MAX_FRAMES} and {MAX_WIDTH}"
    triton = use_triton(backend, q, refused)
    given = (boxes.to(sum_dtype(q)), *_complete(q, boxes, tau, gamma, rho))
    return attend(q, k, v, *given, *(int(size) for size in grid), triton)
