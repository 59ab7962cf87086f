"""Adapters that PEFT injected into a model's own layers: taken out and put back without a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft import PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

_LOADED = "_hf_peft_config_loaded"


class Removed(NamedTuple):
    """What `remove` took out of a model, for `put_back`."""

    layers: dict[str, nn.Module]
    config: dict[str, Any] | None
    loaded: bool


def remove(model: nn.Module) -> Removed:
    """Gives the model its own layers back; returns what `put_back` takes."""
    loaded = getattr(model, _LOADED, False)
    if loaded:  # transformers and diffusers look for the adapter's layers when they save
        setattr(model, _LOADED, False)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    for name, layer in layers.items():
        model.set_submodule(name, layer.base_layer)
    return Removed(layers, model.__dict__.pop("peft_config", None), loaded)


def put_back(model: nn.Module, removed: Removed) -> None:
    """Undoes `remove`, whatever was put in since."""
    remove(model)
    for name, layer in removed.layers.items():
        model.set_submodule(name, layer)
    if removed.config is not None:
        model.peft_config = removed.config
    if removed.loaded:
        setattr(model, _LOADED, True)


@contextmanager
def without(model: nn.Module) -> Iterator[None]:
    """For the time of the block the model has no adapter, and no trace of one."""
    removed = remove(model)
    try:
        yield
    finally:
        put_back(model, removed)


@contextmanager
def replacing(model: nn.Module) -> Iterator[None]:
    """A block that puts another adapter in the place of the one there; if it fails, the old one is back."""
    removed = remove(model)
    try:
        yield
    except Exception:
        put_back(model, removed)
        raise


def inject(model: nn.Module, config: PeftConfig, name: str, seed: int) -> None:
    """A new adapter in place of the one there, its start drawn from `seed`.

    Raises:
        ValueError: sizes or targets that don't fit the model; the old adapter then stays.
    """
    with replacing(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, name)
