"""Which Gaussians may touch which tile of a picture, nearest first."""

import torch
from torch import Tensor

from .projection import Projected

__all__ = ["Bucket", "assemble", "buckets", "tile_origins"]

Bucket = tuple[Tensor, Tensor]
"""Some tiles, (n,) int64, and their lists, (n, K) int64 with -1 where one has ended."""


def tile_origins(size: tuple[int, int], tile: int, like: Tensor) -> Tensor:
    """The top left corners (x, y) of all tiles of a picture, row by row, (rows · columns, 2)."""
    y, x = (torch.arange(0, side, tile, device=like.device, dtype=like.dtype) for side in size)
    return torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))], dim=-1)


@torch.no_grad()
def buckets(projected: Projected, origins: Tensor, tile: int, parts: int = 3) -> list[Bucket]:
    """The lists of tiles at `origins` (n, 2), in `parts` of tiles with like numbers of Gaussians.

    No list is cut: each part's K is as long as its longest.
    """
    reach = projected.reach
    order = projected.z.argsort(stable=True)
    order = order[reach[order, 0] > 0]
    half, centre, reach = tile / 2, projected.splats[order, :2], reach[order]
    off = (origins[:, None] + half - centre).abs_()
    hit = (off <= reach + half).all(-1)
    counts = hit.sum(1)
    tiles, which = hit.nonzero(as_tuple=True)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(tiles), device=tiles.device) - first[tiles]
    lists = torch.full((len(origins), max(int(counts.max()), 1) if len(counts) else 1), -1, device=tiles.device)
    lists[tiles, rank] = order[which]
    found = []
    for some in counts.argsort(stable=True).tensor_split(min(parts, len(origins)) or 1):
        longest = int(counts[some].max()) if len(some) else 0
        if longest:
            found.append((some, lists[some, :longest]))
    return found


def assemble(blocks: Tensor, size: tuple[int, int], tile: int) -> Tensor:
    """Tiles of a whole picture (rows · columns, tile², C) as (C, H, W)."""
    rows, columns = (-(-side // tile) for side in size)
    whole = blocks.view(rows, columns, tile, tile, -1).permute(4, 0, 2, 1, 3)
    return whole.reshape(-1, rows * tile, columns * tile)[:, : size[0], : size[1]]
