"""Factors that accelerate keeps elsewhere between forwards: `cpu_offload`, `disk_offload`, sequential offload."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["onloaded"]


def onloaded(module: nn.Module, name: str) -> torch.Tensor:
    """The module's parameter `name`, or what stands for it in the map that accelerate's hook reads.

    Such a hook puts a module's parameters in place before that module's own forward. A dictionary of parameters has
    none, so they stay on the meta device: stock LoKr computes nothing with them, and says nothing.
    """
    parameter = module[name] if isinstance(module, nn.ParameterDict) else getattr(module, name)
    if not parameter.is_meta:
        return parameter
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if getattr(one, "weights_map", None) is not None:
            return one.weights_map[name]
    return parameter
