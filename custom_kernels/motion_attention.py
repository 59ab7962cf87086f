"""Cross-attention that also says how much of a word's attention lies in a box, and can be biased towards it.

    S[u, n] = q_u·k_n/√d + Σ_j [n = n_j] (λ_in M_o(j)(u) − λ_out (1 − M_o(j)(u))) + key_bias[n],   P = softmax_n(S)
    I_j = Σ_u M_o(j)(u) P[u, n_j]    Z_j = Σ_u P[u, n_j]    Cx_j = Σ_u x_u P[u, n_j]    Cy_j = Σ_u y_u P[u, n_j]

A slot j is one (object o(j), token n_j) pair; M is the fraction of a cell that the object's box covers in that frame.
The energy of directional motion control (Mojito, arXiv 2412.08948; form of arXiv 2304.03373) is made of I/Z. The
gradients are written by hand; the kernels never hold a map of the size of P. The reference below is the definition.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .backend import use_triton
from .motion_forms import choose_form
from .motion_masks import Slots, indicators
from .motion_registered import as_autocast, attend, sum_dtype

__all__ = ["MotionAttention", "MotionAttentionMaps", "motion_attention", "motion_attention_reference"]

MAX_SLOTS, MAX_WIDTH = 16, 256  # of the kernels


class MotionAttention(NamedTuple):
    """out (B, F, H, L, d), lse (B, F, H, L), and the sums I, Z, Cx, Cy (B, F, H, J)."""

    out: Tensor
    lse: Tensor
    I: Tensor  # noqa: E741
    Z: Tensor
    Cx: Tensor
    Cy: Tensor


class MotionAttentionMaps(NamedTuple):
    """As `MotionAttention`, and maps (B, F, H, L, J), the probability of each slot's token."""

    out: Tensor
    lse: Tensor
    I: Tensor  # noqa: E741
    Z: Tensor
    Cx: Tensor
    Cy: Tensor
    maps: Tensor


def motion_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    slot_token: Tensor,
    slot_object: Tensor,
    *,
    grid: tuple[int, int],
    key_bias: Tensor | None = None,
    bias_in: float | Tensor | None = None,
    bias_out: float | Tensor | None = None,
) -> MotionAttentionMaps:
    """The definition: every logit and probability in memory, gradients by autograd."""
    token, bias_in, bias_out = _complete(q, boxes, slot_token, slot_object, bias_in, bias_out)
    slots = Slots(boxes.to(sum_dtype(q)), token, slot_object, grid, bias_in, bias_out)
    s = torch.einsum("bfhld,bhnd->bfhln", q, k).to(sum_dtype(q)) * q.shape[-1] ** -0.5
    chosen = indicators(slots.token, k.shape[2], s.dtype) * slots.valid[..., None]  # (B, J, N)
    if bias_in is not None:
        s = s + torch.einsum("bflj,bjn->bfln", slots.logits(), chosen)[:, :, None]
    if key_bias is not None:
        s = s + key_bias.to(s.dtype)[:, None, None, None]
    p = torch.softmax(s, -1)
    maps = torch.einsum("bfhln,bjn->bfhlj", p, chosen)
    out = torch.einsum("bfhln,bhnd->bfhld", p.to(v.dtype), v)
    return MotionAttentionMaps(out, torch.logsumexp(s, -1), *slots.sums(maps).unbind(0), maps)


def _complete(q, boxes, slot_token, slot_object, bias_in, bias_out) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """slot_token (B, J), and both biases (B, O), or None where there is neither."""
    batch, objects, dtype = q.shape[0], boxes.shape[1], sum_dtype(q)
    token = slot_token.expand(batch, -1)
    if bias_in is None and bias_out is None:
        return token, None, None
    biases = []
    for bias in (bias_in, bias_out):
        if not isinstance(bias, Tensor):
            bias = torch.full((), 0.0 if bias is None else bias, dtype=dtype, device=q.device)
        bias = bias.to(dtype)
        biases.append(bias.expand(batch, objects))
    return token, *biases


def looks_at_values(device: torch.device) -> bool:
    """Values are only checked on the CPU, where that waits for nothing, and not while tracing."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def check_boxes(
    boxes: Tensor, grid: tuple[int, int], batch: int, frames: int, cells: int, device: torch.device
) -> None:
    """ValueError for boxes other than (B, O, F, 4) of (x0, y0, x1, y1) in [0, 1], or a grid of another size."""
    if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != cells:
        raise ValueError(f"`grid` must be (h, w) with h·w = {cells}, the cells of `q`, got {tuple(grid)}")
    if boxes.dim() != 4 or (boxes.shape[0], *boxes.shape[2:]) != (batch, frames, 4) or not boxes.is_floating_point():
        raise ValueError(
            f"`boxes` must be (B, O, F, 4), ({batch}, O, {frames}, 4) of floats, got {tuple(boxes.shape)} of "
            f"{boxes.dtype}"
        )
    if boxes.device != device:
        raise ValueError(f"`boxes` must be on {device} as `q` is, got {boxes.device}")
    if not looks_at_values(device):
        return
    x0, y0, x1, y1 = boxes.detach().unbind(-1)
    good = (x0 >= 0) & (y0 >= 0) & (x1 <= 1) & (y1 <= 1) & (x0 <= x1) & (y0 <= y1)
    if not good.all():
        b, o, f = (~good).nonzero()[0].tolist()
        raise ValueError(
            f"`boxes` must be (x0, y0, x1, y1) in [0, 1] with x0 <= x1 and y0 <= y1, got "
            f"{boxes[b, o, f].tolist()} for batch row {b}, object {o}, frame {f}"
        )


def _check(q, k, v, boxes, slot_token, slot_object, grid, key_bias, bias_in, bias_out, memory) -> None:
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


def _limits(slots: int, width: int) -> str | None:
    """Why the kernels can't take a call of this size; None where they can."""
    if slots > MAX_SLOTS:
        return f"{slots} slots were given, the kernels take up to {MAX_SLOTS}"
    if width > MAX_WIDTH:
        return f"heads are {width} wide, the kernels take up to {MAX_WIDTH}"
    return None


def motion_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    slot_token: Tensor,
    slot_object: Tensor,
    *,
    grid: tuple[int, int],
    key_bias: Tensor | None = None,
    bias_in: float | Tensor | None = None,
    bias_out: float | Tensor | None = None,
    return_maps: bool = False,
    memory: str = "fast",
    backend: str = "auto",
) -> MotionAttention | MotionAttentionMaps:
    """softmax(q kᵀ/√d + biases) v, its log-sum-exp, and each slot's sums over the cells; all differentiable.

    Args:
        q: (B, F, H, L, d), the queries of F frames; a transformer over whole clips reshapes its F·L queries.
        k, v: (B, H, N, d), shared by the frames.
        boxes: (B, O, F, 4), (x0, y0, x1, y1) in [0, 1], origin top left. A box without area (all zeros: the object is
            absent in this frame) covers no cell: I is 0 there, and `bias_out` holds everywhere. O may be 0.
        slot_token: (J,) or (B, J) key of each slot, -1 where this batch row lacks the slot: its sums and maps are 0
            and it adds no bias. J may be 0. slot_object: (J,) object of each slot. On a GPU, where values are not
            looked at, the kernels take a token beyond the keys for -1.
        grid: (h, w) with h·w = L.
        key_bias: (B, N), added to the logits of every query (padding: -inf); it has no gradient.
        bias_in, bias_out: λ_in, λ_out, a number, (O,) or (B, O); added to a slot's logit as in the formula above.
            Slots that share a token add up.
        return_maps: return the slots' probabilities as well.
        memory: "low" neither keeps probabilities nor makes padded copies of q, k and v on the CPU; it takes longer.
        backend: "auto", "triton" or "torch"; see `custom_kernels/backend.py` for `WM_KERNELS`.

    Returns:
        `MotionAttention`, or `MotionAttentionMaps` with `return_maps`. out is in q's dtype, the rest in fp32 (fp64
        for fp64 q), also under autocast, which casts q, k and v as it does for scaled dot-product attention.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, boxes or indices out of range (checked on the CPU), or
            an unusable backend.
    """
    q, k, v = as_autocast(q, k, v)
    _check(q, k, v, boxes, slot_token, slot_object, grid, key_bias, bias_in, bias_out, memory)
    key_bias = None if key_bias is None else key_bias.to(sum_dtype(q))
    triton = use_triton(backend, q, _limits(slot_object.shape[0], q.shape[-1]))
    form = "triton"
    if not triton:
        inputs = (q, k, v, boxes, bias_in, bias_out)
        training = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs)
        form = choose_form(q.shape[1] * q.shape[3], k.shape[2], q.dtype, q.device, memory, training)
    token, bias_in, bias_out = _complete(q, boxes, slot_token, slot_object, bias_in, bias_out)
    given = (boxes.to(sum_dtype(q)), token, slot_object, key_bias, bias_in, bias_out)
    out, lse, sums, maps = attend(q, k, v, *given, *(int(size) for size in grid), return_maps, form)
    found = (out, lse, *sums.unbind(0))
    return MotionAttentionMaps(*found, maps) if return_maps else MotionAttention(*found)
