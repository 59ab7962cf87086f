"""Scene graphs: things and their relations, compiled to a caption with spans, boxes, masks and depth (our design).

FlexEControl's text names scene graphs without giving a formula; this compiler is ours. It is deterministic and uses no
model: the caption says every node once and every edge, boxes come from the nodes or from the solver in
`scene_graph_layout`, masks from the nodes or from the boxes, depth from the nodes or from in front of and behind.
"""

import json
import math
from collections import Counter
from dataclasses import MISSING, dataclass, fields

import torch

from wm_pipelines.runtime.readers import concise, parse_json
from wm_pipelines.text.phrasing import EMPTY, NodeId, join_clauses
from wm_pipelines.text.scene_graph_layout import AXES, find_cycle, relations_of, solve

PREDICATES = ("left of", "right of", "in front of", "behind", "above", "below", "on", "in")
SCHEMA_VERSION = 1

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mask:
    """A picture of bools as run lengths: row by row, alternately False and True, beginning with False."""

    height: int
    width: int
    runs: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))
        if any(not isinstance(r, int) or r < 0 for r in self.runs) or sum(self.runs) != self.height * self.width:
            raise ValueError(f"`runs` must be counts that sum to height x width = {self.height} x {self.width}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"`height` is {self.height!r}, `width` {self.width!r}; 1 or more")

    @classmethod
    def from_tensor(cls, mask: torch.Tensor) -> "Mask":
        """From bool (H, W)."""
        if mask.dtype != torch.bool or mask.dim() != 2:
            raise ValueError(f"`mask` must be bool (H, W), got {mask.dtype} {tuple(mask.shape)}")
        flat = torch.cat([torch.tensor([False]), mask.flatten().cpu()])
        changes = (flat[1:] != flat[:-1]).nonzero().flatten().tolist()
        ends = [*changes, mask.numel()]
        return cls(*mask.shape, tuple(b - a for a, b in zip([0, *changes], ends, strict=True)))

    def to_tensor(self) -> torch.Tensor:
        """Bool (H, W)."""
        runs = torch.tensor(self.runs, dtype=torch.long)
        values = torch.arange(len(self.runs)) % 2 == 1
        return values.repeat_interleave(runs).reshape(self.height, self.width)


@dataclass(frozen=True)
class Node:
    """A thing.

    Args:
        id: an integer or a word, unique in the graph.
        name: what it is, without article: "cube".
        attributes: words before the name, in the order they are said: ("small", "red").
        box: (x0, y0, x1, y1) in [0, 1] of the frame; None lets the solver, or the mask's bounds, decide.
        mask: where it is seen, at any size; None means its whole box.
        depth: metres from the camera; None lets the solver decide.

    Example:
        >>> cube = Node("a", "cube", ("red",), box=(0.1, 0.4, 0.4, 0.7))
        >>> SceneGraph((cube,)).compile(64, 64).caption
        'a red cube'
    """

    id: NodeId
    name: str
    attributes: tuple[str, ...] = ()
    box: Box | None = None
    mask: Mask | None = None
    depth: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.id, bool) or not isinstance(self.id, (int, str)) or self.id == "":
            raise ValueError(f"`id` is {self.id!r}; an integer or a word")
        if isinstance(self.attributes, str):
            raise ValueError(f"`attributes` of node {self.id!r} is the text {self.attributes!r}; give a list of words")
        object.__setattr__(self, "attributes", tuple(self.attributes))
        for field, word in (("name", self.name), *(("attributes", a) for a in self.attributes)):
            if not isinstance(word, str) or not word.strip() or word != " ".join(word.split()):
                raise ValueError(f"`{field}` of node {self.id!r} has {word!r}; words with single spaces between them")
        if self.box is not None:
            object.__setattr__(self, "box", _box(self.id, self.box))
        if self.mask is not None:
            if not isinstance(self.mask, Mask):
                raise ValueError(f"`mask` of node {self.id!r} is a {type(self.mask).__name__}; use Mask.from_tensor")
            if sum(self.mask.runs[1::2]) == 0:
                raise ValueError(f"`mask` of node {self.id!r} is empty")
        if self.depth is not None and not (_is_number(self.depth) and self.depth > 0):
            raise ValueError(f"`depth` of node {self.id!r} is {self.depth!r}; metres above 0")


@dataclass(frozen=True)
class Edge:
    """A relation between two nodes, by id.

    Args:
        subject, object: node ids.
        predicate: one of `PREDICATES`; above and below are meant in the picture.

    Example:
        >>> edge = Edge("a", "left of", "b")
        >>> edge.subject, edge.object
        ('a', 'b')
    """

    subject: NodeId
    predicate: str
    object: NodeId

    def __post_init__(self) -> None:
        if self.predicate not in AXES:
            raise ValueError(f"`predicate` is {self.predicate!r}; allowed: {', '.join(PREDICATES)}")
        if not all(isinstance(end, int | str) for end in (self.subject, self.object)):
            raise ValueError(f"`subject` and `object` are {self.subject!r} and {self.object!r}; ids of nodes")
        if self.subject == self.object:
            raise ValueError(f"`subject` and `object` are both {self.subject!r}")

    def __str__(self) -> str:
        return f"{self.subject} {self.predicate} {self.object}"


@dataclass(frozen=True)
class CompiledGraph:
    """What a graph says, for a picture of a given size.

    Args:
        caption: the text.
        spans: node id to the (start, end) characters of its first noun phrase in `caption`, article included.
        boxes: node id to (x0, y0, x1, y1) in [0, 1].
        masks: node id to bool (H, W), as if nothing hid it.
        depth_order: ids from near to far; equal depths in the order of the nodes.
        depth: float32 (H, W), metres of the nearest node at each pixel, infinite where there is none.
    """

    caption: str
    spans: dict[NodeId, tuple[int, int]]
    boxes: dict[NodeId, Box]
    masks: dict[NodeId, torch.Tensor]
    depth_order: list[NodeId]
    depth: torch.Tensor


@dataclass(frozen=True)
class SceneGraph:
    """Nodes and edges; what contradicts itself is refused when the graph is made.

    Example:
        >>> nodes = (Node("a", "cube", ("red",)), Node("b", "sphere", ("blue",)))
        >>> graph = SceneGraph(nodes, (Edge("a", "left of", "b"),))
        >>> graph.compile(64, 64).caption
        'a red cube left of a blue sphere'
    """

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "edges", tuple(self.edges))
        ids = [n.id for n in self.nodes]
        known, seen = set(ids), set()
        for id, times in Counter(ids).items():
            if times > 1:
                raise ValueError(f"`nodes` has the id {id!r} twice")
        for edge in self.edges:
            for role in (edge.subject, edge.object):
                if role not in known:
                    raise ValueError(f"edge '{edge}' names the node {role!r}; the nodes are {ids}")
            if edge in seen:
                raise ValueError(f"`edges` has '{edge}' twice")
            seen.add(edge)
        cycle = find_cycle(relations_of(self.edges, {id: i for i, id in enumerate(ids)}))
        if cycle:
            raise ValueError(f"these edges form a cycle: {', '.join(str(self.edges[i]) for i in cycle)}")

    def to_json(self) -> str:
        """Versioned JSON that `from_json` reads back to an equal graph."""
        nodes = []
        for node in self.nodes:
            entry = {f.name: getattr(node, f.name) for f in fields(Node) if getattr(node, f.name) not in (None, ())}
            if node.mask is not None:
                entry["mask"] = vars(node.mask)
            nodes.append(entry)
        return json.dumps({"scene_graph": SCHEMA_VERSION, "nodes": nodes, "edges": [vars(e) for e in self.edges]})

    @classmethod
    @concise()
    def from_json(cls, text: str) -> "SceneGraph":
        """Reads what `to_json` writes; `scene_graph`, the version, may be left out of hand-written text.

        Raises:
            ValueError: not JSON, another version, an unknown or missing field, or a graph that contradicts itself.
        """
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ValueError(f"a scene graph is JSON: {error}") from None
        if not isinstance(data, dict):
            raise ValueError(f"a scene graph is a JSON object with nodes and edges, got a {type(data).__name__}")
        version = data.pop("scene_graph", SCHEMA_VERSION)
        if version != SCHEMA_VERSION:
            raise ValueError(f"`scene_graph` version is {version!r}; this package reads version {SCHEMA_VERSION}")
        unknown = sorted(set(data) - {"nodes", "edges"})
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r} in SceneGraph; known: scene_graph, nodes, edges")
        for name in ("nodes", "edges"):
            if not isinstance(data.get(name, []), list):
                raise ValueError(f"`{name}` is a {type(data[name]).__name__}; a list")
        nodes = []
        for entry in data.get("nodes", []):
            if isinstance(entry, dict) and entry.get("mask") is not None:
                entry = {**entry, "mask": _build(Mask, entry["mask"])}
            nodes.append(_build(Node, entry))
        return cls(tuple(nodes), tuple(_build(Edge, entry) for entry in data.get("edges", [])))

    def swap(self, position: int) -> "SceneGraph":
        """The graph with subject and object of edge `position` exchanged."""
        e = self.edges[position]
        turned = Edge(e.object, e.predicate, e.subject)
        return SceneGraph(self.nodes, tuple(turned if i == position else x for i, x in enumerate(self.edges)))

    def compile(self, height: int, width: int) -> CompiledGraph:
        """Caption, boxes, masks and depth for a picture of `height` x `width` pixels.

        Nodes without a box get one from their mask or from the predicates. Exchanging subject and object of an edge
        exchanges the boxes of two such nodes, what is derived from them (masks, depth) and the order of their phrases,
        and nothing else. That is exact for an edge that shares no node with another, and for every edge of a graph
        whose edges run along the order of its nodes as far as the other edges still hold after it. It can't be so in
        every graph: "b left of a, c left of a" is one edge away from the chains b, a, c and c, a, b, whose exchanges
        differ.

        Raises:
            ValueError: a size below 1, or edges that contradict each other or the given boxes and depths, by name.
        """
        for name, value in (("height", height), ("width", width)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` is {value!r}; an integer of 1 or more")
        masks = {i: _resize(n.mask.to_tensor(), height, width) for i, n in enumerate(self.nodes) if n.mask is not None}
        boxes = {i: n.box for i, n in enumerate(self.nodes) if n.box is not None}
        boxes |= {i: _bounds(self.nodes[i].mask.to_tensor()) for i in masks if i not in boxes}
        depths = {i: float(n.depth) for i, n in enumerate(self.nodes) if n.depth is not None}
        relations = relations_of(self.edges, {n.id: i for i, n in enumerate(self.nodes)})
        slots, broken = solve(len(self.nodes), relations, boxes, depths)
        if broken:
            names = ", ".join(f"'{self.edges[i]}'" for i in broken)
            raise ValueError(f"cannot hold together with the other edges and the given boxes and depths: {names}")
        for i, slot in enumerate(slots):
            masks.setdefault(i, _rectangle(slot.box, height, width))
        depth = torch.full((height, width), torch.inf)
        for i, slot in enumerate(slots):
            depth = torch.where(masks[i] & (slot.depth < depth), slot.depth, depth)
        caption, spans = describe(self)
        return CompiledGraph(
            caption=caption,
            spans=spans,
            boxes={n.id: slot.box for n, slot in zip(self.nodes, slots, strict=True)},
            masks={n.id: masks[i] for i, n in enumerate(self.nodes)},
            depth_order=[self.nodes[i].id for i in sorted(range(len(slots)), key=lambda i: slots[i].depth)],
            depth=depth,
        )


def describe(graph: SceneGraph) -> tuple[str, dict[NodeId, tuple[int, int]]]:
    """The caption of `graph`, and per node the (start, end) characters of its first noun phrase.

    Edges are said in their order, without those that follow from others (a left of c, when a is left of b and b left
    of c). An edge whose subject was just mentioned goes on from there ("a red cube left of a blue sphere behind a
    green cone"), one that shares the subject of its clause is joined by "and", any other begins a clause. Nodes
    without an edge come last.
    """
    if not graph.nodes:
        return EMPTY, {}
    clauses: list[list[str | tuple[NodeId]]] = []
    for edge in _said_edges(graph):
        clause = clauses[-1] if clauses else None
        if clause and clause[-1] == (edge.subject,):
            clause += [f" {edge.predicate} ", (edge.object,)]
        elif clause and clause[0] == (edge.subject,):
            clause += [f" and {edge.predicate} ", (edge.object,)]
        else:
            clauses.append([(edge.subject,), f" {edge.predicate} ", (edge.object,)])
    said = {piece[0] for clause in clauses for piece in clause if not isinstance(piece, str)}
    clauses += [[(node.id,)] for node in graph.nodes if node.id not in said]
    return join_clauses(clauses, {node.id: (*node.attributes, node.name) for node in graph.nodes})


def _said_edges(graph: SceneGraph) -> list[Edge]:
    """The edges that do not follow from the others, each relation once."""
    relations = relations_of(graph.edges, {n.id: i for i, n in enumerate(graph.nodes)})
    said = []
    for i, (axis, a, b) in enumerate(relations):
        repeated = (axis, a, b) in relations[:i]
        if not repeated and not (axis in ("x", "y", "z") and _follows(relations, axis, a, b)):
            said.append(graph.edges[i])
    return said


def _follows(relations: list[tuple[str, int, int]], axis: str, a: int, b: int) -> bool:
    """Whether a before b on `axis` is implied by a chain of two or more."""
    reached, pending = set(), [v for kind, u, v in relations if kind == axis and u == a and v != b]
    while pending:
        u = pending.pop()
        if u == b:
            return True
        if u not in reached:
            reached.add(u)
            pending += [v for kind, w, v in relations if kind == axis and w == u]
    return False


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _box(id: NodeId, box) -> Box:
    if not isinstance(box, (tuple, list)) or len(box) != 4 or not all(_is_number(v) for v in box):
        raise ValueError(f"`box` of node {id!r} is {box!r}; four numbers x0, y0, x1, y1 in [0, 1]")
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"`box` of node {id!r} is {box!r}; 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
    return (float(x0), float(y0), float(x1), float(y1))


def _build(cls, data):
    if not isinstance(data, dict):
        raise ValueError(f"a {cls.__name__} is a JSON object, got {data!r}")
    known = [f.name for f in fields(cls)]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r} in {cls.__name__}; known: {', '.join(known)}")
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in data]
    if missing:
        raise ValueError(f"a {cls.__name__} needs {' and '.join(missing)}, got {data!r}")
    try:
        return cls(**data)
    except TypeError as error:
        raise ValueError(f"{cls.__name__} {data!r}: {error}") from None


def _bounds(mask: torch.Tensor) -> Box:
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    h, w = mask.shape
    return (columns[0].item() / w, rows[0].item() / h, (columns[-1].item() + 1) / w, (rows[-1].item() + 1) / h)


def _resize(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Nearest pixel; the same mask at its own size."""
    rows = ((torch.arange(height) + 0.5) * mask.shape[0] / height).long()
    columns = ((torch.arange(width) + 0.5) * mask.shape[1] / width).long()
    return mask[rows][:, columns]


def _rectangle(box: Box, height: int, width: int) -> torch.Tensor:
    """Pixels whose centre is in the box; at least the one at its centre."""
    x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    mask = ((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))[None]
    if not mask.any():
        row, column = int((box[1] + box[3]) / 2 * height), int((box[0] + box[2]) / 2 * width)
        mask[min(row, height - 1), min(column, width - 1)] = True
    return mask
