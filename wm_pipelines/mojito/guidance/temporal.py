"""Attention over time that knows the boxes: frames in which a cell lies in a box look at each other.

The logits of frames i and j of a cell get -weight |m_i - m_j|, m the share of the cell that an object's box covers.
Our own design; it needs no gradient. `benchmarks/mojito_temporal.py` says what it brings.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from wm_pipelines.kernels import temporal_motion_attention
from wm_pipelines.mojito.bases.families import Family
from wm_pipelines.mojito.guidance.state import MotionState
from wm_pipelines.runtime.attention import swapped_processors

PLAIN = ("AttnProcessor", "AttnProcessor2_0")


class TemporalAttnProcessor:
    """Stands before the processor of a layer that attends over the frames of each cell."""

    def __init__(self, inner: Any, state: MotionState, weight: float) -> None:
        self.inner, self.state, self.weight = inner, state, weight

    def __call__(self, attn: nn.Module, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        rows = self.state.rows
        if self.state.measuring or all(video is None for video in rows):
            return self.inner(attn, hidden_states, *args, **kwargs)
        q, k, v = (  # (rows, L, F, H, d)
            to(hidden_states).unflatten(0, (len(rows), -1)).unflatten(-1, (attn.heads, -1))
            for to in (attn.to_q, attn.to_k, attn.to_v)
        )
        out = []
        for row, video in enumerate(rows):
            if video is None:
                heads_first = [x[row].transpose(1, 2) for x in (q, k, v)]  # (L, H, F, d)
                out.append(F.scaled_dot_product_attention(*heads_first).transpose(1, 2))
                continue
            given = [x[row : row + 1] for x in (q, k, v)]
            boxes, grid = self.state.slots[video].boxes[None], self.state.grid(q.shape[1])
            out.append(temporal_motion_attention(*given, boxes, grid=grid, tau=1.0, gamma=self.weight, rho=None)[0])
        whole = torch.cat(out).flatten(2).to(hidden_states.dtype)  # (rows * L, F, H * d)
        return attn.to_out[1](attn.to_out[0](whole))


def temporal_layers(family: Family, denoiser: nn.Module) -> dict[str, nn.Module]:
    """The layers that attend over the frames of each cell.

    Raises:
        ValueError: the family has none, or one of them has a processor that can't be stood in for.
    """
    if family.temporal is None:
        raise ValueError(
            f"temporal_weight needs attention over time of its own, which {type(denoiser).__name__} does not have; "
            "UNets and Latte do"
        )
    pattern = re.compile(family.temporal)
    found = {name: module for name, module in denoiser.named_modules() if pattern.fullmatch(name)}
    for name, module in found.items():
        if type(module.processor).__name__ not in PLAIN:
            raise ValueError(f"{name} has a {type(module.processor).__name__}; temporal_weight takes plain attention")
    return found


@contextlib.contextmanager
def temporal_processors(family: Family, denoiser: nn.Module, state: MotionState, weight: float) -> Iterator[None]:
    """Put the processors in for the time of the block; nothing is done where `weight` is 0."""
    layers = temporal_layers(family, denoiser) if weight else {}
    with swapped_processors(layers, lambda name, inner: TemporalAttnProcessor(inner, state, weight)):
        yield
