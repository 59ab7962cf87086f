"""Which Gaussians may touch which tile of a picture, nearest first."""

import torch
from torch import Tensor

from .projection import Projected

__all__ = ["assemble", "tile_lists", "tile_origins"]


def tile_origins(size: tuple[int, int], tile: int, like: Tensor) -> Tensor:
    """The top left corners (x, y) of all tiles of a picture, row by row, (rows · columns, 2)."""
    y, x = (torch.arange(0, side, tile, device=like.device, dtype=like.dtype) for side in size)
    return torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))], dim=-1)


@torch.no_grad()
def tile_lists(projected: Projected, origins: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Which Gaussians' boxes touch the tiles at `origins` (n, 2), nearest first.

    Returns:
        Numbers of the tiles that any touches, (m,) int64, by rising length of their lists; and the lists, (m, K)
        int64, -1 where one has ended. None is cut: K is the length of the longest.
    """
    order = projected.z.argsort(stable=True)
    order = order[projected.reach[order, 0] > 0]
    centre, reach = projected.splats[order, :2].T, projected.reach[order].T + tile / 2
    hit = None
    for axis in (0, 1):  # tiles of one column, or of one row, agree
        edges, which = origins[:, axis].unique(return_inverse=True)
        near = ((edges[:, None] + tile / 2) - centre[axis]).abs_() <= reach[axis]
        hit = near[which] if hit is None else hit.logical_and_(near[which])
    counts = hit.sum(1)
    tiles = counts.argsort(stable=True)
    tiles = tiles[counts[tiles] > 0]
    counts = counts[tiles]
    rows, which = hit[tiles].nonzero(as_tuple=True)
    rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    lists = torch.full((len(tiles), int(counts[-1]) if len(tiles) else 0), -1, device=rows.device)
    lists[rows, rank] = order[which]
    return tiles, lists


def assemble(blocks: Tensor, size: tuple[int, int], tile: int) -> Tensor:
    """Tiles of a whole picture (rows · columns, tile², C) as (C, H, W)."""
    rows, columns = (-(-side // tile) for side in size)
    whole = blocks.view(rows, columns, tile, tile, -1).permute(4, 0, 2, 1, 3)
    return whole.reshape(-1, rows * tile, columns * tile)[:, : size[0], : size[1]]
