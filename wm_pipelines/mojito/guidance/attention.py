"""Attention processors that measure, and may bias, how a video attends to the phrases of its objects.

`motion_attention_processors(family, denoiser, state)` puts one before the processor of every layer that attends to
text, for the time of a `with` block; where the state asks nothing of a layer its own processor runs.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from wm_pipelines.kernels import motion_attention
from wm_pipelines.mojito.bases.families import Family
from wm_pipelines.mojito.guidance.edits import edited_attention
from wm_pipelines.mojito.guidance.state import MotionState, Sums
from wm_pipelines.runtime.attention import swapped_processors


class Projected(NamedTuple):
    """A layer's input: q (V, F, H, L, d), k and v (V, H, N, d), an additive key bias (V, N) or None; of joint layers
    the queries of the text (V, H, T, d); of layers that attend to a picture too, by a softmax of its own, what that
    gives (V, F, H, L, d)."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    key_bias: torch.Tensor | None = None
    text_q: torch.Tensor | None = None
    picture: torch.Tensor | None = None


def _heads(attn: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _unet(attn, hidden, text, mask, frames, rotary) -> Projected:
    """`diffusers.Attention`, one frame a row: the text is the same in all frames of a video, so it is read once."""
    if attn.group_norm is not None:
        hidden = attn.group_norm(hidden.transpose(1, 2)).transpose(1, 2)
    text = text[::frames]
    if attn.norm_cross:
        text = attn.norm_encoder_hidden_states(text)
    q, k, v = _heads(attn, attn.to_q(hidden)), _heads(attn, attn.to_k(text)), _heads(attn, attn.to_v(text))
    q = q if attn.norm_q is None else attn.norm_q(q)
    k = k if attn.norm_k is None else attn.norm_k(k)
    return Projected(q.unflatten(0, (-1, frames)), k, v, None if mask is None else mask[::frames, 0])


def _video(attn, hidden, text, mask, frames, rotary) -> Projected:
    """Wan's and LTX's: all frames in one row, norms over all heads together, no rotation of the text.

    Where Wan 2.1 animates a picture, its tokens come before those of the text.
    """
    whole = _heads(attn, attn.norm_q(attn.to_q(hidden)))  # (V, H, F * L, d)
    picture = None
    if getattr(attn, "add_k_proj", None) is not None:
        own, text = text[:, :-WAN_TEXT], text[:, -WAN_TEXT:]
        keys, values = _heads(attn, attn.norm_added_k(attn.add_k_proj(own))), _heads(attn, attn.add_v_proj(own))
        picture = F.scaled_dot_product_attention(whole, keys, values).unflatten(2, (frames, -1)).transpose(1, 2)
    k, v = attn.norm_k(attn.to_k(text)), attn.to_v(text)
    q = whole.unflatten(2, (frames, -1)).transpose(1, 2)
    key_bias = None if mask is None else mask[:, 0]
    return Projected(q, _heads(attn, k), _heads(attn, v), key_bias, picture=picture)


def _joint(attn, hidden, text, mask, frames, rotary) -> Projected:
    """CogVideoX's: one softmax over [text, video], rotated where it is video."""
    from diffusers.models.embeddings import apply_rotary_emb

    both = torch.cat([text, hidden], dim=1)
    q, k, v = (_heads(attn, to(both)) for to in (attn.to_q, attn.to_k, attn.to_v))
    q = q if attn.norm_q is None else attn.norm_q(q)
    k = k if attn.norm_k is None else attn.norm_k(k)
    length = text.shape[1]
    text_q, q = q[:, :, :length], q[:, :, length:]
    if rotary is not None:
        q = apply_rotary_emb(q, rotary)
        k = torch.cat([k[:, :, :length], apply_rotary_emb(k[:, :, length:], rotary)], dim=2)
    return Projected(q.unflatten(2, (frames, -1)).transpose(1, 2), k, v, None, text_q)


WAN_TEXT = 512  # text tokens, as WanAttnProcessor counts them behind a picture's

# Stock processors that can be stood in for, and how each layer projects.
LAYOUTS = {
    "AttnProcessor": _unet,
    "AttnProcessor2_0": _unet,
    "SlicedAttnProcessor": _unet,
    "XFormersAttnProcessor": _unet,
    "WanAttnProcessor": _video,
    "LTXVideoAttnProcessor": _video,
    "CogVideoXAttnProcessor2_0": _joint,
}


class MotionAttnProcessor:
    """Stands before a layer's own processor."""

    def __init__(self, name: str, inner: Any, family: Family, state: MotionState) -> None:
        self.name, self.inner, self.family, self.state = name, inner, family, state
        self.project = LAYOUTS[type(inner).__name__]

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *args: Any,
        temb: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
        **kwargs: Any,
    ) -> Any:
        state = self.state
        if not state.acts_on(self.name):
            named = {"temb": temb, "image_rotary_emb": image_rotary_emb}
            kwargs |= {name: value for name, value in named.items() if value is not None}
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
        residual = hidden_states
        p = self.project(attn, hidden_states, encoder_hidden_states, attention_mask, state.frames, image_rotary_emb)
        out = torch.stack([self._row(p, row, video, attn) for row, video in enumerate(state.rows)])  # (V,F,H,L,d)
        if p.picture is not None:
            out = out + p.picture
        out = out.transpose(2, 3).flatten(3)  # (V, F, L, H * d)
        out = out.flatten(0, 1) if self.family.spatial else out.flatten(1, 2)
        if p.text_q is not None:
            text = F.scaled_dot_product_attention(p.text_q, p.k, p.v, scale=attn.scale)
            out = torch.cat([text.transpose(1, 2).flatten(2), out], dim=1)
        out = attn.to_out[1](attn.to_out[0](out.to(hidden_states.dtype)))
        if p.text_q is not None:
            length = p.text_q.shape[2]
            return out[:, length:], out[:, :length]
        if getattr(attn, "residual_connection", False):
            out = out + residual
        return out / getattr(attn, "rescale_output_factor", 1.0)

    def _row(self, p: Projected, row: int, video: int | None, attn: nn.Module) -> torch.Tensor:
        """The attention of one video, (F, H, L, d); that of a conditional one is measured and biased."""
        q, k, v = p.q[row], p.k[row], p.v[row]
        key_bias = None if p.key_bias is None else p.key_bias[row]
        state = self.state
        measured = state.measuring and self.name in state.tapped
        if video is None or not (measured or state.biased):
            return _plain(q, k, v, key_bias)
        slots = state.slots[video]
        grid = state.grid(q.shape[2])
        edited = None
        if state.edit is not None:
            edited = edited_attention(q, k, v, slots, grid, key_bias, state.edit)
            if not measured:
                return edited
        tokens = slots.tokens
        bias = {}
        if state.bias_in or state.bias_out:
            ones = torch.ones(len(slots.weights), device=q.device)
            bias = {"bias_in": state.bias_in * ones, "bias_out": state.bias_out * ones}
        batched = [x[None] for x in (q, k, v, slots.boxes)]
        key_bias = None if key_bias is None else key_bias[None]
        found = motion_attention(*batched, tokens, slots.owners, grid=grid, key_bias=key_bias, **bias)
        out = found.out[0] if edited is None else edited
        if measured:  # an edit comes after the softmax, so what it edits is measured
            if state.renormalise and slots.length < k.shape[1]:
                # padding takes part in the layer's softmax, but no object is found there
                real = torch.zeros(1, k.shape[1], device=q.device)
                real[:, slots.length :] = float("-inf")
                found = motion_attention(*batched, tokens, slots.owners, grid=grid, key_bias=real, **bias)
            sums = Sums(found.I[0], found.Z[0], found.Cx[0], found.Cy[0], q.shape[2])
            state.sums.setdefault(self.name, [None] * len(state.slots))[video] = sums
        return out


def _plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_bias: torch.Tensor | None) -> torch.Tensor:
    mask = None if key_bias is None else key_bias[None, None, None].to(q.dtype)
    return F.scaled_dot_product_attention(
        q, k[None].expand(len(q), -1, -1, -1), v[None].expand(len(q), -1, -1, -1), mask
    )


@contextlib.contextmanager
def motion_attention_processors(family: Family, denoiser: nn.Module, state: MotionState) -> Iterator[None]:
    """Put the processors in for the time of the block; the layers' own come back on exit, also after an exception.

    Raises:
        ValueError: no layer attends to text, or one does it by a processor that can't be stood in for (fused
            projections, IP-Adapter, perturbed guidance ...).
    """
    modules = family.modules(denoiser)
    if not modules:
        raise ValueError(f"{type(denoiser).__name__} has no layer that attends to text; Mojito needs cross-attention")
    for name, module in modules.items():
        kind = type(module.processor).__name__
        # `diffusers.Attention` shows fused projections by its processor and keeps the flag when they are taken apart
        fused = LAYOUTS.get(kind) is _video and getattr(module, "fused_projections", False)
        if kind not in LAYOUTS or fused:
            what = f"{kind}{' with fused projections' if fused else ''}"
            raise ValueError(f"{name} has a {what}: unload or unfuse it; Mojito takes plain attention")
    with swapped_processors(modules, lambda name, inner: MotionAttnProcessor(name, inner, family, state)):
        yield
