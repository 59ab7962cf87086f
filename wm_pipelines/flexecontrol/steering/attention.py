"""Phrases in the cross-attention: which cells may look at a phrase's tokens, and where its attention lies.

`phrase_attention([unet, control], state)` swaps the processors of every `attn2` for the time of a `with` block.
Binding gives the logits of phrase i's tokens minus infinity at the cells outside its region; other tokens, and the
rows of the unconditional branch, are untouched. A phrase may have an encoding of the prompt of its own, in which the
other phrases are hidden: the cells of its region then look at that one alone, all other cells at the prompt's. Where
maps are recorded the softmax is explicit and in float32; elsewhere the layer's own processor runs, or
scaled-dot-product attention with a bias where binding is on.

With gradient checkpointing run `backward()` inside the block: the recomputation must meet the same processors.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch import nn

from wm_pipelines.flexecontrol.network.blocks import max_pool_to
from wm_pipelines.runtime.attention import swapped_processors

STOCK = (AttnProcessor, AttnProcessor2_0, FusedAttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor)


@dataclasses.dataclass
class PhraseAttention:
    """What the processors share.

    Attributes:
        token_index: (B,P,T) bool, the text positions of each phrase; B counts conditional rows only. A phrase without
            tokens (a dropped caption) has an all-zero map. Positions past T (appended image tokens) belong to none.
        regions: (B,P,H,W), non-zero where a phrase may act; None: everywhere.
        held: (B,P) bool, the phrases that binding speaks about; None: all. The others are only recorded.
        bind: whether cells outside a phrase's region are kept from its tokens.
        record_stride: maps are recorded in layers whose grid is the latent divided by this; None: nowhere.
        latent_hw: height and width of the latent.
        block: (B,P) integers, which encoding a phrase is read in; 0 or None is the prompt's own. Encodings of T tokens
            follow one another, appended image tokens come last.
        maps: layer name -> (B,P,h,w), the mean over heads and the phrase's tokens of the attention probabilities of
            the last forward pass, with gradient. Names begin with the model's class name.
    """

    token_index: torch.Tensor
    regions: torch.Tensor | None
    bind: bool
    record_stride: int | None
    latent_hw: tuple[int, int]
    held: torch.Tensor | None = None
    block: torch.Tensor | None = None
    maps: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.token_index.ndim != 3 or self.token_index.dtype != torch.bool:
            raise ValueError(
                f"token_index must be a bool tensor (B, P, T), got {self.token_index.dtype} of shape "
                f"{tuple(self.token_index.shape)}"
            )
        if self.regions is not None and tuple(self.regions.shape[:2]) != tuple(self.token_index.shape[:2]):
            raise ValueError(
                f"regions must be (B, P, H, W) with (B, P) = {tuple(self.token_index.shape[:2])}, got "
                f"{tuple(self.regions.shape)}"
            )
        if self.regions is not None and self.regions.ndim != 4:
            raise ValueError(f"regions must be (B, P, H, W), got {tuple(self.regions.shape)}")
        self._biases: dict[tuple, torch.Tensor] = {}
        # a number, not a tensor's value, so that a step compiles as one graph
        self._encodings = 1 if self.block is None else 1 + int(self.block.max())

    def hold(self, regions: torch.Tensor, held: torch.Tensor) -> None:
        """Bind from now on by other `regions` (B,P,H,W) and `held` (B,P), as conditions come and go."""
        self.regions, self.held = regions, held
        self._biases.clear()

    @property
    def rows(self) -> int:
        """Conditional rows of the batch."""
        return self.token_index.shape[0]

    def grid(self, cells: int) -> tuple[int, int, int]:
        """(stride, h, w) of the layer that has this many cells; each downsampling halves a side, rounding up."""
        height, width = self.latent_hw
        stride = 1
        while True:
            if height * width == cells:
                return stride, height, width
            if height * width < cells or (height, width) == (1, 1):
                raise ValueError(f"no downsampling of latent_hw={self.latent_hw} has {cells} cells")
            stride, height, width = 2 * stride, math.ceil(height / 2), math.ceil(width / 2)

    def bias(self, grid: tuple[int, int], length: int, like: torch.Tensor) -> torch.Tensor | None:
        """0 or -inf, (B, 1, cells, length), in `like`'s dtype and device; None when nothing is bound."""
        if not self.bind or self.regions is None:
            return None
        key = (grid, length, like.dtype, like.device)
        if key not in self._biases:
            blocked = self._blocked(grid, length, like.device)
            bias = torch.zeros(blocked.shape, device=like.device, dtype=like.dtype)
            self._biases[key] = bias.masked_fill_(blocked, float("-inf"))[:, None]
        return self._biases[key]

    def _blocked(self, grid: tuple[int, int], length: int, device: torch.device) -> torch.Tensor:
        """(B, cells, length), what each cell may not look at."""
        tokens = self.token_index.to(device)
        held = tokens.new_ones(tokens.shape[:2]) if self.held is None else self.held.to(device)
        inside = max_pool_to(self.regions.to(device), grid).flatten(2) > 0  # (B,P,cells)
        bound = tokens & held[..., None]
        allowed = torch.einsum("bpl,bpt->blt", inside.float(), bound.float()) > 0
        own = bound.any(1)[:, None] & ~allowed  # in the prompt's own encoding
        if self._encodings == 1:
            return F.pad(own, (0, length - own.shape[-1]))
        block = self.block.to(device)
        apart = held & (block > 0)
        # the prompt's own encoding is closed to the cells of phrases that have an encoding of their own; each of those
        # is open to its phrase's cells alone, without the words of the others
        parts = [own | (inside & apart[..., None]).any(1)[..., None]]
        for k in range(1, self._encodings):
            mine = apart & (block == k)
            there = (inside & mine[..., None]).any(1)  # (B,cells)
            words, others = ((tokens & some[..., None]).any(1) for some in (mine, apart & ~mine))  # (B,T)
            parts.append(~there[..., None] | (others & ~words)[:, None])
        text = torch.cat(parts, -1)
        return F.pad(text, (0, length - text.shape[-1]))

    def record(self, name: str, probabilities: torch.Tensor, grid: tuple[int, int]) -> None:
        """Keep the maps of one layer from (B, heads, cells, length) float32 probabilities."""
        tokens = self._tokens(probabilities.shape[-1]).to(probabilities)
        count = tokens.sum(-1).clamp(min=1)  # (B,P)
        maps = torch.einsum("blt,bpt->bpl", probabilities.mean(1), tokens) / count[..., None]
        self.maps[name] = maps.reshape(*maps.shape[:2], *grid)

    def _tokens(self, length: int) -> torch.Tensor:
        """(B,P,length), where each phrase is read."""
        text = self.token_index.shape[-1] * self._encodings
        if length < text:
            raise ValueError(f"the text has {length} tokens, token_index has {text}")
        index = F.pad(self.token_index, (0, length - self.token_index.shape[-1]))
        if self._encodings == 1:
            return index
        shift = self.block.to(index.device)[..., None] * self.token_index.shape[-1]
        at = (torch.arange(length, device=index.device) - shift) % length
        return index.gather(2, at)

    def mean_map(self, prefixes: Sequence[str] = ("",)) -> torch.Tensor | None:
        """(B,P,h,w): mean over the recorded layers whose names begin with one of `prefixes`; None without any."""
        chosen = [m for name, m in self.maps.items() if name.startswith(tuple(prefixes))]
        return torch.stack(chosen).mean(0) if chosen else None


class PhraseProcessor:
    """An attention processor that stands before a layer's own one."""

    def __init__(self, name: str, inner: Any, state: PhraseAttention):
        self.name, self.inner, self.state = name, inner, state

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        state = self.state
        if hidden_states.ndim != 3 or encoder_hidden_states is None:
            raise ValueError(f"{self.name}: phrases need a cross-attention over (batch, cells, channels)")
        batch, cells, _ = hidden_states.shape
        stride, *grid = state.grid(cells)
        record = state.record_stride == stride
        bias = state.bias(tuple(grid), encoder_hidden_states.shape[1], hidden_states)
        if not record and bias is None:
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **kwargs)
        if batch not in (state.rows, 2 * state.rows):
            raise ValueError(f"the batch has {batch} rows; the phrases are for {state.rows}, or twice with guidance")

        residual = hidden_states
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if attn.norm_cross:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
        query, key, value = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        )
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        mask = None
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, encoder_hidden_states.shape[1], batch)
            mask = mask.unflatten(0, (batch, attn.heads)).to(query)

        first = batch - state.rows  # guidance stacks [unconditional, conditional]
        parts = []
        if first:
            plain = None if mask is None else mask[:first]
            parts.append(_sdpa(query[:first], key[:first], value[:first], plain, attn.scale))
        query, key, value = query[first:], key[first:], value[first:]
        if mask is not None:
            bias = mask[first:] if bias is None else mask[first:] + bias
        if record:
            logits = (query.float() @ key.float().transpose(-1, -2)) * attn.scale
            probabilities = (logits if bias is None else logits + bias.float()).softmax(-1)
            state.record(self.name, probabilities, tuple(grid))
            parts.append(probabilities.to(value.dtype) @ value)
        else:
            parts.append(_sdpa(query, key, value, bias, attn.scale))

        hidden_states = torch.cat(parts).transpose(1, 2).flatten(2).to(query.dtype)
        hidden_states = attn.to_out[1](attn.to_out[0](hidden_states))
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scale: float
) -> torch.Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)


@contextlib.contextmanager
def phrase_attention(
    models: Sequence[nn.Module] | Mapping[str, nn.Module], state: PhraseAttention
) -> Iterator[PhraseAttention]:
    """Put phrase processors into every `attn2` of `models` (UNet, adapter; LoRA and PEFT layers included).

    The layers' own processors come back on exit, also after an exception.

    Args:
        models: map names begin with the class name of each, or with the key of a mapping.

    Raises:
        ValueError: a layer whose processor does more than plain attention (IP-Adapter and the like) cannot be bound.
    """
    named = models if isinstance(models, Mapping) else {type(model).__name__: model for model in models}
    if len(named) != len(models):
        raise ValueError("two models of one class: pass a mapping from names to models")
    found: dict[str, Attention] = {}
    for prefix, model in named.items():
        for name, module in model.named_modules():
            if name.rsplit(".", 1)[-1] == "attn2" and isinstance(module, Attention):
                if not isinstance(module.processor, STOCK):
                    kind = type(module.processor).__name__
                    raise ValueError(
                        f"{prefix}.{name} has a {kind}: phrases need plain attention; unload it, or binding=none"
                    )
                found[f"{prefix}.{name}"] = module
    with swapped_processors(found, lambda name, inner: PhraseProcessor(name, inner, state)):
        yield state
