"""`temporal_motion_attention`: checks its arguments and chooses what runs."""

from torch import Tensor

from custom_kernels.shared.backend import use_triton
from custom_kernels.shared.precision import as_autocast, sum_dtype

from .checks import check, limits
from .reference import complete
from .registered import attend

__all__ = ["temporal_motion_attention"]


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
            A frame whose logits are all -inf has the output 0 and sends no gradient.
        backend: "auto", "triton" or "torch"; see `custom_kernels/shared/backend.py` for `WM_KERNELS`.

    Returns:
        (B, L, F, H, d) in q's dtype (autocast's where it is on), contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, boxes out of range (checked on the CPU), `boxes` or
            `gamma` that require a gradient, or an unusable backend.
    """
    q, k, v = as_autocast(q, k, v)
    check(q, k, v, boxes, grid, tau, gamma, rho)
    triton = use_triton(backend, q, limits(q.shape[2], q.shape[-1]))
    given = (boxes.to(sum_dtype(q)), *complete(q, boxes, tau, gamma, rho))
    return attend(q, k, v, *given, *(int(size) for size in grid), triton)
