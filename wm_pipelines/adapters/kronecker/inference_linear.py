"""One frozen adapter beside its base in a single product: W and Qᵀ stacked, y and x Q from one read of x.

    [y ‖ s] = x [W; Qᵀ]ᵀ + [b ‖ 0]        y += s Pᵀ  in place        ΔW = P Qᵀ, of rank m·r

For inference where merging is not wanted, as rounding to half precision would lose part of ΔW. Nothing chooses this
form by itself: whether it pays is a matter of sizes and machine (`benchmarks/kronecker_speed.py`, "ours, augmented").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from .base_layers import as_matrix
from .layer import AdaptedLinear
from .merging import check_mergeable
from .param_layer import ParamWrapper

__all__ = ["AugmentedLinear", "unload_augmented"]


class AugmentedLinear(nn.Module):
    """y = x (W + P Qᵀ)ᵀ + b, with W and Qᵀ in one buffer that is a copy: changes of the given tensors don't reach it.

    Args:
        weight: W (out, in), of a floating-point dtype that P and Qᵀ are cast to.
        bias: (out,) or None.
        up: P (out, k), the scale included. down: Qᵀ (k, in).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, up: torch.Tensor, down: torch.Tensor) -> None:
        super().__init__()
        check_mergeable(weight)
        (self.out_features, self.in_features), rank = weight.shape, down.shape[0]
        if down.shape != (rank, self.in_features) or up.shape != (self.out_features, rank):
            raise ValueError(
                f"`up` (out, k) and `down` (k, in) must fit `weight` {tuple(weight.shape)}, got {tuple(up.shape)} and "
                f"{tuple(down.shape)}"
            )
        with torch.no_grad():
            self.register_buffer("weight", torch.cat([weight, down.to(weight)]))
            self.register_buffer("up", up.to(weight).t().contiguous())  # (k, out)
            self.register_buffer("bias", None if bias is None else torch.cat([bias, bias.new_zeros(rank)]))

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, all of them copies."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out), a view of (..., out + k).

        Raises:
            ValueError: a gradient for x is asked for; this form is for inference.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise ValueError("AugmentedLinear is for inference only; call it under torch.no_grad()")
        both = F.linear(x.reshape(-1, self.in_features), self.weight, self.bias)
        both[:, : self.out_features].addmm_(both[:, self.out_features :], self.up.to(both.dtype))
        return both.view(*x.shape[:-1], both.shape[1])[..., : self.out_features]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={len(self.up)}"


def unload_augmented(model: nn.Module, adapter_name: str = "default") -> tuple[nn.Module, int]:
    """The unwrapped model with one adapter in its layers as `AugmentedLinear`s, and the bytes that their copies hold.

    As PEFT's `merge_and_unload`, this takes the adapters out of `model` for good; the base weights themselves are
    left as they are for whoever else holds them. Layers without this adapter become their base layers again.

    Args:
        model: a PEFT model, or a module that adapters were injected into.
        adapter_name: used at its current scale, its bias included.

    Raises:
        ValueError: no such adapter, dense A (of too high a rank: merge it), merged adapters, a quantised base, a
            convolution.
    """
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}
    having = {name: layer for name, layer in layers.items() if adapter_name in layer.kronecker_u}
    if not having:
        known = sorted({key for layer in layers.values() for key in layer.kronecker_u})
        raise ValueError(f"no Kronecker adapter {adapter_name!r} in the model; it has {known}")
    for name, layer in having.items():
        if isinstance(layer, ParamWrapper):
            raise ValueError(f"`{name}.{layer.parameter_name}` is a parameter, not a layer; use merge_and_unload()")
        if not layer.spec[adapter_name].factored:
            raise ValueError(f"`{name}`: dense A has no form of low rank; use merge_and_unload()")
        if layer.merged:
            raise ValueError(f"`{name}`: adapters {layer.merged_adapters} are merged; call unmerge_adapter() first")
        check_mergeable(as_matrix(layer.get_base_layer(), name), name)
    copied, replacements = 0, {}
    for name, layer in layers.items():
        base = layer.get_base_layer()
        if name in having:
            up, down, shift = layer.get_lora_factors(adapter_name)
            bias = base.bias if shift is None else shift if base.bias is None else base.bias + shift
            weight = as_matrix(base, name)
            base = AugmentedLinear(weight, None if bias is None else bias.to(weight), up, down)
            copied += base.nbytes
        replacements[name] = base
    for name, wrapper in model.named_modules():
        if isinstance(wrapper, ModulesToSaveWrapper):  # as merge_and_unload: this adapter's own module, or the base's
            saved = wrapper.modules_to_save
            replacements[name] = saved[adapter_name] if adapter_name in saved else wrapper.original_module
    for name, module in replacements.items():
        model.set_submodule(name, module)
    return model, copied
