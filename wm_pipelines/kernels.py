"""The public face of `custom_kernels`: one function per operation, and its torch reference."""

from custom_kernels.kronecker_forms import folding_pays, kronecker_delta, kronecker_lora_factors, kronecker_weight
from custom_kernels.kronecker_linear import kronecker_linear, kronecker_linear_reference

__all__ = [
    "folding_pays",
    "kronecker_delta",
    "kronecker_linear",
    "kronecker_linear_reference",
    "kronecker_lora_factors",
    "kronecker_weight",
]
