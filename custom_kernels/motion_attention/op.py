"""`motion_attention`: checks its arguments, chooses the form that runs, and names what comes back."""

import torch
from torch import Tensor

from custom_kernels.shared.backend import use_triton
from custom_kernels.shared.precision import as_autocast, sum_dtype

from .checks import check, limits
from .forms import choose_form
from .reference import MotionAttention, MotionAttentionMaps, complete
from .registered import attend

__all__ = ["motion_attention"]


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
        key_bias: (B, N), added to the logits of every query (padding: -inf); it has no gradient. A batch row whose
            keys are all at -inf gives out and sums 0, lse -inf and no gradient, in every form; with all of them at
            the least finite number P is 1/N.
        bias_in, bias_out: λ_in, λ_out, a number, (O,) or (B, O); added to a slot's logit as in the formula above.
            Slots that share a token add up.
        return_maps: return the slots' probabilities as well.
        memory: "low" neither keeps probabilities nor makes padded copies of q, k and v on the CPU; it takes longer.
        backend: "auto", "triton" or "torch"; see `custom_kernels/shared/backend.py` for `WM_KERNELS`.

    Returns:
        `MotionAttention`, or `MotionAttentionMaps` with `return_maps`. out is in q's dtype, the rest in fp32 (fp64
        for fp64 q), also under autocast, which casts q, k and v as it does for scaled dot-product attention.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, boxes or indices out of range (checked on the CPU), or
            an unusable backend.
    """
    q, k, v = as_autocast(q, k, v)
    check(q, k, v, boxes, slot_token, slot_object, grid, key_bias, bias_in, bias_out, memory)
    key_bias = None if key_bias is None else key_bias.to(sum_dtype(q))
    triton = use_triton(backend, q, limits(slot_object.shape[0], q.shape[-1]))
    form = "triton"
    if not triton:
        inputs = (q, k, v, boxes, bias_in, bias_out)
        training = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs)
        form = choose_form(q.shape[1] * q.shape[3], k.shape[2], q.dtype, q.device, memory, training)
    token, bias_in, bias_out = complete(q, boxes, slot_token, slot_object, bias_in, bias_out)
    given = (boxes.to(sum_dtype(q)), token, slot_object, key_bias, bias_in, bias_out)
    out, lse, sums, maps = attend(q, k, v, *given, *(int(size) for size in grid), return_maps, form)
    found = (out, lse, *sums.unbind(0))
    return MotionAttentionMaps(*found, maps) if return_maps else MotionAttention(*found)
