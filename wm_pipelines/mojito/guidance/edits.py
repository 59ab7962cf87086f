"""Edits of the attention after the softmax, in the style of two peers, for comparison with the bias on the logits.

Each is the cross-attention part only; both works also edit self- and temporal attention. Constants are those of their
released code (TrailBlazer, arXiv 2401.00896; FreeTraj, arXiv 2406.16863).
"""

import torch

from wm_pipelines.kernels import box_masks
from wm_pipelines.mojito.guidance.state import Slots

STYLES = ("logit", "trailblazer", "freetraj")


def edited_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slots: Slots,
    grid: tuple[int, int],
    key_bias: torch.Tensor | None,
    style: str,
) -> torch.Tensor:
    """Attention of one video with its probabilities edited, (F, H, L, d).

    Args:
        q: (F, H, L, d). k, v: (H, N, d). key_bias: (N,), additive, or None.
        style: "trailblazer" weakens the phrases outside their boxes to a thousandth and lifts them inside by 0.15 of
            their largest value; "freetraj" spreads the attention inside a box evenly over all tokens, keeps the phrase
            from everything outside, and adds 0.25 / (share of the picture * tokens) inside. Both lift by a Gaussian
            around the box's centre with a third of its side as standard deviation. Both are differentiable in q, k
            and v, for guidance that reads a later layer.
    """
    logits = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5  # (F, H, L, N)
    if key_bias is not None:
        logits = logits + key_bias.float()
    inside = box_masks(slots.boxes, grid)  # (O, F, L)
    bump = _gaussian(slots.boxes, grid) * inside
    if style == "freetraj":
        for o in range(len(slots.boxes)):
            tokens = slots.tokens[slots.owners == o]
            within = (inside[o] > 0.5)[:, None, :, None]  # (F, 1, L, 1)
            own = torch.zeros(logits.shape[-1], dtype=torch.bool, device=q.device)
            own[tokens] = True
            # inside, a row with every token masked is a softmax over equal logits
            logits = torch.where(within, torch.zeros_like(logits), logits.masked_fill(own & ~within, float("-inf")))
        nothing = torch.isneginf(logits).all(-1, keepdim=True)  # outside a phrase that is the whole text
        p = logits.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)
        for o, box in enumerate(slots.boxes):
            tokens = slots.tokens[slots.owners == o]
            area = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).clamp(min=1e-6)  # (F,)
            lift = (0.25 / (area[:, None] * len(tokens)) * bump[o])[:, None, :, None]
            p = p.index_copy(-1, tokens, p[..., tokens] + lift)
    else:
        p = logits.softmax(-1)
        for o in range(len(slots.boxes)):
            tokens = slots.tokens[slots.owners == o]
            own = p[..., tokens]
            peak = own.amax(2, keepdim=True)
            weaker = inside[o] + 0.001 * (1 - inside[o])
            edited = own * weaker[:, None, :, None] + 0.15 * peak * bump[o][:, None, :, None]
            p = p.index_copy(-1, tokens, edited)  # a copy: the gradient of the softmax needs what it gave
    return (p @ v.float()).to(v.dtype)


def _gaussian(boxes: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """exp(-|offset / sigma|**2 / 2) at the cells, sigma a third of the box's sides, (O, F, L)."""
    rows, columns = (torch.arange(n, device=boxes.device).add(0.5) / n for n in grid)
    centre, side = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6) / 3
    x = ((columns - centre[..., :1]) / side[..., :1]).square()
    y = ((rows - centre[..., 1:]) / side[..., 1:]).square()
    return torch.exp(-(y[..., :, None] + x[..., None, :]) / 2).flatten(-2)
