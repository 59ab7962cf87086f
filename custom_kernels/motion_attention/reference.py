"""Cross-attention that also says how much of a word's attention lies in a box, and can be biased towards it.

    S[u, n] = q_u·k_n/√d + Σ_j [n = n_j] (λ_in M_o(j)(u) − λ_out (1 − M_o(j)(u))) + key_bias[n],   P = softmax_n(S)
    I_j = Σ_u M_o(j)(u) P[u, n_j]    Z_j = Σ_u P[u, n_j]    Cx_j = Σ_u x_u P[u, n_j]    Cy_j = Σ_u y_u P[u, n_j]

A row whose keys are all masked by −inf attends to nothing: out, P and the sums are 0, lse is −inf, and no gradient
comes from it, as in PyTorch's scaled dot-product attention. Where they all are at the least finite number, the row is
as any other: P = 1/N.

A slot j is one (object o(j), token n_j) pair; M is the fraction of a cell that the object's box covers in that frame.
The energy of directional motion control (Mojito, arXiv 2412.08948; form of arXiv 2304.03373) is made of I/Z. The
gradients are written by hand; the kernels never hold a map of the size of P. The reference below is the definition.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from custom_kernels.shared.precision import sum_dtype

from .slots import Slots, indicators

__all__ = ["MotionAttention", "MotionAttentionMaps", "complete", "motion_attention_reference"]


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
    token, bias_in, bias_out = complete(q, boxes, slot_token, slot_object, bias_in, bias_out)
    slots = Slots(boxes.to(sum_dtype(q)), token, slot_object, grid, bias_in, bias_out)
    s = torch.einsum("bfhld,bhnd->bfhln", q, k).to(sum_dtype(q)) * q.shape[-1] ** -0.5
    chosen = indicators(slots.token, k.shape[2], s.dtype) * slots.valid[..., None]  # (B, J, N)
    if bias_in is not None:
        s = s + torch.einsum("bflj,bjn->bfln", slots.logits(), chosen)[:, :, None]
    if key_bias is not None:
        s = s + key_bias.to(s.dtype)[:, None, None, None]
    p, lse = _softmax(s)
    maps = torch.einsum("bfhln,bjn->bfhlj", p, chosen)
    out = torch.einsum("bfhln,bhnd->bfhld", p.to(v.dtype), v)
    return MotionAttentionMaps(out, lse, *slots.sums(maps).unbind(0), maps)


def _softmax(s: Tensor) -> tuple[Tensor, Tensor]:
    """softmax and log-sum-exp of the last dimension; a row of −inf alone gives zeros and −inf, without a gradient."""
    most = s.detach().amax(-1, keepdim=True)
    masked = most == -torch.inf
    s, most = s.masked_fill(masked, 0.0), most.masked_fill(masked, 0.0)
    # torch.logsumexp's gradient is exp(s − lse), of which nothing is right once lse has no digits for the logarithm
    lse = (s - most).exp().sum(-1).log() + most.squeeze(-1)
    return torch.softmax(s, -1).masked_fill(masked, 0.0), lse.masked_fill(masked.squeeze(-1), -torch.inf)


def complete(
    q: Tensor,
    boxes: Tensor,
    slot_token: Tensor,
    slot_object: Tensor,
    bias_in: Tensor | float | None,
    bias_out: Tensor | float | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
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
