"""diffusers' writers of LoRA files refuse Kronecker factors: whatever reads such files knows nothing of them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable

from torch import nn

from .config import KroneckerConfig

__all__ = ["guard_lora_writers"]

_INSTEAD = (
    f"no reader of LoRA files knows them; {__package__}.save_lora(model, folder, format='diffusers') writes the exact "
    "LoRA form, save_adapter the factors themselves"
)


def guard_lora_writers() -> None:
    """Puts a check before `save_lora_adapter` and `save_lora_weights`; does nothing twice, or without diffusers.

    Both would write a file, and nothing would load it. They offer no hook, so diffusers' two base classes get one,
    wherever they have been imported by the time that an adapter is made or its state dict is asked for.
    """
    adapters, base = (sys.modules.get(f"diffusers.loaders.{name}") for name in ("peft", "lora_base"))
    if adapters is not None and not hasattr(adapters.PeftAdapterMixin.save_lora_adapter, "refuses_kronecker"):
        _guard_adapter(adapters.PeftAdapterMixin)
    if base is not None and not hasattr(base.LoraBaseMixin.pack_weights, "refuses_kronecker"):
        _guard_weights(base.LoraBaseMixin)


def _guard_adapter(mixin: type) -> None:
    stock = mixin.save_lora_adapter

    @functools.wraps(stock)
    def save_lora_adapter(self, save_directory, adapter_name="default", *args, **kwargs):
        configs = getattr(self, "peft_config", {})
        name = next(iter(configs), None) if adapter_name is None else adapter_name
        if isinstance(configs.get(name), KroneckerConfig):
            raise ValueError(f"adapter {name!r} of this {type(self).__name__} has Kronecker factors: {_INSTEAD}")
        return stock(self, save_directory, adapter_name, *args, **kwargs)

    save_lora_adapter.refuses_kronecker = True
    mixin.save_lora_adapter = save_lora_adapter


def _guard_weights(mixin: type) -> None:
    stock = mixin.pack_weights

    @functools.wraps(stock)
    def pack_weights(layers, prefix):
        keys: Iterable[str] = layers.state_dict() if isinstance(layers, nn.Module) else layers
        found = next((key for key in keys if "kronecker_" in key), None)
        if found is not None:
            raise ValueError(f"`{prefix}_lora_layers` has Kronecker factors, such as {found}: {_INSTEAD}")
        return stock(layers, prefix)

    pack_weights.refuses_kronecker = True
    mixin.pack_weights = staticmethod(pack_weights)
