"""`motion_attention` as one registered operation, with its gradients written by hand.

Saved for the backward pass: the inputs, for the kernels also out and lse, and for the form "kept" also P.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from custom_kernels.shared.backend import on_device_of
from custom_kernels.shared.precision import no_autocast, sum_dtype
from custom_kernels.shared.registration import differentiable, like_needed, packed

from .forms import explicit_backward, explicit_forward, indicator_forward
from .slots import Slots

__all__ = ["attend"]

# inputs: q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out, height, width, want_maps, form
INPUTS = 13
TRAINABLE = (0, 1, 2, 3, 7, 8)  # q, k, v, boxes, bias_in, bias_out
_KEEPS = ("kept", "triton")  # forms whose fifth output is for the backward pass: P, or what lse lost


def _run(q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out, height, width, want_maps, form):
    with no_autocast(q.device), on_device_of(q):
        if form == "triton":
            from ._triton.forward import forward

            return forward(
                q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out, (height, width), want_maps
            )
        slots = Slots(boxes, slot_token, slot_object, (height, width), bias_in, bias_out)
        if form == "indicator":
            out, lse, maps, kept = indicator_forward(q, k, v, slots, key_bias)
        else:
            out, lse, maps, kept = explicit_forward(q, k, v, slots, key_bias, form == "kept")
        sums = slots.sums(maps)
    # one layout, whatever the form: that of `_shapes`
    placed = torch.empty_like(out.transpose(2, 3), memory_format=torch.contiguous_format).transpose(2, 3)
    out = out if out.stride() == placed.stride() else placed.copy_(out)
    return out, lse.contiguous(), sums.contiguous(), maps.contiguous() if want_maps else maps.new_empty(0), kept


def _run_backward(
    g_out, g_lse, g_sums, g_maps, q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out, out, lse,
    kept, height, width, form, needs,
) -> list[Tensor | None]:  # fmt: skip
    if g_maps is not None and not g_maps.numel():  # of maps that were not asked for
        g_maps = None
    with no_autocast(q.device), on_device_of(q):
        if form == "triton":
            from ._triton.backward import backward

            return backward(
                g_out, g_lse, g_sums, g_maps, q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out,
                out, lse, kept, (height, width), needs,
            )  # fmt: skip
        slots = Slots(boxes, slot_token, slot_object, (height, width), bias_in, bias_out)
        return explicit_backward(g_out, g_lse, g_sums, g_maps, q, k, v, slots, key_bias, kept, needs)


def _save(ctx, inputs, outputs) -> None:
    *tensors, height, width, _, form = inputs
    saved = outputs[:2] if form == "triton" else (None, None)
    ctx.save_for_backward(*tensors, *saved, outputs[4] if form in _KEEPS else None)
    ctx.options = (height, width, form)


@torch.library.custom_op("wm_kernels::motion_attention", mutates_args=())
def registered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    slot_token: Tensor,
    slot_object: Tensor,
    key_bias: Tensor | None,
    bias_in: Tensor | None,
    bias_out: Tensor | None,
    height: int,
    width: int,
    want_maps: bool,
    form: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(out, lse, sums (4, B, F, H, J), maps (B, F, H, L, J) or empty, P, what lse lost, or empty).

    Arguments as in `attend`.
    """
    return _run(q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out, height, width, want_maps, form)


@registered.register_fake
def _(q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out, height, width, want_maps, form):
    batch, frames, heads, cells, dim = q.shape
    count, dtype = slot_object.shape[0], sum_dtype(q)
    kept = {"kept": (batch, heads, frames * cells, k.shape[2]), "triton": (batch, frames, heads, cells)}
    return (
        q.new_empty(batch, frames, cells, heads, dim).transpose(2, 3),
        q.new_empty(batch, frames, heads, cells, dtype=dtype),
        q.new_empty(4, batch, frames, heads, count, dtype=dtype),
        q.new_empty((batch, frames, heads, cells, count) if want_maps else (0,), dtype=dtype),
        q.new_empty(kept.get(form, (0,)), dtype=dtype),
    )


@torch.library.custom_op("wm_kernels::motion_attention_backward", mutates_args=())
def registered_backward(
    g_out: Tensor | None,
    g_lse: Tensor | None,
    g_sums: Tensor | None,
    g_maps: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    slot_token: Tensor,
    slot_object: Tensor,
    key_bias: Tensor | None,
    bias_in: Tensor | None,
    bias_out: Tensor | None,
    out: Tensor | None,
    lse: Tensor | None,
    kept: Tensor | None,
    height: int,
    width: int,
    form: str,
    needs: Sequence[bool],
) -> list[Tensor]:
    """The gradients that `needs` names, in order; `out`, `lse` and `kept` are there where the form saves them."""
    return packed(
        _run_backward(
            g_out, g_lse, g_sums, g_maps, q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out, out,
            lse, kept, height, width, form, needs,
        )
    )  # fmt: skip


@registered_backward.register_fake
def _(
    g_out, g_lse, g_sums, g_maps, q, k, v, boxes, slot_token, slot_object, key_bias, bias_in, bias_out, out, lse,
    kept, height, width, form, needs,
):  # fmt: skip
    return like_needed((q, k, v, boxes, bias_in, bias_out), needs)


_attend = differentiable(
    _run, _run_backward, registered, registered_backward, save=_save, trainable=TRAINABLE, count=INPUTS, shown=4
)


def attend(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, lse, sums, maps) as `motion_attention` checked and completed the arguments.

    Args:
        inputs: q, k, v; boxes (B, O, F, 4) in the sums' dtype; slot_token (B, J); slot_object (J,); key_bias (B, N)
            or None; bias_in and bias_out (B, O) in the sums' dtype, or both None; h, w; whether maps are wanted;
            "explicit", "kept", "indicator" or "triton".
    """
    return _attend(*inputs)[:4]
