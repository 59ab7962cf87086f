"""Layers that can be adapted, as matrices: ΔW is (out, in) whatever the order and the shape of a layer's own weight.

A convolution is its matrix over unfolded patches, in = in_channels/groups·kernel, where A acts on the channels: so
each A_i ⊗ U_i V_iᵀ is LoKr's w1 ⊗ w2 with w2 (out/n_out, in_channels/n_in, kernel…) of rank r (arXiv 2309.14859).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

__all__ = ["CONVOLUTIONS", "as_matrix", "as_weight", "channels", "is_adaptable", "is_linear", "sizes"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer; quantised ones don't all subclass nn.Linear, but are named so and have both sizes.

    GPT-2's Conv1D is one too: its weight is (in, out).
    """
    given = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    named = "Linear" in type(module).__name__ and all(isinstance(size, int) for size in given)
    return isinstance(module, (nn.Linear, Conv1D)) or named


def is_adaptable(module: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution."""
    return is_linear(module) or isinstance(module, CONVOLUTIONS)


def sizes(base: nn.Module) -> tuple[int, int]:
    """(in, out) of the layer's matrix."""
    if isinstance(base, CONVOLUTIONS):
        return channels(base) * math.prod(base.kernel_size), base.out_channels
    if isinstance(base, Conv1D):
        return tuple(base.weight.shape)
    return base.in_features, base.out_features


def channels(base: nn.Module) -> int:
    """What n_in has to divide: the inputs, without a convolution's kernel."""
    return base.in_channels // base.groups if isinstance(base, CONVOLUTIONS) else sizes(base)[0]


def as_weight(matrix: torch.Tensor, base: nn.Module) -> torch.Tensor:
    """A matrix (out, in) in the order and the shape of the layer's weight."""
    if isinstance(base, CONVOLUTIONS):
        return matrix.view(base.weight.shape)
    return matrix.t() if isinstance(base, Conv1D) else matrix


def as_matrix(base: nn.Module, name: str) -> torch.Tensor:
    """A linear layer's weight (out, in), a view.

    Raises:
        ValueError: a convolution, which is no product with one matrix.
    """
    if isinstance(base, CONVOLUTIONS):
        raise ValueError(f"`{name}` is a {type(base).__name__}; this takes linear layers only, use merge_and_unload()")
    return base.weight.t() if isinstance(base, Conv1D) else base.weight
