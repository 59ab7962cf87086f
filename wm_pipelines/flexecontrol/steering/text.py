"""Text for the encoder: what its limit cuts off, and LoRA layers at another scale for a while."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def cut_off(tokenizer: "PreTrainedTokenizerBase", text: str | list[str], length: int) -> list[str]:
    """What truncation to `length` tokens takes off each text that is longer."""
    ids = tokenizer([text] if isinstance(text, str) else text, truncation=False).input_ids
    return [tokenizer.decode(one[length - 1 : -1]) for one in ids if len(one) > length]


@contextlib.contextmanager
def lora_scaled(model: nn.Module | None, scale: float | None) -> Iterator[None]:
    """LoRA layers of `model` weighted by `scale` inside the block; None leaves them."""
    if model is None or scale is None:
        yield
        return
    scale_lora_layers(model, scale)
    try:
        yield
    finally:
        unscale_lora_layers(model, scale)
