"""Captions as the text encoders of each family of bases give them, and which of their tokens say something."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wm_pipelines.text.prompts import specials_around

CONTENT, BEGIN, OTHER = 0, 1, 2


@dataclass
class Captions:
    """N encoded captions.

    Args:
        embeds: `(N, T, D)`, what the denoiser attends to.
        kinds: int8 `(N, T)`: a word's token (0), the begin-of-text token (1), end of text or padding (2).
        pooled: `(N, P)`, where the family has such a vector.
    """

    embeds: torch.Tensor
    kinds: torch.Tensor
    pooled: torch.Tensor | None = None

    def rows(self, index: Sequence[int]) -> "Captions":
        """Some of them, also repeatedly."""
        index = torch.tensor(list(index), device=self.embeds.device)
        pooled = None if self.pooled is None else self.pooled[index]
        return Captions(self.embeds[index], self.kinds[index], pooled)

    def keep(self, mask: str) -> torch.Tensor:
        """Bool `(N, T)`: the tokens that enter a LogSumExp; for a caption without words "content" keeps none."""
        if mask == "all":
            return torch.ones_like(self.kinds, dtype=torch.bool)
        return self.kinds != BEGIN if mask == "no_bos" else self.kinds == CONTENT


def check_lengths(tokenizers: Sequence[tuple[Any, int]], texts: Sequence[str], truncate: bool) -> None:
    """Refuses captions that an encoder would cut.

    Args:
        tokenizers: each with the tokens that its encoder takes.

    Raises:
        ValueError: names the caption by its place, its tokens and the limit.
    """
    for tokenizer, limit in tokenizers if not truncate else ():
        for n, text in enumerate(texts):
            count = len(tokenizer(text, truncation=False).input_ids)
            if count > limit:
                raise ValueError(
                    f"caption {n} has {count} tokens; the text encoder takes {limit}; pass truncate=True to cut it"
                )


def tokenise(tokenizer: Any, texts: Sequence[str], length: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Ids, attention mask and kinds `(N, length)` of captions, padded and cut."""
    found = tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )  # fmt: skip
    mask = found.attention_mask
    first, last = specials_around(tokenizer)
    place, count = torch.arange(length)[None], mask.sum(1, keepdim=True)
    kinds = torch.full_like(mask, OTHER, dtype=torch.int8)
    kinds[(place >= first) & (place < count - last)] = CONTENT
    kinds[(place < first).expand_as(kinds)] = BEGIN
    return found.input_ids.to(device), mask.to(device), kinds.to(device)


def encode_clip(parts: Any, texts: Sequence[str], device: torch.device) -> Captions:
    """Stable Diffusion 1.x and 2.x: the last hidden states of one CLIP tower."""
    tokenizer, tower = parts.tokenizer, parts.text_encoder
    ids, mask, kinds = tokenise(tokenizer, texts, tokenizer.model_max_length, device)
    used = mask if getattr(tower.config, "use_attention_mask", False) else None
    return Captions(tower(ids, attention_mask=used)[0], kinds)


def encode_two_clips(parts: Any, texts: Sequence[str], device: torch.device) -> Captions:
    """SDXL, and the first half of SD3: the last hidden states but one of two towers, side by side.

    SDXL gives zeros for the empty caption where its index says so (`force_zeros_for_empty_prompt`).
    """
    embeds, pooled, kinds = [], [], None
    for suffix in ("", "_2"):
        tokenizer, tower = getattr(parts, f"tokenizer{suffix}"), getattr(parts, f"text_encoder{suffix}")
        ids, _, own = tokenise(tokenizer, texts, tokenizer.model_max_length, device)
        out = tower(ids, output_hidden_states=True)
        embeds.append(out.hidden_states[-2])
        pooled.append(out[0])
        kinds = own if kinds is None else kinds
    joined = torch.cat(embeds, -1)
    if parts.unet is None:
        return Captions(joined, kinds, torch.cat(pooled, -1))
    found = Captions(joined, kinds, pooled[1])
    if parts.config.get("force_zeros_for_empty_prompt", True):
        empty = torch.tensor([not text for text in texts], device=device)
        found.embeds = found.embeds.masked_fill(empty[:, None, None], 0)
        found.pooled = found.pooled.masked_fill(empty[:, None], 0)
    return found


def encode_sd3(parts: Any, texts: Sequence[str], device: torch.device, length: int) -> Captions:
    """SD3: two CLIP towers padded to the width of T5, then T5's tokens, or zeros where there is no T5."""
    clips = encode_two_clips(parts, texts, device)
    width = parts.transformer.config.joint_attention_dim
    wide = torch.nn.functional.pad(clips.embeds, (0, width - clips.embeds.shape[-1]))
    if parts.text_encoder_3 is None:
        long = wide.new_zeros(len(texts), length, width)
        kinds = torch.full(long.shape[:2], OTHER, dtype=torch.int8, device=device)
    else:
        ids, _, kinds = tokenise(parts.tokenizer_3, texts, length, device)
        long = parts.text_encoder_3(ids)[0].to(wide.dtype)
    return Captions(torch.cat([wide, long], 1), torch.cat([clips.kinds, kinds], 1), clips.pooled)


def encode_flux(parts: Any, texts: Sequence[str], device: torch.device, length: int) -> Captions:
    """Flux: T5's tokens, and the pooled output of a CLIP tower."""
    ids, _, _ = tokenise(parts.tokenizer, texts, parts.tokenizer.model_max_length, device)
    pooled = parts.text_encoder(ids).pooler_output
    ids, _, kinds = tokenise(parts.tokenizer_2, texts, length, device)
    return Captions(parts.text_encoder_2(ids)[0], kinds, pooled)
