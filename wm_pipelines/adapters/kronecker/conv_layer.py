"""Kronecker adapters of convolutions: a narrow convolution to the rank, and a 1×1 convolution back."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from wm_pipelines.kernels import kronecker_lora_factors, kronecker_weight

from .layer import AdaptedLinear

__all__ = ["AdaptedConv"]


class AdaptedConv(AdaptedLinear):
    """A convolution with any number of named adapters, V_i in ΔW = scale·Σ_i A_i ⊗ U_i V_iᵀ over channels and kernel.

    Stride, padding, dilation and padding mode are the layer's own. With groups each group has a sum of that rank, so
    the update is built whole at every call, but under dropout, which needs these sums. Factors as in `AdaptedLinear`,
    `kronecker_v` (m, in_channels/groups/n_in·kernel, r).
    """

    def _delta(self, adapter_name: str, x: torch.Tensor) -> torch.Tensor:
        spec, scale, base = self.spec[adapter_name], self.scaling[adapter_name], self.get_base_layer()
        (_, u, v, slow), dtype = self._parts(adapter_name, x.device)[0], self._delta_dtype(adapter_name, x)
        u, v, slow = u.to(dtype), v.to(dtype), {key: a.to(dtype) for key, a in slow.items()}
        kernel, ones = base.weight.shape[1:], (1,) * len(base.kernel_size)
        dropout = spec.dropout if self.training else 0.0
        if base.groups == 1 or dropout:
            up, down = kronecker_lora_factors(u, v, scale=scale, **slow)
            hidden = base._conv_forward(x.to(dtype), down.repeat(base.groups, 1).view(-1, *kernel), None)
            hidden = F.dropout(hidden, dropout, dropout > 0)
            delta = getattr(F, f"conv{len(ones)}d")(hidden, up.view(*up.shape, *ones), groups=base.groups)
        else:
            weight = kronecker_weight(u, v, scale=scale, **slow).view(base.weight.shape)
            delta = base._conv_forward(x.to(dtype), weight, None)
        bias = self.delta_bias(adapter_name)
        return delta if bias is None else delta + bias.to(delta).view(-1, *ones)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """PEFT's converter takes matrices only; `to_lora` has the exact form."""
        return False
