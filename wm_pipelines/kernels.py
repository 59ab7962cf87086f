"""The public face of `custom_kernels`: one function per operation, and its torch reference."""

from importlib.util import find_spec

from custom_kernels.gaussians.op import composite_gaussians
from custom_kernels.gaussians.projection import Projected, project_gaussians
from custom_kernels.gaussians.reference import composite_gaussians_reference
from custom_kernels.gaussians.tiles import assemble as assemble_tiles
from custom_kernels.gaussians.tiles import tile_lists, tile_origins
from custom_kernels.kronecker_linear.forms import (
    folding_pays,
    kronecker_delta,
    kronecker_lora_factors,
    kronecker_weight,
)
from custom_kernels.kronecker_linear.op import kronecker_linear
from custom_kernels.kronecker_linear.reference import kronecker_linear_reference
from custom_kernels.motion_attention.op import motion_attention
from custom_kernels.motion_attention.reference import (
    MotionAttention,
    MotionAttentionMaps,
    motion_attention_reference,
)
from custom_kernels.shared.boxes import box_masks
from custom_kernels.temporal_motion_attention.op import temporal_motion_attention
from custom_kernels.temporal_motion_attention.reference import temporal_motion_attention_reference

__all__ = [
    "MotionAttention",
    "MotionAttentionMaps",
    "Projected",
    "assemble_tiles",
    "box_masks",
    "composite_gaussians",
    "composite_gaussians_reference",
    "folding_pays",
    "has_triton_kernels",
    "kronecker_delta",
    "kronecker_linear",
    "kronecker_linear_reference",
    "kronecker_lora_factors",
    "kronecker_weight",
    "motion_attention",
    "motion_attention_reference",
    "project_gaussians",
    "temporal_motion_attention",
    "temporal_motion_attention_reference",
    "tile_lists",
    "tile_origins",
]


def has_triton_kernels() -> bool:
    """Whether this installation has the Triton forms of the operations; their modules are not imported."""
    return find_spec("custom_kernels.shared._triton") is not None
