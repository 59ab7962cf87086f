"""CLIP's two towers as functions of a stock `CLIPModel`: texts as ids or as embeddings, and pictures.

The text tower is causal and is read at end-of-text, so nothing after a row's first end-of-text changes its feature.
Rows are therefore cut at the last end-of-text of their pass instead of run to the model's 77 tokens: the same feature
up to the order of summation (1e-5 relative in fp32, 1e-12 in fp64), at less cost the shorter the prompts are.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from wm_pipelines.runtime.offloading import execution_device

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTextConfig, CLIPTokenizer

MAX_TOKENS = 8192  # text positions in one pass
MAX_IMAGES = 64  # pictures in one pass

# `rows(start, stop, length)`: input embeddings (stop - start, length, width) of these rows, cut at `length`
Rows = Callable[[int, int, int], torch.Tensor]


def tokenize(
    tokenizer: "CLIPTokenizer",
    texts: Sequence[str],
    limit: int,
    what: str = "text",
    reserved: int = 0,
) -> torch.Tensor:
    """Token ids of `texts`, start- and end-of-text included, padded to the longest, int64 `(N, L)`.

    Args:
        limit: tokens that the text tower holds, `clip.config.text_config.max_position_embeddings`.
        what: the argument's word for one text, for the message.
        reserved: further tokens that the caller will insert.

    Raises:
        ValueError: no text, an entry that is not a string or is blank, or one of more than `limit` tokens.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise ValueError(f"no {what} given; at least one is needed")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{what} must be a non-empty string, got {text!r}")
    ids = tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"]
    for text, row in zip(texts, ids, strict=True):
        if len(row) + reserved > limit:
            inside = f"{reserved} context + SOS/EOS" if reserved else "SOS/EOS included"
            raise ValueError(f"{what} {text!r} is {len(row) + reserved} tokens; limit is {limit} ({inside})")
    length = max(map(len, ids))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return torch.tensor([row + [pad] * (length - len(row)) for row in ids])


def eos_positions(input_ids: torch.Tensor, config: "CLIPTextConfig") -> torch.Tensor:
    """Where each row is read, int64 `(N,)`: at its first end-of-text.

    Configurations written before transformers' fix of `eos_token_id` say 2, which is no end-of-text; there, as in the
    original code, the largest id of the row is taken.

    Raises:
        ValueError: a row has no end-of-text, so that it would be read at its first token.
    """
    if config.eos_token_id == 2:
        return input_ids.argmax(-1)
    found = input_ids == config.eos_token_id
    if not bool(found.any(-1).all()):
        row = int((~found.any(-1)).nonzero()[0])
        raise ValueError(f"input_ids row {row} has no end-of-text token ({config.eos_token_id})")
    return found.int().argmax(-1)


def encode_rows(clip: "CLIPModel", rows: Rows, eos: torch.Tensor, max_tokens: int = MAX_TOKENS) -> torch.Tensor:
    """Projected text features `(N, projection_dim)` of rows of input embeddings, not normalised.

    Args:
        rows: makes the embeddings (without positions) of a range of rows; called once a pass, so that not all of them
            need exist at a time. Where gradients are on and there is more than one pass, it is called again in the
            backward pass, and only one pass's activations are held.
        eos: position of the end-of-text of each row, int64 `(N,)`.
        max_tokens: memory bound, in text positions a pass; a pass takes at least one row.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}; it must be at least 1")
    ends = eos.tolist()
    count = max(1, max_tokens // (max(ends) + 1))
    starts = range(0, len(ends), count)

    def one(start: int) -> torch.Tensor:
        stop = min(start + count, len(ends))
        return _tower(clip, rows(start, stop, max(ends[start:stop]) + 1), eos[start:stop])

    if len(starts) == 1:
        return one(0)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(one, start, use_reentrant=False) for start in starts])
    return torch.cat([one(start) for start in starts])


def encode_embeds(
    clip: "CLIPModel", inputs_embeds: torch.Tensor, eos: torch.Tensor, max_tokens: int = MAX_TOKENS
) -> torch.Tensor:
    """Projected, not normalised text features `(N, projection_dim)` of input embeddings `(N, L, width)`."""
    return encode_rows(clip, lambda start, stop, length: inputs_embeds[start:stop, :length], eos, max_tokens)


def encode_ids(clip: "CLIPModel", input_ids: torch.Tensor, max_tokens: int = MAX_TOKENS) -> torch.Tensor:
    """Projected, not normalised text features `(N, projection_dim)` of token ids `(N, L)`."""
    table = clip.text_model.embeddings.token_embedding
    input_ids = input_ids.to(execution_device(clip))
    eos = eos_positions(input_ids, clip.config.text_config)
    return encode_rows(clip, lambda start, stop, length: table(input_ids[start:stop, :length]), eos, max_tokens)


def encode_texts(
    clip: "CLIPModel",
    tokenizer: "CLIPTokenizer",
    texts: Sequence[str],
    unit: bool = True,
    max_tokens: int = MAX_TOKENS,
    what: str = "text",
) -> torch.Tensor:
    """Projected text features `(N, projection_dim)`, of length one if `unit`.

    Raises:
        ValueError: as `tokenize`; `what` is the word for one text in the message.
    """
    ids = tokenize(tokenizer, texts, clip.config.text_config.max_position_embeddings, what)
    features = encode_ids(clip, ids, max_tokens)
    return functional.normalize(features, dim=-1) if unit else features


def encode_images(
    clip: "CLIPModel", pixel_values: torch.Tensor, unit: bool = True, max_images: int = MAX_IMAGES
) -> torch.Tensor:
    """Projected picture features `(N, projection_dim)` of `(N, 3, H, W)`, of length one if `unit`."""
    device, dtype = execution_device(clip), clip.visual_projection.weight.dtype
    features = torch.cat(
        [
            clip.visual_projection(clip.vision_model(part.to(device, dtype)).pooler_output)
            for part in pixel_values.split(max_images)
        ]
    )
    return functional.normalize(features, dim=-1) if unit else features


def _tower(clip: "CLIPModel", inputs_embeds: torch.Tensor, eos: torch.Tensor) -> torch.Tensor:
    text = clip.text_model
    hidden = text.embeddings(inputs_embeds=inputs_embeds)
    mask = _causal_mask(text.config, hidden)
    hidden = text.encoder(inputs_embeds=hidden, attention_mask=mask, is_causal=True).last_hidden_state
    rows = torch.arange(len(hidden), device=hidden.device)
    return clip.text_projection(text.final_layer_norm(hidden)[rows, eos])


def _causal_mask(config: "CLIPTextConfig", hidden: torch.Tensor) -> torch.Tensor | None:
    """What the stock tower makes for texts without padding; None where attention is told `is_causal` instead.

    The cache, which there is none of, is called `past_key_values` up to transformers 5.23 and `cache` after it.
    """
    from transformers.masking_utils import create_causal_mask

    given = {"config": config, "inputs_embeds": hidden, "attention_mask": None, "past_key_values": None, "cache": None}
    taken = signature(create_causal_mask).parameters
    return create_causal_mask(**{name: value for name, value in given.items() if name in taken})
