"""Kronecker adapters of a module's parameter rather than of a module: a mixture's experts, stacked in one tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .layer import AdaptedLinear, AdapterSpec
from .offloaded import onloaded

__all__ = ["ParamWrapper", "matrix_sizes"]


def matrix_sizes(module: nn.Module, parameter_name: str) -> tuple[int, int, int]:
    """(experts, in, out) of a parameter (out, in) or (experts, out, in), as PEFT reads it.

    A module with `is_transposed` has (experts, in, out).

    Raises:
        ValueError: it has other dimensions.
    """
    shape = tuple(getattr(module, parameter_name).shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"`target_parameters`: {parameter_name} has shape {shape}; it needs two or three dimensions")
    experts, out_features, in_features = (1, *shape)[-3:]
    if len(shape) == 3 and getattr(module, "is_transposed", False):
        in_features, out_features = out_features, in_features
    return experts, in_features, out_features


class ParamWrapper(AdaptedLinear):
    """A module one of whose parameters is W + ΔW for the time of each call; PEFT knows it by this name.

    Of a parameter with experts ΔW_e = scale·Σ_i A_i ⊗ U_ei V_eiᵀ: A is shared by them, `kronecker_u` is
    (experts, m, out/n_out, r) and `kronecker_v` (experts, m, in/n_in, r). Several parameters of one module are
    wrappers around one another. ΔW is built at every call; there is no bias, no dropout, no adapter for each sample.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, parameter_name: str) -> None:
        self.parameter_name = parameter_name
        super().__init__(base_layer, adapter_name)

    def _sizes(self) -> tuple[int, int]:
        self.experts, *both = matrix_sizes(self.get_base_layer(), self.parameter_name)
        return tuple(both)

    def _shapes(self, spec: AdapterSpec) -> dict[str, tuple[int, ...]]:
        lead = () if self.adapted_parameter().dim() == 2 else (self.experts,)
        own = ("kronecker_u", "kronecker_v")  # of each expert
        return {key: (*(lead if key in own else ()), *shape) for key, shape in super()._shapes(spec).items()}

    def adapted_parameter(self) -> nn.Parameter:
        """What the update is of: the named parameter of the base layer."""
        return getattr(self.get_base_layer(), self.parameter_name)

    def _device(self) -> torch.device:
        return self.adapted_parameter().device

    def _as_weight(self, delta: torch.Tensor) -> torch.Tensor:
        turned = delta.dim() == 3 and getattr(self.get_base_layer(), "is_transposed", False)
        return delta.transpose(1, 2) if turned else delta

    def full_delta(self, adapter: str, device: torch.device | None = None) -> torch.Tensor:
        """scale·ΔW (out, in) or (experts, out, in), in fp32 or wider; with gradients."""
        u, v = (onloaded(factors, adapter) for factors in (self.kronecker_u, self.kronecker_v))
        device, wide = device or u.device, torch.promote_types(u.dtype, torch.float32)
        u, v = u.to(device, wide), v.to(device, wide) * self.scaling[adapter]
        slow = {key: a.to(wide) for key, a in self.slow_weights(adapter, device).items()}
        a = slow["a"] if "a" in slow else torch.einsum("io,ip->iop", slow["a_out"], slow["a_in"])
        delta = torch.einsum("iop,...isq->...ospq", a, torch.einsum("...isk,...iqk->...isq", u, v))
        return delta.reshape(*delta.shape[:-4], self.out_features, self.in_features)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The module's own forward, whose parameter is W + ΔW meanwhile."""
        if kwargs.pop("adapter_names", None) is not None:
            raise ValueError(f"{type(self).__name__} does not support mixed adapter batches yet.")
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        active = [name for name in self.active_adapters if name in self.kronecker_u and self.scaling[name] != 0]
        if self.merged or not active:
            return self.base_layer(x, *args, **kwargs)
        with self._changed(active, x.device):
            return self.base_layer(x, *args, **kwargs)

    @contextmanager
    def _changed(self, names: list[str], device: torch.device) -> Iterator[None]:
        module = self.get_base_layer()
        parameter = onloaded(module, self.parameter_name).to(device)
        delta = self._as_weight(sum(self.full_delta(name, device) for name in names))
        wide = torch.promote_types(parameter.dtype, delta.dtype)
        # what lies in the instance is found before a registered parameter, which stays where it is
        module.__dict__[self.parameter_name] = (parameter.to(wide) + delta).to(parameter.dtype)
        try:
            yield
        finally:
            del module.__dict__[self.parameter_name]

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The innermost module; PEFT calls it where it takes wrappers off."""
        wrapper: nn.Module = self
        while merge and isinstance(wrapper, BaseTunerLayer):
            wrapper.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            wrapper = wrapper.base_layer
        return self.get_base_layer()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """A LoRA of a parameter lies otherwise in its file, and PEFT's converter takes matrices only."""
        return False
