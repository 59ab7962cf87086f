"""What a denoiser's attention says about a text: the LogSumExp of its logits, read while the denoiser runs.

A capturing processor computes the logits of a site by the layer's own projections and hands the call on to the
processor that was there, so what the denoiser predicts does not change by a bit.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, JointAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from torch import nn
from torch.nn import functional

from wm_pipelines.runtime.attention import swapped_processors

KNOWN = (AttnProcessor, AttnProcessor2_0, JointAttnProcessor2_0, FluxAttnProcessor)


@dataclass
class Capture:
    """What is read at the sites of one pass over B samples with T text tokens.

    Args:
        keep: bool `(B, T)`, the tokens that count.
        lse_lambda: inverse temperature λ of (1/λ) log Σ exp(λ s); `on`: s is "logits", or "probs" after the softmax.
        latent: (height, width) of the latents, where maps are asked for; else None.
    """

    keep: torch.Tensor
    lse_lambda: float = 1.0
    on: str = "logits"
    latent: tuple[int, int] | None = None
    lse: dict[str, torch.Tensor] = field(default_factory=dict)
    maps: dict[str, torch.Tensor] = field(default_factory=dict)

    def record(self, site: str, logits: torch.Tensor) -> None:
        """Keeps the mean over pixels of the LogSumExp over tokens, `(B, heads)`, of logits `(B, heads, N, T)`."""
        logits = logits.float()
        values = logits if self.on == "logits" else logits.softmax(-1)
        values = (self.lse_lambda * values).masked_fill(~self.keep[:, None, None], float("-inf"))
        self.lse[site] = values.logsumexp(-1).mean(-1) / self.lse_lambda
        if self.latent is not None:
            self.maps[site] = self._map(logits.softmax(-1).mean(1))

    def _map(self, probabilities: torch.Tensor) -> torch.Tensor:
        """`(B, T, h, w)` on the grid of the latents, of `(B, N, T)`."""
        height, width = self.latent
        side = round((height * width / probabilities.shape[1]) ** 0.5)
        grid = probabilities.transpose(1, 2).unflatten(-1, (height // side, width // side))
        return functional.interpolate(grid, (height, width), mode="bilinear", align_corners=False)

    def stacked(self, names: list[str]) -> torch.Tensor:
        """`(B, heads of all sites)`, site by site."""
        return torch.cat([self.lse[name] for name in names], 1)

    def mean_map(self) -> torch.Tensor:
        """`(B, T, h, w)`: the mean over sites."""
        return torch.stack(list(self.maps.values())).mean(0)


class CapturingProcessor:
    """Records the logits of image queries against text keys, then does what `own` does."""

    def __init__(self, site: str, own: Any, capture: Capture):
        self.site, self.own, self.capture = site, own, capture

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> Any:
        logits = text_logits(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        self.capture.record(self.site, logits)
        rotary = {} if image_rotary_emb is None else {"image_rotary_emb": image_rotary_emb}
        return self.own(attn, hidden_states, encoder_hidden_states, attention_mask=attention_mask, **rotary)


def text_logits(
    attn: nn.Module, image: torch.Tensor, text: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """QKᵀ/√d `(B, heads, N, T)` of image queries and text keys, in cross-attention or a joint block.

    Args:
        image: `(B, N, C)`. text: `(B, T, D)`. rotary: cosines and sines of text positions, then image positions.
    """
    joint = getattr(attn, "add_k_proj", None) is not None
    if not joint and getattr(attn, "norm_cross", None) is not None:
        text = attn.norm_encoder_hidden_states(text)
    query = attn.to_q(image).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    key = (attn.add_k_proj if joint else attn.to_k)(text).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    norm = getattr(attn, "norm_added_k", None) if joint else attn.norm_k
    if norm is not None:
        key = norm(key)
    if rotary is not None:
        length = key.shape[2]
        query = apply_rotary_emb(query, tuple(part[length:] for part in rotary))
        key = apply_rotary_emb(key, tuple(part[:length] for part in rotary))
    return query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5


def cross_sites(unet: nn.Module, which: str) -> dict[str, nn.Module]:
    """Cross-attention layers of a UNet by name.

    Args:
        which: "released": of down, middle and up blocks the last one that has cross-attention, all its layers, as in
            the authors' code; "all": every one.

    Raises:
        ValueError: the UNet has none.
    """
    found = {name: module for name, module in unet.named_modules() if name.endswith(".attn2")}
    if not found:
        raise ValueError(f"base: {type(unet).__name__} has no cross-attention, so it says nothing about a text")
    if which == "all":
        return found
    last: dict[str, str] = {}
    for name in found:
        last[name.split(".")[0]] = _block(name)
    chosen = set(last.values())
    return {name: module for name, module in found.items() if _block(name) in chosen}


def joint_sites(transformer: nn.Module) -> dict[str, nn.Module]:
    """Attention of the joint blocks of SD3's or Flux's transformer, by name.

    Raises:
        ValueError: there is none.
    """
    found = {
        name: module
        for name, module in transformer.named_modules()
        if name.startswith("transformer_blocks.") and name.endswith(".attn")
        and getattr(module, "add_k_proj", None) is not None
    }  # fmt: skip
    if not found:
        raise ValueError(f"base: {type(transformer).__name__} has no joint blocks, so it says nothing about a text")
    return found


def check_processors(sites: Mapping[str, nn.Module]) -> None:
    """Refuses sites whose processors are not stock ones: their logits could not be known.

    Raises:
        ValueError: names the site and what stands there.
    """
    for name, layer in sites.items():
        found = type(layer.processor)
        if found not in KNOWN or getattr(layer, "fused_projections", False):
            what = "fused projections" if found in KNOWN else found.__name__
            raise ValueError(
                f"attention capture needs our processor on site {name}; found {what}; set the default processors "
                "first (set_default_attn_processor, or unfuse_qkv_projections)"
            )


@contextmanager
def capturing(sites: Mapping[str, nn.Module], capture: Capture) -> Iterator[Capture]:
    """For the time of the block the sites' logits go to `capture`; their own processors come back afterwards.

    Raises:
        ValueError: as `check_processors`.
    """
    check_processors(sites)
    with swapped_processors(sites, lambda name, own: CapturingProcessor(name, own, capture)):
        yield capture


def _block(name: str) -> str:
    """ "down_blocks.2" of "down_blocks.2.attentions.0. ..", "mid_block" of "mid_block.attentions.0. .."."""
    parts = name.split(".")
    return parts[0] if parts[0] == "mid_block" else ".".join(parts[:2])
