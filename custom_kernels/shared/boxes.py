"""Boxes as weights of the cells of an attention grid.

A grid of h x w cells covers the picture; cell u = i·w + j lies at column j, row i, and its centre is
((j + 0.5)/w, (i + 0.5)/h).
"""

import torch
from torch import Tensor

__all__ = ["box_gradient", "box_masks", "cell_centres", "check_boxes", "looks_at_values"]


def _overlaps(boxes: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Share of each column (..., w) and of each row (..., h) of the grid that a box covers."""
    shares = []
    for size, low, high in ((grid[1], boxes[..., 0], boxes[..., 2]), (grid[0], boxes[..., 1], boxes[..., 3])):
        edge = torch.arange(size, device=boxes.device, dtype=boxes.dtype)
        low, high = (low * size).unsqueeze(-1), (high * size).unsqueeze(-1)
        shares.append((torch.minimum(high, edge + 1) - torch.maximum(low, edge)).clamp(min=0))
    return shares[0], shares[1]


def box_masks(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Fraction of every cell that a box covers, exact, (..., L) for boxes (..., 4).

    Args:
        boxes: (x0, y0, x1, y1) in [0, 1], origin top left. An empty box, all zeros, covers nothing.
        grid: (h, w) cells, L = h·w.
    """
    columns, rows = _overlaps(boxes, grid)
    return (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(-2)


def box_gradient(boxes: Tensor, grid: tuple[int, int], g: Tensor) -> Tensor:
    """Gradient of the boxes (..., 4) from that of their masks, g (..., L).

    Where an edge lies on a line of the grid: the mean of the derivatives on both sides. 0 for boxes without area.
    """
    columns, rows = _overlaps(boxes, grid)
    g = g.unflatten(-1, grid)
    found = [torch.empty(0)] * 4
    for i, share, d in (
        (0, columns, (g * rows.unsqueeze(-1)).sum(-2)),
        (1, rows, (g * columns.unsqueeze(-2)).sum(-1)),
    ):
        size = share.shape[-1]
        edge = torch.arange(size, device=boxes.device, dtype=boxes.dtype)
        low, high = (boxes[..., i] * size).unsqueeze(-1), (boxes[..., i + 2] * size).unsqueeze(-1)
        d = d * (high > low) * size
        for end, at, sign in ((i, low, -1), (i + 2, high, 1)):
            inside = ((edge <= at) & (at < edge + 1)).to(d.dtype) + ((edge < at) & (at <= edge + 1))
            found[end] = sign * (d * inside).sum(-1) / 2
    return torch.stack(found, -1)


def cell_centres(grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(x, y) of every cell, (L, 2), in (0, 1)."""
    rows, columns = (torch.arange(size, device=device, dtype=dtype).add(0.5) / size for size in grid)
    return torch.stack([columns.repeat(grid[0]), rows.repeat_interleave(grid[1])], -1)


def looks_at_values(device: torch.device) -> bool:
    """Values are only checked on the CPU, where that waits for nothing, and not while tracing."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def check_boxes(
    boxes: Tensor, grid: tuple[int, int], batch: int, frames: int, cells: int, device: torch.device
) -> None:
    """ValueError for boxes other than (B, O, F, 4) of (x0, y0, x1, y1) in [0, 1], or a grid of another size."""
    if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != cells:
        raise ValueError(f"`grid` must be (h, w) with h·w = {cells}, the cells of `q`, got {tuple(grid)}")
    if boxes.dim() != 4 or (boxes.shape[0], *boxes.shape[2:]) != (batch, frames, 4) or not boxes.is_floating_point():
        raise ValueError(
            f"`boxes` must be (B, O, F, 4), ({batch}, O, {frames}, 4) of floats, got {tuple(boxes.shape)} of "
            f"{boxes.dtype}"
        )
    if boxes.device != device:
        raise ValueError(f"`boxes` must be on {device} as `q` is, got {boxes.device}")
    if not looks_at_values(device):
        return
    x0, y0, x1, y1 = boxes.detach().unbind(-1)
    good = (x0 >= 0) & (y0 >= 0) & (x1 <= 1) & (y1 <= 1) & (x0 <= x1) & (y0 <= y1)
    if not good.all():
        b, o, f = (~good).nonzero()[0].tolist()
        raise ValueError(
            f"`boxes` must be (x0, y0, x1, y1) in [0, 1] with x0 <= x1 and y0 <= y1, got "
            f"{boxes[b, o, f].tolist()} for batch row {b}, object {o}, frame {f}"
        )
