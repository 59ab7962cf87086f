"""Models whose parts are called one by one, under the hooks that move weights to the device and away again.

Three kinds of hooks wait for a `forward`: model offloading (accelerate, the whole model at once), sequential
offloading (accelerate, every layer by itself) and group offloading (diffusers, by layer or by block). Those of the
layers fire by themselves; those of the model never do where only its towers are called. `brought` fires them around
such calls.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def is_offloaded(part: Any) -> bool:
    """Whether a pipeline's component is a module that hooks move between devices, as a whole or in pieces."""
    return isinstance(part, nn.Module) and any(map(_hooked, part.modules()))


def execution_device(model: nn.Module) -> torch.device:
    """Where a model computes: the device that its hooks bring it to, that of its weights where it has none."""
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.device(device)
        group = _group_hook(module)
        if group is not None:
            return group.group.onload_device
    return next(model.parameters()).device


@contextmanager
def brought(model: nn.Module) -> Iterator[nn.Module]:
    """Does for a while what calling `model` would: what its own hooks hold is on the device, and goes back afterwards.

    Afterwards includes after an error. Without hooks nothing happens.

    Raises:
        ValueError: a layer is offloaded by itself that its parent reads without calling it, as attention of
            `nn.MultiheadAttention` does with its output projection (SigLIP): no hook would ever fire for it.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and _hooked(module.out_proj):
            raise ValueError(
                f"{type(model).__name__} is offloaded layer by layer, but `{name}` reads its output projection "
                "without calling it, so it would never be brought back; load the pipeline anew and use "
                "enable_model_cpu_offload(), or group offloading by blocks"
            )
    whole = getattr(model, "_hf_hook", None)
    registry = getattr(model, "_diffusers_hook", None)
    hooks = list(registry.hooks.values()) if registry is not None else []
    if whole is not None:
        whole.pre_forward(model)
    for hook in reversed(hooks):  # the last one registered is the outermost
        hook.pre_forward(model)
    complete = False
    try:
        yield model
        complete = True
    finally:
        for hook in hooks:
            # a pass that broke off says nothing about the order of layers, which the hook of prefetching reads off it
            if complete or hook is _group_hook(model):
                hook.post_forward(model, None)
        if whole is not None:
            _send_back(whole, model)


def _send_back(hook: Any, model: nn.Module) -> None:
    from accelerate.hooks import CpuOffload

    if isinstance(hook, CpuOffload):  # waits for the next model to send it away
        hook.init_hook(model)
    else:
        hook.post_forward(model, None)


def _group_hook(module: nn.Module) -> Any:
    registry = getattr(module, "_diffusers_hook", None)
    return None if registry is None else registry.get_hook("group_offloading")


def _hooked(module: nn.Module) -> bool:
    # diffusers leaves an empty registry on a model whose cache was only ever reset
    return hasattr(module, "_hf_hook") or bool(getattr(getattr(module, "_diffusers_hook", None), "hooks", None))
