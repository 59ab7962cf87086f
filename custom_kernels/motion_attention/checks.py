"""What `motion_attention` refuses, and what only its kernels refuse."""

from collections.abc import Sequence

import torch
from torch import Tensor

from custom_kernels.shared.boxes import check_boxes, looks_at_values

__all__ = ["check", "limits"]

MAX_SLOTS, MAX_WIDTH = 16, 256  # of the kernels


def check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    slot_token: Tensor,
    slot_object: Tensor,
    grid: Sequence[int],
    key_bias: Tensor | None,
    bias_in: Tensor | float | None,
    bias_out: Tensor | float | None,
    memory: str,
) -> None:
    """ValueError naming the argument that does not fit."""
    if q.dim() != 5 or not q.is_floating_point():
        raise ValueError(f"`q` must be (B, F, H, L, d) of floats, got {tuple(q.shape)} of {q.dtype}")
    batch, frames, heads, cells, width = q.shape
    for name, t in (("k", k), ("v", v)):
        if t.dim() != 4 or (t.shape[0], t.shape[1], t.shape[3]) != (batch, heads, width) or t.dtype != q.dtype:
            raise ValueError(
                f"`{name}` must be (B, H, N, d), ({batch}, {heads}, N, {width}) of {q.dtype}, got {tuple(t.shape)} of "
                f"{t.dtype}"
            )
    keys = k.shape[2]
    if v.shape[2] != keys or not keys:
        raise ValueError(f"`v` must have the keys of `k`, {keys}, and at least one, got {v.shape[2]}")
    check_boxes(boxes, grid, batch, frames, cells, q.device)
    objects = boxes.shape[1]
    for name, t, shapes in (
        ("slot_object", slot_object, [tuple(slot_object.shape[:1])]),
        ("slot_token", slot_token, [tuple(slot_object.shape), (batch, *slot_object.shape)]),
    ):
        if t.dim() == 0 or tuple(t.shape) not in shapes or t.dtype not in (torch.int32, torch.int64):
            allowed = "(J,)" if name == "slot_object" else f"(J,) or (B, J), {shapes[0]} or {shapes[1]}"
            raise ValueError(f"`{name}` must be {allowed} of integers, got {tuple(t.shape)} of {t.dtype}")
    if key_bias is not None and (tuple(key_bias.shape) != (batch, keys) or not key_bias.is_floating_point()):
        raise ValueError(
            f"`key_bias` must be (B, N), ({batch}, {keys}) of floats to add, got {tuple(key_bias.shape)} of "
            f"{key_bias.dtype}"
        )
    if key_bias is not None and key_bias.requires_grad:
        raise ValueError("`key_bias` has no gradient here, but requires one; pass key_bias.detach()")
    for name, bias in (("bias_in", bias_in), ("bias_out", bias_out)):
        if isinstance(bias, Tensor) and tuple(bias.shape) not in ((), (objects,), (batch, objects)):
            raise ValueError(
                f"`{name}` must be a number, (O,) or (B, O), ({objects},) or ({batch}, {objects}), got "
                f"{tuple(bias.shape)}"
            )
    if memory not in ("fast", "low"):
        raise ValueError(f"`memory` must be 'fast' or 'low', got {memory!r}")
    tensors = {"k": k, "v": v, "slot_token": slot_token, "slot_object": slot_object, "key_bias": key_bias}
    for name, t in (tensors | {"bias_in": bias_in, "bias_out": bias_out}).items():
        if isinstance(t, Tensor) and t.device != q.device:
            raise ValueError(f"`{name}` must be on {q.device} as `q` is, got {t.device}")
    if not looks_at_values(q.device):
        return
    for name, t, least, most in (
        ("slot_token", slot_token, -1, keys - 1),
        ("slot_object", slot_object, 0, objects - 1),
    ):
        if t.numel() and (t.min() < least or t.max() > most):
            raise ValueError(f"`{name}` must be in [{least}, {most}], got {t.min().item()} to {t.max().item()}")


def limits(slots: int, width: int) -> str | None:
    """Why the kernels can't take a call of this size; None where they can."""
    if slots > MAX_SLOTS:
        return f"{slots} slots were given, the kernels take up to {MAX_SLOTS}"
    if width > MAX_WIDTH:
        return f"heads are {width} wide, the kernels take up to {MAX_WIDTH}"
    return None
