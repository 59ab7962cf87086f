"""The Kronecker adapter on an image tower: put in, taken out, written and read."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import inject_adapter_in_model
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig, load_adapter, save_adapter
from wm_pipelines.adapters.kronecker.layer import AdaptedLinear

NAME = "kadaptation"
CONFIG_FILE = "adapter_config.json"
LOADED = "_hf_peft_config_loaded"
TARGETS = ("q_proj", "v_proj")  # of self-attention in every block of the image tower (section 3 of the paper)


def default_config() -> KroneckerConfig:
    """n = 32, r = 1 on query and value projections, one set of shared factors for each, no bias."""
    return KroneckerConfig(n=32, r=1, target_modules=list(TARGETS))


def has_adapter(tower: nn.Module) -> bool:
    return NAME in getattr(tower, "peft_config", {})


def parameters(tower: nn.Module) -> list[nn.Parameter]:
    """The adapter's factors, each once, in module order."""
    found = {}
    for layer in tower.modules():
        if isinstance(layer, AdaptedLinear):
            for name, parameter in layer.named_parameters(recurse=True):
                if not name.startswith("base_layer."):
                    found[id(parameter)] = parameter
    return list(found.values())


def remove(tower: nn.Module) -> tuple[dict[str, AdaptedLinear], Any, bool]:
    """Gives the tower its own layers back; returns what `put_back` takes."""
    loaded = getattr(tower, LOADED, False)
    if loaded:  # transformers looks for the adapter's layers when it saves
        setattr(tower, LOADED, False)
    layers = {name: module for name, module in tower.named_modules() if isinstance(module, AdaptedLinear)}
    for name, layer in layers.items():
        tower.set_submodule(name, layer.base_layer)
    return layers, tower.__dict__.pop("peft_config", None), loaded


def put_back(tower: nn.Module, removed: tuple[dict[str, AdaptedLinear], Any, bool]) -> None:
    """Undoes `remove`, whatever was put in since."""
    remove(tower)
    layers, config, loaded = removed
    for name, layer in layers.items():
        tower.set_submodule(name, layer)
    if config is not None:
        tower.peft_config = config
    if loaded:
        setattr(tower, LOADED, True)


@contextmanager
def without(tower: nn.Module) -> Iterator[None]:
    """For the time of the block the tower has no adapter, and no trace of one."""
    removed = remove(tower)
    try:
        yield
    finally:
        put_back(tower, removed)


def inject(tower: nn.Module, config: KroneckerConfig, seed: int) -> list[nn.Parameter]:
    """A new adapter in place of the one there, its start drawn from `seed`; returns what trains.

    Raises:
        ValueError: sizes that n does not divide, or no such target; the old adapter then stays.
    """
    config = copy.deepcopy(config)
    if config.target_modules is None:
        config.target_modules = set(TARGETS)
    removed = remove(tower)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, tower, NAME)
    except Exception:
        put_back(tower, removed)
        raise
    return parameters(tower)


def save(tower: nn.Module, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
    """Writes the adapter as PEFT does, in `dtype` if given."""
    save_adapter(tower, folder, NAME, dtype, card=False)


def load(tower: nn.Module, folder: str | os.PathLike) -> None:
    """Reads the adapter of `folder` into the tower, if it holds one, in place of the one there."""
    remove(tower)
    if (Path(folder) / CONFIG_FILE).is_file():
        load_adapter(tower, folder, NAME)
        tower.requires_grad_(False)
