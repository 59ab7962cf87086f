"""From graphs to an additive attention bias for any joint transformer (arXiv 2305.00581).

    G = [ G_text  0     ]      G_ij = 0 if i and j are connected, −inf otherwise
        [ 0       G_vis ]      across text and picture all is open, so that alignment is learned

What connects two tokens is ours, for the paper is silent: they are of one node or of adjacent nodes; special tokens
and those of no node connect with every valid token, and each with itself; a padding key is −inf for all. So no row is
empty. −inf is filled in, never computed: 0·(−inf) would be NaN. A cut is a prior and no isolation: what a token that
sees all took up crosses it one layer later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from wm_pipelines.graph_transformer.graph import AttentionGraph
from wm_pipelines.graph_transformer.regions import node_regions, region_adjacency
from wm_pipelines.graph_transformer.tokens import Pieces, node_pieces
from wm_pipelines.media.pictures import Picture
from wm_pipelines.runtime.random import keyed

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Regions:
    """The picture's side of a batch, the same number of tokens V for each example.

    Args:
        boxes (`torch.Tensor` of shape `(B, V, 4)`): in fractions of the picture; anything where there is no region.
        valid (bool `(B, V)`): which tokens stand for something.
        special: tokens before the regions that stand for the whole picture (ViLT has one).
    """

    boxes: torch.Tensor
    valid: torch.Tensor
    special: int = 0


@dataclass(frozen=True)
class GraphBias:
    """Who may attend to whom in a batch of B examples with S tokens, text first.

    Args:
        allowed (bool `(B, S, S)`): row i attends to column j. valid (bool `(B, S)`): not padding.
        opened (bool `(B, S)`): tokens of no node, which attend to all.
        text_length: how many of the S tokens are text.
        graphs: what each was made of. texts: what their spans count in.
        boxes (`(B, S - text_length, 4)`): of the regions; None without a picture.
        pieces: the text of each token, for drawings.
    """

    allowed: torch.Tensor
    valid: torch.Tensor
    opened: torch.Tensor
    text_length: int
    graphs: tuple[AttentionGraph, ...]
    texts: tuple[str, ...]
    boxes: torch.Tensor | None = None
    pieces: tuple[tuple[str, ...], ...] = ()

    def additive(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """`(B, 1, S, S)`, 0 or −inf: an `attn_mask` of scaled dot-product attention."""
        return additive(self.allowed, dtype)

    @property
    def density(self) -> torch.Tensor:
        """Share of the cells of valid tokens that are open, float64 `(B,)`."""
        cells = self.valid[:, :, None] & self.valid[:, None, :]
        return (self.allowed & cells).sum((1, 2)).double() / cells.sum((1, 2))

    def to(self, device: torch.device | str) -> "GraphBias":
        """The tensors that attention reads, on a device."""
        return replace(self, allowed=self.allowed.to(device), valid=self.valid.to(device))

    def randomised(self, seed: int = 0) -> "GraphBias":
        """Random graphs of equal density: in each example as many open cells between tokens of nodes, elsewhere.

        The control that tells what the graph says from how much it hides. What is open for all stays open; a symmetric
        block stays symmetric. Drawn by the seed and the example's text.
        """
        allowed = self.allowed.clone()
        for b, text in enumerate(self.texts):
            for name, block in (("text", slice(0, self.text_length)), ("image", slice(self.text_length, None))):
                rng = keyed("random graph", seed, name, text)
                closed = (self.valid[b, block] & ~self.opened[b, block]).nonzero().flatten()
                cells = allowed[b, block, block][closed[:, None], closed[None]]
                symmetric = bool((cells == cells.T).all())
                above = torch.ones_like(cells).triu(1) if symmetric else ~torch.eye(len(cells), dtype=torch.bool)
                places = above.nonzero()
                drawn = rng.permutation(len(places))[: int(cells[above].sum())]
                new = torch.eye(len(cells), dtype=torch.bool)
                new[tuple(places[torch.from_numpy(drawn)].T)] = True
                new = new | new.T if symmetric else new
                offset = block.start
                allowed[b, closed[:, None] + offset, closed[None] + offset] = new
        return replace(self, allowed=allowed, graphs=tuple(AttentionGraph() for _ in self.graphs))

    def plot(self, index: int = 0, picture: Picture | None = None) -> "Image.Image":
        """One example drawn: the matrix, and beside it the graph over the picture with the text's nodes."""
        from wm_pipelines.graph_transformer.drawing import draw

        return draw(self, index, picture)


def additive(allowed: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Bool `(B, S, S)` as `(B, 1, S, S)`: 0 where it is True, −inf elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, -torch.inf)[:, None]


def compile_graphs(
    graphs: Sequence[AttentionGraph | None],
    pieces: Sequence[Pieces],
    regions: Regions | None = None,
    kind: str | torch.Tensor | Sequence = "full",
    neighbours: int = 8,
    overlap: float = 0.0,
    names: Sequence[Sequence[str]] = (),
) -> GraphBias:
    """The bias of a batch: text block, region block, and open cells between them.

    Args:
        graphs: one for each text; None, or one without a text node, leaves the text block open. Image nodes, where
            there are any, decide the region block in place of `kind`.
        pieces: the texts. regions: the pictures' side; None for a text encoder alone.
        kind, neighbours, overlap: the region block, as `regions.region_adjacency` takes them.
        names: the text of each token, for drawings.

    Raises:
        ValueError: another number of graphs than of texts or pictures, or a graph that does not fit its own.
    """
    if len(graphs) != len(pieces):
        raise ValueError(f"`graphs` has {len(graphs)} entries for {len(pieces)} texts; give one for each")
    if regions is not None and len(regions.boxes) != len(pieces):
        raise ValueError(f"{len(pieces)} texts and {len(regions.boxes)} pictures; graphs and images must match")
    length = max(map(len, pieces))
    total = length + (regions.valid.shape[1] if regions is not None else 0)
    allowed = torch.ones(len(pieces), total, total, dtype=torch.bool)
    opened = torch.ones(len(pieces), total, dtype=torch.bool)
    valid = torch.zeros(len(pieces), total, dtype=torch.bool)
    for b, (graph, text) in enumerate(zip(graphs, pieces, strict=True)):
        graph = graph or AttentionGraph()
        valid[b, : len(text)] = True
        member = node_pieces(graph.part("text"), text) & ~torch.tensor(text.special)
        inner = slice(0, len(text))
        allowed[b, inner, inner], opened[b, inner] = connect(member, graph.part("text").adjacency())
        if regions is not None:
            valid[b, length:] = regions.valid[b].cpu()
            there = valid[b].nonzero().flatten()
            there = there[there >= length + regions.special]
            boxes = regions.boxes[b].cpu()[there - length]
            block, free = _regions(graph.part("image"), boxes, kind, neighbours, overlap)
            allowed[b, there[:, None], there[None]] = block
            opened[b, there] = free
    allowed &= valid[:, None, :]
    return GraphBias(
        allowed,
        valid,
        opened,
        length,
        graphs=tuple(graph or AttentionGraph() for graph in graphs),
        texts=tuple(text.text for text in pieces),
        boxes=None if regions is None else regions.boxes,
        pieces=tuple(tuple(own) for own in names),
    )


def connect(member: torch.Tensor, adjacency: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens connect by the nodes that own them.

    Args:
        member: bool `(nodes, L)`. adjacency: bool `(nodes, nodes)` with its diagonal.

    Returns:
        Bool `(L, L)`, and bool `(L,)`: tokens of no node, whose rows and columns are open.
    """
    owned = member.float()
    cells = (owned.T @ adjacency.float() @ owned) > 0
    free = ~member.any(0)
    cells |= free[:, None] | free[None, :] | torch.eye(len(free), dtype=torch.bool)
    return cells, free


def _regions(
    graph: AttentionGraph, boxes: torch.Tensor, kind: str | torch.Tensor | Sequence, neighbours: int, overlap: float
) -> tuple[torch.Tensor, torch.Tensor]:
    if graph.nodes:
        return connect(node_regions(graph, boxes), graph.adjacency())
    block = region_adjacency(boxes, kind, neighbours, overlap)
    return block, torch.full((len(boxes),), bool(block.all()))
