"""Kronecker updates as patches of a native ComfyUI model: its key names, and a weight adapter that adds the update.

Imported when a node runs, for it needs ComfyUI's model code.
"""

from typing import Any

import comfy.lora
import comfy.model_management
import torch
from comfy.weight_adapter import WeightAdapterBase


class KroneckerPatch(WeightAdapterBase):
    """Adds strength·ΔW of one adapted layer to a native weight. Only the factors are kept; ΔW is made when needed."""

    name = "kronecker"

    def __init__(self, layer: Any):
        self.layer = layer
        self.loaded_keys: set[str] = set()
        self.weights: list[torch.Tensor] = []

    def calculate_weight(
        self,
        weight: torch.Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> torch.Tensor:
        """Changes `weight` in place, as ComfyUI's own adapters do, and returns it."""
        delta = self.layer.full_delta("default", weight.device).reshape(weight.shape)
        weight += function((strength * delta).type(weight.dtype))
        return weight


def patches_for(model: Any, layers: dict[str, Any]) -> dict[Any, Any]:
    """What `ModelPatcher.add_patches` takes, from layers under diffusers' or native module names.

    Args:
        model: a ComfyUI base model (`patcher.model`).
        layers: from `wm_pipelines.adapters.kronecker.read_layers`.

    Raises:
        ValueError: modules without a counterpart in the model, of another size, or with a bias it lacks; none is
            patched then.
    """
    known, state = comfy.lora.model_lora_keys_unet(model, {}), model.state_dict()
    keys = {name: _native_key(name, known) for name in layers}
    unknown = [name for name, key in keys.items() if key is None]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(keys)} adapted modules have no counterpart in this {type(model).__name__}: "
            f"{', '.join(unknown[:3])}; the adapter is for another model, or for another part of it"
        )
    patches: dict[Any, Any] = {}
    for name, layer in layers.items():
        key, *place = keys[name] if isinstance(keys[name], tuple) else (keys[name],)
        shape = list(state[key].shape)
        if place and place[0] is not None:
            shape[place[0][0]] = place[0][2]
        if shape[:2] != [layer.out_features, layer.in_features] or any(size != 1 for size in shape[2:]):
            raise ValueError(
                f"`{name}` is adapted at {layer.out_features} x {layer.in_features}, but {key} is {shape}: the "
                "adapter is for another model"
            )
        patches[(key, *place) if place else key] = KroneckerPatch(layer)
        bias = layer.full_bias("default")
        if bias is not None:
            bias_key = key.removesuffix("weight") + "bias"
            if bias_key not in state:
                raise ValueError(f"`{name}` is adapted with a bias, but {key} has none in this model")
            patches[(bias_key, *place) if place else bias_key] = ("diff", (bias.detach(),))
    return patches


def _native_key(name: str, known: dict[str, Any]) -> Any:
    """ComfyUI's own tables name modules in several ways; None where none of them has it."""
    flat = name.replace(".", "_")
    candidates = (f"lora_unet_{flat}", f"transformer.{name}", f"lora_transformer_{flat}", f"lycoris_{flat}")
    return next((known[c] for c in (*candidates, f"diffusion_model.{name}", name) if c in known), None)
