"""A check that adapted layers really run: fused attention may read a weight without calling its layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .layer import AdaptedLinear

__all__ = ["check_called"]


@contextmanager
def check_called(model: nn.Module, adapter_name: str | None = None) -> Iterator[None]:
    """Call the model inside the block; at its end, adapted layers that no call reached are an error.

    An attention processor that reads `attn.to_v.weight`, or that runs a fused projection in its place, goes past the
    adapter without a word: the model works, and the adapter does nothing.

    Args:
        model: with Kronecker adapters, wrapped by PEFT or injected (diffusers).
        adapter_name: the adapter whose layers must run; all of them by default.

    Example:
        >>> import torch
        >>> from peft import get_peft_model
        >>> from torch import nn
        >>> from wm_pipelines.adapters.kronecker import KroneckerConfig, check_called
        >>> layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
        >>> model = get_peft_model(layers, KroneckerConfig(n=4, target_modules=["0", "1"]))
        >>> with check_called(model):
        ...     _ = model(torch.zeros(1, 8))

    Raises:
        ValueError: the model has no such adapter, or layers were not called; it names them. Other errors of the block
            pass through.
    """
    layers = {
        name.removeprefix("base_model.model."): layer
        for name, layer in model.named_modules()
        if isinstance(layer, AdaptedLinear) and (adapter_name is None or adapter_name in layer.spec)
    }
    if not layers:
        which = "" if adapter_name is None else f" {adapter_name!r}"
        raise ValueError(
            f"no Kronecker adapter{which} in the model; it has {sorted(getattr(model, 'peft_config', {}))}"
        )
    called: set[nn.Module] = set()
    hooks = [layer.register_forward_pre_hook(lambda layer, _: called.add(layer)) for layer in layers.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    missed = [name for name, layer in layers.items() if layer not in called]
    if missed:
        more = f" and {len(missed) - 3} more" if len(missed) > 3 else ""
        raise ValueError(
            f"{len(missed)} of {len(layers)} adapted layers were never called, so their adapters had no effect: "
            f"{', '.join(f'`{name}`' for name in missed[:3])}{more}. A fused or custom attention processor reads "
            "weights directly: use one that calls its layers, or target the fused projection"
        )
