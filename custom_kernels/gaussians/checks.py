"""What `composite_gaussians` refuses, and what only its kernels refuse."""

import torch
from torch import Tensor

__all__ = ["check", "limits"]

MAX_CHANNELS, TILES = 128, (4, 8, 16)  # of the kernels


def check(splats: Tensor, channels: Tensor, lists: Tensor, origins: Tensor, tile: int, detached: int) -> None:
    """ValueError naming the argument that does not fit."""
    if splats.dim() != 2 or splats.shape[1] != 6 or splats.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"`splats` must be (N, 6) of float32 or float64, got {tuple(splats.shape)} of {splats.dtype}")
    for name, t, shape in (
        ("channels", channels, f"(N, C) with N = {len(splats)}"),
        ("origins", origins, f"(n, 2) with n = {len(lists)}, the rows of `lists`"),
    ):
        rows, columns = (len(splats), channels.shape[-1]) if name == "channels" else (len(lists), 2)
        if t.dim() != 2 or t.shape != (rows, columns) or t.dtype != splats.dtype:
            raise ValueError(f"`{name}` must be {shape} of {splats.dtype}, got {tuple(t.shape)} of {t.dtype}")
    if lists.dim() != 2 or lists.dtype != torch.int64:
        raise ValueError(f"`lists` must be (n, K) of int64, got {tuple(lists.shape)} of {lists.dtype}")
    if not isinstance(tile, int) or tile < 1:
        raise ValueError(f"`tile` must be a whole number of pixels, 1 or more, got {tile!r}")
    if not isinstance(detached, int) or not 0 <= detached <= channels.shape[1]:
        raise ValueError(f"`detached` must be 0 to {channels.shape[1]}, the number of channels, got {detached!r}")
    for name, t in (("channels", channels), ("lists", lists), ("origins", origins)):
        if t.device != splats.device:
            raise ValueError(f"`{name}` must be on {splats.device} as `splats` is, got {t.device}")
    if origins.requires_grad:
        raise ValueError("`origins` has no gradient here, but requires one; pass origins.detach()")
    if splats.device.type == "cpu" and not torch.compiler.is_compiling() and lists.numel():
        low, high = int(lists.min()), int(lists.max())
        if low < -1 or high >= len(splats):
            raise ValueError(f"`lists` holds {low if low < -1 else high}; allowed: -1 (nothing) to {len(splats) - 1}")


def limits(channels: int, tile: int) -> str | None:
    """Why the kernels can't take a call of this size; None where they can."""
    if channels > MAX_CHANNELS:
        return f"{channels} channels; they take up to {MAX_CHANNELS}"
    return None if tile in TILES else f"tiles of {tile} pixels; they take {', '.join(map(str, TILES))}"
