"""Two ways to run `motion_attention` in plain torch: explicit softmax by chunks, and extra columns on SDPA.

    S = Q Kᵀ/√d + bias,  P = softmax(S),  out = P V,  maps[u, j] = P[u, n_j]
    G = dO Vᵀ + Σ_j γ_j(u) [n = n_j],  dS = P ∘ (G − Σ_n P G) + g_lse P,  dQ = dS K/√d,  dK = dSᵀ Q/√d,  dV = Pᵀ dO

Queries (B, F, H, L, d) are rows here, (B, H, F·L, d): keys and values (B, H, N, d) are those of every frame.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .slots import Slots, indicators

__all__ = ["choose_form", "explicit_backward", "explicit_forward", "indicator_columns", "indicator_forward"]

CHUNK = 2**18  # logits that are worked on at a time: with their gradient they stay in the cache of one core
ROWS = 512  # most query rows of one head in a chunk, and as many as a product needs to run at full speed

# positions of the inputs that may have a gradient
Q, K, V, BOXES, BIAS_IN, BIAS_OUT = range(6)


def choose_form(rows: int, keys: int, dtype: torch.dtype, device: torch.device, memory: str, training: bool) -> str:
    """The form of a call in torch; the times behind it: `motion_attention_speed.py`.

    "explicit" makes P again in the backward pass, "kept" keeps it in between, "indicator" is as "explicit" but for the
    forward pass.

    Args:
        rows: queries of one head, all frames. keys: N.
        memory: "low" keeps no P, and never pads and copies Q, K and V.
        training: whether a gradient will be asked for.
    """
    if memory == "low" or device.type != "cpu" or dtype not in (torch.float32, torch.float64):
        return "explicit"
    if keys > 128:
        return "indicator" if rows >= 512 else "explicit"
    return "kept" if training else "explicit"


def as_rows(t: Tensor) -> Tensor:
    """(B, F, H, L, ...) -> (B, H, F·L, ...), without a copy where heads were split off the last dimension."""
    return t.transpose(1, 2).flatten(2, 3)


def as_frames(t: Tensor, frames: int) -> Tensor:
    """(B, H, F·L, ...) -> (B, F, H, L, ...)."""
    return t.unflatten(2, (frames, -1)).transpose(1, 2)


def row_buffer(q: Tensor) -> Tensor:
    """An empty (B, F, H, L, d) whose memory is (B, F, L, H, d), as the heads of a projection lie."""
    batch, frames, heads, cells, width = q.shape
    return q.new_empty(batch, frames, cells, heads, width).transpose(2, 3)


def _add_columns(total: Tensor, token: Tensor, values: Tensor) -> None:
    """total[..., n_j] += values[..., j] in place, in a fixed order also where a token stands twice."""
    if total.device.type == "cpu":
        total.index_add_(-1, token, values.expand(*total.shape[:-1], -1))
    else:
        total += values @ indicators(token, total.shape[-1], total.dtype)


class _Chunks:
    """The probabilities of a call, a few heads and rows at a time."""

    def __init__(self, q: Tensor, k: Tensor, slots: Slots, key_bias: Tensor | None) -> None:
        self.q, self.k, self.slots, self.scale = as_rows(q), k.to(slots.boxes.dtype), slots, q.shape[-1] ** -0.5
        self.keys_t = self.k.transpose(2, 3)
        bias = slots.logits()
        self.slot_bias = None if bias is None else bias.flatten(1, 2)  # (B, F·L, J)
        self.key_bias = None if key_bias is None else key_bias.to(self.k.dtype)

    def __iter__(self) -> Iterator[tuple[int, slice, slice]]:
        batch, heads, rows, _ = self.q.shape
        height = max(1, min(rows, ROWS, CHUNK // self.k.shape[2]))
        group = max(1, min(heads, CHUNK // (height * self.k.shape[2])))
        for b in range(batch):
            for h in range(0, heads, group):
                for r in range(0, rows, height):
                    yield b, slice(h, h + group), slice(r, r + height)

    def probabilities(self, s: Tensor) -> Tensor:
        """P (heads, rows, N) from S; 0 in a row that is wholly masked."""
        p = torch.softmax(s, -1)
        if self.key_bias is None and self.slot_bias is None:
            return p
        return p.masked_fill_(s.amax(-1, keepdim=True) == -torch.inf, 0.0)

    def logits(self, b: int, h: slice, r: slice) -> Tensor:
        """S (heads, rows, N)."""
        q, keys = self.q[b, h, r].to(self.k.dtype), self.keys_t[b, h]
        known = self.k.new_empty(1) if self.key_bias is None else self.key_bias[b]
        s = torch.baddbmm(known, q, keys, beta=0 if self.key_bias is None else 1, alpha=self.scale)
        if self.slot_bias is not None:
            _add_columns(s, self.slots.token[b], self.slot_bias[b, r])
        return s


def explicit_forward(
    q: Tensor, k: Tensor, v: Tensor, slots: Slots, key_bias: Tensor | None, keep: bool
) -> tuple[Tensor, ...]:
    """out (B, F, H, L, d), lse (B, F, H, L), maps (B, F, H, L, J), and P (B, H, F·L, N) or empty."""
    chunks, frames = _Chunks(q, k, slots, key_bias), q.shape[1]
    values, token, out = v.to(chunks.k.dtype), slots.token, row_buffer(q)
    out_rows = out.transpose(2, 3).flatten(1, 2)  # (B, F·L, H, d)
    lse = chunks.k.new_empty(chunks.q.shape[:3])
    maps = chunks.k.new_empty(*lse.shape, token.shape[1])
    kept = chunks.k.new_empty((*lse.shape, k.shape[2]) if keep else (0,))
    for b, h, r in chunks:
        s = chunks.logits(b, h, r)
        p, most = chunks.probabilities(s), s.amax(-1)
        # the largest probability is exp(0) over the sum
        lse[b, h, r] = (most - p.amax(-1).log()).masked_fill_(most == -torch.inf, -torch.inf)
        out_rows[b, r, h] = torch.bmm(p, values[b, h]).transpose(0, 1)
        maps[b, h, r] = p.index_select(-1, token[b])
        if keep:
            kept[b, h, r] = p
    return out, as_frames(lse, frames), as_frames(maps, frames) * slots.valid[:, None, None, None], kept


def explicit_backward(
    g_out: Tensor | None,
    g_lse: Tensor | None,
    g_sums: Tensor | None,
    g_maps: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slots: Slots,
    key_bias: Tensor | None,
    kept: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients by position, of what `needs` names; P is `kept`, or made again."""
    chunks, frames = _Chunks(q, k, slots, key_bias), q.shape[1]
    dtype, token = chunks.k.dtype, slots.token
    gamma = slots.weights(g_sums, g_maps)
    gamma = None if gamma is None else as_rows(gamma)
    g_lse = None if g_lse is None else as_rows(g_lse)
    g_rows = None if g_out is None else as_rows(g_out)
    values_t = v.to(dtype).transpose(2, 3)
    d_q = row_buffer(q) if needs[Q] else None
    dq_rows = d_q.transpose(2, 3).flatten(1, 2) if needs[Q] else None
    d_k, d_v = (torch.zeros_like(t, dtype=dtype) if need else None for t, need in ((k, needs[K]), (v, needs[V])))
    by_slot = any(needs[BOXES:])
    maps, d_logits = (chunks.k.new_empty(*chunks.q.shape[:3], token.shape[1]) if by_slot else None for _ in range(2))
    for b, h, r in chunks:
        p = chunks.probabilities(chunks.logits(b, h, r)) if kept is None else kept[b, h, r]
        g = None if g_rows is None else g_rows[b, h, r].to(dtype)
        if needs[V] and g is not None:
            d_v[b, h].baddbmm_(p.transpose(1, 2), g)
        if g is not None:
            g = torch.bmm(g, values_t[b, h])
            if gamma is not None:
                _add_columns(g, token[b], gamma[b, h, r])
            d_s = torch.ops.aten._softmax_backward_data(g, p, -1, dtype)
        else:  # only the slots' columns have a gradient
            mine = p.new_zeros(*p.shape[:-1], token.shape[1]) if gamma is None else gamma[b, h, r]
            mine = mine * p.index_select(-1, token[b])
            d_s = p * -mine.sum(-1, keepdim=True)
            _add_columns(d_s, token[b], mine)
        if g_lse is not None:
            d_s = torch.addcmul(d_s, p, g_lse[b, h, r].unsqueeze(-1))
        if needs[Q]:
            dq_rows[b, r, h] = torch.bmm(d_s, chunks.k[b, h]).mul_(chunks.scale).transpose(0, 1).to(q.dtype)
        if needs[K]:
            d_k[b, h].baddbmm_(d_s.transpose(1, 2), chunks.q[b, h, r].to(dtype), alpha=chunks.scale)
        if by_slot:
            maps[b, h, r] = p.index_select(-1, token[b])
            d_logits[b, h, r] = d_s.index_select(-1, token[b])
    grads = [d_q, None if d_k is None else d_k.to(k.dtype), None if d_v is None else d_v.to(v.dtype), None, None, None]
    if by_slot:
        found = slots.gradients(as_frames(maps, frames), as_frames(d_logits, frames), g_sums)
        grads[BOXES:] = [t if need else None for t, need in zip(found, needs[BOXES:], strict=True)]
    return grads


def indicator_columns(q: Tensor, k: Tensor, v: Tensor, slots: Slots) -> tuple[Tensor, Tensor, Tensor]:
    """Q, K and V with a channel more for each slot: attention over them at scale 1/√d adds the bias and returns maps.

    Q gains the slot's logit times √d where K gains [n = n_j]; V gains [n = n_j], so that column d + j of the output is
    P[u, n_j]. All are padded by zeros to one width, a multiple of 8, as kernels ask for.

    Returns:
        (B, H, F·L, D), (B, H, N, D), (B, H, N, D).
    """
    (batch, heads, keys, width), count = k.shape, slots.token.shape[1]
    bias = slots.logits()
    total = -(-(width + count) // 8) * 8
    chosen = indicators(slots.token, keys, v.dtype) * slots.valid.to(v.dtype).unsqueeze(-1)
    chosen = chosen.transpose(1, 2)[:, None].expand(-1, heads, -1, -1)  # (B, H, N, J)
    zeros = v.new_zeros(1).expand(batch, heads, keys, total - width - count)
    values = torch.cat([v, chosen, zeros], -1)
    keys_wide = torch.nn.functional.pad(k, (0, total - width)) if bias is None else torch.cat([k, chosen, zeros], -1)
    rows = as_rows(q)
    if bias is None:
        return torch.nn.functional.pad(rows, (0, total - width)), keys_wide, values
    extra = (bias.flatten(1, 2) * width**0.5).to(q.dtype)[:, None].expand(-1, heads, -1, -1)
    return torch.cat([rows, extra, rows.new_zeros(1).expand(*rows.shape[:3], zeros.shape[-1])], -1), keys_wide, values


def indicator_forward(q: Tensor, k: Tensor, v: Tensor, slots: Slots, key_bias: Tensor | None) -> tuple[Tensor, ...]:
    """As `explicit_forward`, by PyTorch's flash attention for the CPU."""
    (frames, width), count = (q.shape[1], q.shape[-1]), slots.token.shape[1]
    wide = indicator_columns(q, k, v, slots)
    mask = None
    if key_bias is not None:
        mask = key_bias.to(q.dtype)[:, None, None].expand(-1, *wide[0].shape[1:3], -1)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    found, lse = flash(*wide, attn_mask=mask, scale=width**-0.5)
    if key_bias is not None and torch.isneginf(key_bias).all(-1).any():  # rows without a key have zeros already
        lse = lse.masked_fill(torch.isneginf(mask).all(-1), -torch.inf)
    maps = found[..., width : width + count]
    return as_frames(found[..., :width], frames), as_frames(lse, frames), as_frames(maps, frames), lse.new_empty(0)
