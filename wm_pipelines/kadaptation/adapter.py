"""The Kronecker adapter on an image tower: put in, written and read."""

import copy
import os
from pathlib import Path

import torch
from torch import nn

from wm_pipelines.adapters.injected import inject, remove
from wm_pipelines.adapters.kronecker import KroneckerConfig, load_adapter, save_adapter
from wm_pipelines.adapters.kronecker.layer import AdaptedLinear

NAME = "kadaptation"
CONFIG_FILE = "adapter_config.json"
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


def start(tower: nn.Module, config: KroneckerConfig, seed: int) -> list[nn.Parameter]:
    """A new adapter in place of the one there, its start drawn from `seed`; returns what trains.

    Raises:
        ValueError: sizes that n does not divide, or no such target; the old adapter then stays.
    """
    config = copy.deepcopy(config)
    if config.target_modules is None:
        config.target_modules = set(TARGETS)
    inject(tower, config, NAME, seed)
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
