"""Graphs over the words of a text and the regions of a picture, which attention is to follow (arXiv 2305.00581).

A node owns characters of the text, or a part of the picture; edges join nodes. The layout of the JSON is
`{"nodes": [{"span": [a, b], "modality": "text"}], "edges": [[i, j, "rel"]]}`.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from wm_pipelines.runtime.readers import concise, parse_json

MODALITIES = ("text", "image")
NODE_KINDS = ("entity", "attribute", "relation", "cell", "header")

Span = tuple[int, int]
Box = tuple[float, float, float, float]
Edge = tuple[int, int, str]


@dataclass(frozen=True)
class GraphNode:
    """A phrase of the text, or a part of the picture.

    Args:
        span: (start, end) characters of a text node; the text is the question, or question and context joined by one
            space.
        modality: "text" or "image".
        box: (x0, y0, x1, y1) of an image node, in fractions of the picture.
        region: of an image node, in place of a box: index of a region, or of a patch row by row.
        kind: what a text node is; mentions of one entity are found among "entity", "cell" and "header".

    Raises:
        ValueError: names the field, what came and what is allowed.

    Example:
        >>> GraphNode((0, 8), kind="entity").modality, GraphNode(modality="image", box=(0, 0, 0.5, 1)).box
        ('text', (0.0, 0.0, 0.5, 1.0))
    """

    span: Span | None = None
    modality: str = "text"
    box: Box | None = None
    region: int | None = None
    kind: str = "entity"

    def __post_init__(self) -> None:
        for name, allowed in (("modality", MODALITIES), ("kind", NODE_KINDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` of a node is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if self.modality == "text":
            if self.box is not None or self.region is not None:
                raise ValueError("a text node has a `span`, and neither `box` nor `region`")
            object.__setattr__(self, "span", _span(self.span))
            return
        if self.span is not None or (self.box is None) == (self.region is None):
            raise ValueError("an image node has either a `box` or a `region`, and no `span`")
        if self.box is not None:
            object.__setattr__(self, "box", _box(self.box))
        elif type(self.region) is not int or self.region < 0:
            raise ValueError(f"`region` of a node is {self.region!r}; an integer of 0 or more")


@dataclass(frozen=True)
class AttentionGraph:
    """Nodes, and edges (i, j, relation) between them by position.

    Args:
        nodes: `GraphNode`s.
        edges: (i, j) or (i, j, relation); without `directed` an edge holds both ways.
        directed: row i of the adjacency attends to column j for an edge (i, j), and not j to i.

    Raises:
        ValueError: an edge that is none, or whose index is out of range.

    Example:
        >>> graph = AttentionGraph((GraphNode((0, 4)), GraphNode((10, 16))), ((0, 1, "left of"),))
        >>> graph.adjacency().tolist()
        [[True, True], [True, True]]
    """

    nodes: tuple[GraphNode, ...] = ()
    edges: tuple[Edge, ...] = ()
    directed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        for n, node in enumerate(self.nodes):
            if not isinstance(node, GraphNode):
                raise ValueError(f"`nodes`[{n}] is a {type(node).__name__}; a GraphNode")
        if type(self.directed) is not bool:
            raise ValueError(f"`directed` is {self.directed!r}; True or False")
        edges = tuple(_edge(n, edge, len(self.nodes)) for n, edge in enumerate(self.edges))
        object.__setattr__(self, "edges", edges)

    @classmethod
    def from_adjacency(
        cls, nodes: Sequence[GraphNode], adjacency: torch.Tensor | Sequence[Sequence[Any]], directed: bool = False
    ) -> "AttentionGraph":
        """A graph from a matrix `(N, N)` of bools, or of 0 and 1.

        Raises:
            ValueError: another shape, other values, or a matrix that is not symmetric without `directed=True`.
        """
        matrix = read_adjacency(adjacency, len(nodes), directed)
        rows, columns = matrix.nonzero(as_tuple=True)
        pairs = [(i, j) for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if i != j]
        return cls(tuple(nodes), tuple(pair for pair in pairs if directed or pair[0] < pair[1]), directed)

    def adjacency(self) -> torch.Tensor:
        """Bool `(N, N)`: which nodes are equal or adjacent."""
        matrix = torch.eye(len(self.nodes), dtype=torch.bool)
        for i, j, _ in self.edges:
            matrix[i, j] = True
            if not self.directed:
                matrix[j, i] = True
        return matrix

    def part(self, modality: str) -> "AttentionGraph":
        """The nodes of one modality, and the edges between them."""
        kept = {n: place for place, n in enumerate(n for n, x in enumerate(self.nodes) if x.modality == modality)}
        edges = tuple((kept[i], kept[j], what) for i, j, what in self.edges if i in kept and j in kept)
        return AttentionGraph(tuple(self.nodes[n] for n in kept), edges, self.directed)

    def with_edges(self, edges: Iterable[Edge], nodes: Sequence[GraphNode] = ()) -> "AttentionGraph":
        """The graph with more nodes at its end, and more edges; an edge that is there already is not added."""
        found = {frozenset(edge[:2]) if not self.directed else edge[:2] for edge in self.edges}
        new = [e for e in edges if (frozenset(e[:2]) if not self.directed else tuple(e[:2])) not in found]
        return AttentionGraph((*self.nodes, *nodes), (*self.edges, *new), self.directed)

    def shifted(self, by: int) -> "AttentionGraph":
        """The graph with every span moved by so many characters."""
        nodes = [n if n.span is None else GraphNode((n.span[0] + by, n.span[1] + by), kind=n.kind) for n in self.nodes]
        return AttentionGraph(tuple(nodes), self.edges, self.directed)

    def joined(self, other: "AttentionGraph") -> "AttentionGraph":
        """Both graphs side by side.

        Raises:
            ValueError: one is directed and the other is not, and both have edges.
        """
        if self.directed != other.directed and self.edges and other.edges:
            raise ValueError("`directed` of the two graphs differs; they can't be joined")
        more = tuple((i + len(self.nodes), j + len(self.nodes), what) for i, j, what in other.edges)
        directed = self.directed if self.edges else other.directed
        return AttentionGraph((*self.nodes, *other.nodes), (*self.edges, *more), directed)

    def check_text(self, text: str) -> None:
        """ValueError, which names the node, if a span goes beyond the text."""
        for n, node in enumerate(self.nodes):
            if node.span is not None and node.span[1] > len(text):
                raise ValueError(f"node {n} has the span {node.span}, beyond the text of {len(text)} characters")

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads; the values of JSON."""
        nodes = []
        for node in self.nodes:
            found = {field.name: getattr(node, field.name) for field in fields(GraphNode)}
            kept = {k: list(v) if isinstance(v, tuple) else v for k, v in found.items() if v is not None}
            nodes.append({k: v for k, v in kept.items() if (k, v) != ("kind", "entity")})
        edges = [[i, j, what] for i, j, what in self.edges]
        return {"nodes": nodes, "edges": edges, **({"directed": True} if self.directed else {})}

    def to_json(self) -> str:
        """JSON that `from_json` reads back to an equal graph."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    @concise()
    def from_dict(cls, data: Mapping[str, Any]) -> "AttentionGraph":
        """A graph from the values of its JSON.

        Raises:
            ValueError: another layout, an unknown field, or an index out of range.
        """
        _known(data, {"nodes", "edges", "directed"}, "a graph")
        for name in ("nodes", "edges"):
            if not isinstance(data.get(name, []), list):
                raise ValueError(f"`{name}` is a {type(data[name]).__name__}; a list")
        nodes = []
        for n, entry in enumerate(data.get("nodes", [])):
            _known(entry, {field.name for field in fields(GraphNode)}, f"`nodes`[{n}]")
            try:
                nodes.append(GraphNode(**entry))
            except ValueError as error:
                raise ValueError(f"`nodes`[{n}]: {str(error)[:500]}") from None
        return cls(tuple(nodes), tuple(data.get("edges", [])), data.get("directed", False))

    @classmethod
    @concise()
    def from_json(cls, text: str) -> "AttentionGraph":
        """A graph from its JSON.

        Raises:
            ValueError: no JSON, or as `from_dict`.
        """
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ValueError(f"a graph is JSON: {error}") from None
        return cls.from_dict(data)


def read_adjacency(adjacency: Any, size: int, directed: bool) -> torch.Tensor:
    """A matrix as bool `(size, size)`, its diagonal set.

    Raises:
        ValueError: another shape, values other than 0 and 1, or not symmetric without `directed`.
    """
    try:
        matrix = torch.as_tensor(adjacency)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`adjacency` is no matrix: {error}") from None
    if tuple(matrix.shape) != (size, size):
        raise ValueError(f"`adjacency` has the shape {tuple(matrix.shape)}; it must be ({size}, {size})")
    if matrix.dtype != torch.bool and not bool(((matrix == 0) | (matrix == 1)).all()):
        raise ValueError("`adjacency` has values other than 0 and 1; True or 1 where two are connected")
    matrix = matrix.detach().cpu().bool()
    apart = (matrix != matrix.T).nonzero()
    if not directed and len(apart):
        i, j = apart[0].tolist()
        raise ValueError(f"`adjacency` is asymmetric at ({i}, {j}); make it symmetric, or pass directed=True")
    return matrix | torch.eye(size, dtype=torch.bool)


def _known(data: Any, allowed: set[str], what: str) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} is a JSON object, got a {type(data).__name__}")
    unknown = sorted(str(name) for name in data if name not in allowed)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r} in {what}; known: {', '.join(sorted(allowed))}")


def _span(span: Any) -> Span:
    pair = tuple(span) if isinstance(span, list | tuple) else ()
    if len(pair) != 2 or not all(type(place) is int for place in pair) or not 0 <= pair[0] < pair[1]:
        raise ValueError(f"`span` of a text node is {span!r}; two characters (start, end), 0 <= start < end")
    return pair


def _box(box: Any) -> Box:
    values = tuple(box) if isinstance(box, list | tuple) else ()
    numbers = all(type(v) in (int, float) and math.isfinite(v) for v in values)
    if len(values) != 4 or not numbers or not (0 <= values[0] < values[2] <= 1 and 0 <= values[1] < values[3] <= 1):
        raise ValueError(f"`box` of a node is {box!r}; x0, y0, x1, y1 in [0, 1] with x0 < x1 and y0 < y1")
    return tuple(float(v) for v in values)


def _edge(n: int, edge: Any, size: int) -> Edge:
    values = tuple(edge) if isinstance(edge, list | tuple) else ()
    if len(values) not in (2, 3) or not all(type(end) is int for end in values[:2]):
        raise ValueError(f"`edges`[{n}] is {edge!r}; (i, j) or (i, j, relation) with positions of nodes")
    for end in values[:2]:
        if not 0 <= end < size:
            raise ValueError(f"`edges`[{n}] names node {end}; index out of range, there are {size} nodes")
    what = values[2] if len(values) == 3 and values[2] is not None else ""
    if not isinstance(what, str):
        raise ValueError(f"`edges`[{n}] has the relation {what!r}; a text")
    return values[0], values[1], what
