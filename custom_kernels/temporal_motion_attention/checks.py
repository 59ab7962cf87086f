"""What `temporal_motion_attention` refuses, and what only its kernels refuse."""

from collections.abc import Sequence

from torch import Tensor

from custom_kernels.shared.boxes import check_boxes

__all__ = ["check", "limits"]

MAX_FRAMES, MAX_WIDTH = 32, 256  # of the kernels


def check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    grid: Sequence[int],
    tau: Tensor | float,
    gamma: Tensor | float,
    rho: Tensor | None,
) -> None:
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


def limits(frames: int, width: int) -> str | None:
    """Why the kernels can't take a call of this size; None where they can."""
    if frames > MAX_FRAMES or width > MAX_WIDTH:
        return f"{frames} frames and heads {width} wide; they take up to {MAX_FRAMES} and {MAX_WIDTH}"
    return None
