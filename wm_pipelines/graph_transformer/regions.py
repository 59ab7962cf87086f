"""Which regions of a picture attend to one another: all, the nearest, those that overlap, or as a graph says.

Regions are patches of a grid or boxes of a detector. The paper's dense region graph is `full`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from wm_pipelines.graph_transformer.graph import AttentionGraph, read_adjacency
from wm_pipelines.media.boxes import box_iou

REGIONS = ("full", "knn", "iou")
COVERED = 0.5  # share of a region's area within a node's box that makes it the node's


def patch_boxes(height: int, width: int) -> torch.Tensor:
    """Boxes `(height · width, 4)` of a grid of patches, row by row, in fractions (x0, y0, x1, y1)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    low = torch.stack([x / width, y / height], -1)
    high = torch.stack([(x + 1) / width, (y + 1) / height], -1)
    return torch.cat([low, high], -1).reshape(-1, 4)


def check_regions(regions: Any, neighbours: int, overlap: float) -> None:
    """ValueError if the arguments of `region_adjacency` are out of range."""
    if isinstance(regions, str) and regions not in REGIONS:
        raise ValueError(f"`regions` is {regions!r}; {', '.join(REGIONS)}, or a matrix of regions by regions")
    if type(neighbours) is not int or neighbours < 1:
        raise ValueError(f"`neighbours` is {neighbours!r}; an integer of 1 or more")
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap < 1:
        raise ValueError(f"`overlap` is {overlap!r}; 0 to below 1")


def region_adjacency(
    boxes: torch.Tensor,
    regions: str | torch.Tensor | Sequence[Sequence[Any]] = "full",
    neighbours: int = 8,
    overlap: float = 0.0,
    directed: bool = False,
) -> torch.Tensor:
    """Bool `(V, V)`: row v attends to column u. The diagonal is set.

    Args:
        boxes (`torch.Tensor` of shape `(V, 4)`): in fractions of the picture.
        regions: "full", all; "knn", each and its `neighbours` nearest by the centres of the boxes, equal distances in
            the order of the regions; "iou", those whose intersection over union is above `overlap` (patches of a grid
            never overlap); or a matrix `(V, V)`.
        directed: leave "knn" and a matrix as they are; otherwise "knn" is made symmetric, and a matrix must be.

    Raises:
        ValueError: an unknown kind, numbers out of range, or a matrix of another size or asymmetric.
    """
    check_regions(regions, neighbours, overlap)
    count = len(boxes)
    if not isinstance(regions, str):
        return read_adjacency(regions, count, directed)
    if regions == "full":
        return torch.ones(count, count, dtype=torch.bool)
    own = torch.eye(count, dtype=torch.bool)
    if regions == "iou":
        return own | (box_iou(boxes[:, None].double(), boxes[None].double()) > overlap)
    centres = (boxes[:, :2] + boxes[:, 2:]).double() / 2
    # a sum of squares: `cdist` by products would make equal distances unequal
    distance = (centres[:, None] - centres[None]).square().sum(-1).mul(1e9).round()
    near = distance.masked_fill(own, -1).sort(dim=1, stable=True).indices[:, : neighbours + 1]
    matrix = own.scatter(1, near, torch.ones_like(near, dtype=torch.bool))
    return matrix if directed else matrix | matrix.T


def node_regions(graph: AttentionGraph, boxes: torch.Tensor) -> torch.Tensor:
    """Which regions each image node owns, bool `(nodes, V)`: those that its box covers by half, else by the most.

    Raises:
        ValueError: a region that is not there.
    """
    owned = torch.zeros(len(graph.nodes), len(boxes), dtype=torch.bool)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1).clamp_min(1e-12)
    for n, node in enumerate(graph.nodes):
        if node.region is not None:
            if node.region >= len(boxes):
                raise ValueError(f"node {n} is region {node.region}; index out of range, there are {len(boxes)}")
            owned[n, node.region] = True
            continue
        own = torch.tensor(node.box)
        inner = (torch.minimum(boxes[:, 2:], own[2:]) - torch.maximum(boxes[:, :2], own[:2])).clamp(min=0).prod(-1)
        share = inner / area
        owned[n] = share >= COVERED
        if not owned[n].any():
            owned[n, int(share.argmax())] = True
    return owned
