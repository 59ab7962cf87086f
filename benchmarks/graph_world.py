"""The world of the graph transformer's micro-experiment: facts without full stops, a grid of noisy things, questions.

A text holds six facts "dog chases cat" in random order with a filler word before any word at random, so that
position does not tell where a fact ends. A picture has a thing in each of its 3 x 3 patches, as noisy features of what
it is and of its colour. A question asks for the object of a fact ("who dog chases"), for the object of the fact about
that object ("who dog chases sees"), or for the colour of a fact's object, which only the picture shows ("colour dog
chases").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from wm_pipelines.graph_transformer.bias import Regions, compile_graphs
from wm_pipelines.graph_transformer.graph import AttentionGraph, GraphNode
from wm_pipelines.graph_transformer.parsing import auto_graph, with_mentions
from wm_pipelines.graph_transformer.regions import patch_boxes
from wm_pipelines.graph_transformer.tokens import Pieces, pad
from wm_pipelines.runtime.random import keyed

THINGS = ("dog", "cat", "man", "woman", "bird", "horse", "boy", "girl")
VERBS = ("chases", "sees", "holds", "follows")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
FILLERS = ("well", "also", "indeed", "now", "then", "so")
KINDS = ("text", "two hops", "picture")
ANSWERS = (*THINGS, *COLOURS)
WORDS = ("[PAD]", "[CLS]", "[SEP]", "who", "colour", *THINGS, *VERBS, *FILLERS)
FACTS, GRID, PATCH, NOISE = 6, 3, 4, 0.3
LONGEST = 3 + 4 + 6 * FACTS  # tokens

Fact = tuple[str, str, str]


@dataclass(frozen=True)
class Scene:
    """A text, a picture and a question.

    Args:
        kind: of `KINDS`. question: its words. said: words of the context, fillers among them.
        places: of each fact in their order in the text, the positions in `said` of its three words.
        things: (name, colour) of each patch, row by row. answer: of `ANSWERS`.
    """

    kind: str
    question: tuple[str, ...]
    said: tuple[str, ...]
    places: tuple[tuple[int, int, int], ...]
    things: tuple[tuple[str, str], ...]
    answer: str


def sample(*key: str | int) -> Scene:
    """The scene of a key. Every fact's subject and verb are unique; subject or verb alone tell nothing."""
    rng = keyed("graph world", *key)
    kind = KINDS[int(rng.integers(len(KINDS)))]
    pairs = [(a, v) for a in THINGS for v in VERBS]
    chosen = [pairs[i] for i in rng.permutation(len(pairs))[:FACTS]]
    facts = [(a, v, _other(rng, a)) for a, v in chosen]
    asked: tuple[str, ...] = facts[0][:2]
    answer = facts[0][2]
    if kind == "two hops":
        middle = (facts[0][2], VERBS[int(rng.integers(len(VERBS)))])
        if middle in chosen[1:]:
            facts[chosen.index(middle)] = facts[1]
        answer = _other(rng, middle[0])
        facts[1] = (*middle, answer)
        asked = (*asked, middle[1])
    order = rng.permutation(FACTS)
    said, places = [], []
    for i in order:
        where = []
        for word in facts[i]:
            said += [FILLERS[int(rng.integers(len(FILLERS)))]] if rng.random() < 0.5 else []
            where.append(len(said))
            said.append(word)
        places.append(tuple(where))
    names = [*rng.permutation(THINGS), THINGS[int(rng.integers(len(THINGS)))]]
    names = [str(name) for name in names]
    colours = {name: COLOURS[int(rng.integers(len(COLOURS)))] for name in THINGS}
    things = tuple((names[i], colours[names[i]]) for i in rng.permutation(GRID * GRID))
    answer = colours[answer] if kind == "picture" else answer
    question = ("colour" if kind == "picture" else "who", *asked)
    return Scene(kind, question, tuple(said), tuple(places), things, answer)


def _other(rng: np.random.Generator, name: str) -> str:
    return [thing for thing in THINGS if thing != name][int(rng.integers(len(THINGS) - 1))]


@cache
def _code(word: str) -> np.ndarray:
    """The features of a thing or a colour, (3, PATCH, PATCH)."""
    return keyed("graph world code", word).standard_normal((3, PATCH, PATCH)).astype(np.float32)


def picture(scene: Scene, *key: str | int) -> torch.Tensor:
    """Float32 (3, GRID PATCH, GRID PATCH)."""
    rng = keyed("graph world picture", *key)
    out = np.zeros((3, GRID, PATCH, GRID, PATCH), np.float32)
    for n, (name, colour) in enumerate(scene.things):
        out[:, n // GRID, :, n % GRID] = _code(name) + _code(colour)
    out += NOISE * rng.standard_normal(out.shape).astype(np.float32)
    return torch.from_numpy(out.reshape(3, GRID * PATCH, GRID * PATCH))


def pieces_of(scene: Scene) -> Pieces:
    """[CLS] question [SEP] context [SEP], a word a token."""
    text = " ".join((*scene.question, *scene.said))
    offsets, at = [], 0
    for word in (*scene.question, *scene.said):
        offsets.append((at, at + len(word)))
        at += len(word) + 1
    n = len(scene.question)
    ids = [WORDS.index(w) for w in ("[CLS]", *scene.question, "[SEP]", *scene.said, "[SEP]")]
    places = [(0, 0), *offsets[:n], (0, 0), *offsets[n:], (0, 0)]
    special = [place == (0, 0) for place in places]
    types = [0] * (n + 2) + [1] * (len(scene.said) + 1)
    kept = ((0, offsets[n - 1][1]), (offsets[n][0], len(text)))
    return Pieces(text, tuple(ids), tuple(types), tuple(places), tuple(special), kept)


def true_graph(scene: Scene, across: bool = True) -> AttentionGraph:
    """The graph of question and facts, mentions of one thing tied.

    Args:
        across: tie mentions of the question with those of the context too.
    """
    own = pieces_of(scene)
    n = len(scene.question)
    spans = [own.offsets[k] for k in range(2, n + 1)]
    spans += [own.offsets[n + 2 + k] for where in scene.places for k in where]
    kinds = ["entity"] + ["relation"] * (n - 2) + ["entity", "relation", "entity"] * FACTS
    nodes = tuple(GraphNode(span, kind=kind) for span, kind in zip(spans, kinds, strict=True))
    edges = [(k, k + 1, "") for k in range(n - 2)]
    for f in range(FACTS):
        head = n - 1 + 3 * f
        edges += [(head, head + 1, ""), (head + 1, head + 2, ""), (head, head + 2, "")]
    graph = with_mentions(AttentionGraph(nodes, tuple(edges)), own.text)
    if across:
        return graph
    return AttentionGraph(nodes, tuple(e for e in graph.edges if (e[0] < n - 1) == (e[1] < n - 1)))


def corrupted(graph: AttentionGraph, share: float, *key: str | int) -> AttentionGraph:
    """The graph with a share of its edges moved to other pairs of its nodes."""
    rng = keyed("graph world corrupt", *key)
    edges = list(graph.edges)
    for k in rng.permutation(len(edges))[: round(share * len(edges))]:
        i, j = rng.choice(len(graph.nodes), 2, replace=False).tolist()
        edges[k] = (i, j, "")
    return AttentionGraph(graph.nodes, tuple(edges))


def parsed_graph(scene: Scene) -> AttentionGraph:
    """What the rule parser makes of the text."""
    own = pieces_of(scene)
    return auto_graph(own.text[slice(*own.kept[0])], own.text[slice(*own.kept[1])])


def edge_f1(scenes: Sequence[Scene]) -> float:
    """F1 of the parser's ties between words of the facts against the true ones, mentions left out."""
    right = total = 0
    for scene in scenes:
        start = pieces_of(scene).kept[1][0]
        ours, theirs = (_ties(graph, start) for graph in (parsed_graph(scene), true_graph(scene)))
        right += len(ours & theirs)
        total += len(ours) + len(theirs)
    return 2 * right / total


def _ties(graph: AttentionGraph, start: int) -> set[frozenset[int]]:
    ends = [node.span[1] for node in graph.nodes]
    pairs = [(ends[i], ends[j]) for i, j, what in graph.edges if what != "same"]
    return {frozenset(pair) for pair in pairs if min(pair) > start}


@dataclass
class Data:
    """Scenes as tensors.

    Args:
        ids, types: int64 (N, T). valid, mask: which tokens are there, (N, T + 10), and (N, T) as int64.
        pixels: (N, 3, 12, 12). targets: (N,). kinds: of `KINDS`, (N,). allowed: bool (N, S, S). relations: int8
        (N, S, S), the kind of tie for a relational net: 0 none, 1 fact, 2 mention, 3 within question, 4 open.
    """

    ids: torch.Tensor
    types: torch.Tensor
    mask: torch.Tensor
    valid: torch.Tensor
    pixels: torch.Tensor
    targets: torch.Tensor
    kinds: torch.Tensor
    allowed: torch.Tensor
    relations: torch.Tensor


def make(count: int, graph: str | None, *key: str | int) -> Data:
    """The first `count` scenes of a key, with one kind of graph.

    Args:
        graph: None; "true"; "random", of the true one's density; "corrupt10", "corrupt30"; "apart", the true one
            without ties between question and context; "parser".
    """
    scenes = [sample(*key, n) for n in range(count)]
    pieces = [pieces_of(scene) for scene in scenes]
    graphs = [_graph(scene, graph, *key, n) for n, scene in enumerate(scenes)]
    boxes = torch.cat([torch.zeros(1, 4), patch_boxes(GRID, GRID)])
    regions = Regions(boxes.expand(count, -1, -1), torch.ones(count, len(boxes), dtype=torch.bool), special=1)
    longest = Pieces("", (0,) * LONGEST, (0,) * LONGEST, ((0, 0),) * LONGEST, (True,) * LONGEST, ((0, 0),))
    # one more of the greatest length, so that all data have one shape
    bias = compile_graphs(
        [*graphs, None],
        [*pieces, longest],
        Regions(torch.cat([regions.boxes, boxes[None]]), torch.cat([regions.valid, regions.valid[:1]]), 1),
    )
    if graph == "random":
        bias = bias.randomised(0)
    rows = [*(own.ids for own in pieces), longest.ids]
    return Data(
        ids=pad(rows, 0)[:-1],
        types=pad([*(own.types for own in pieces), longest.types], 0)[:-1],
        mask=bias.valid[:-1, :LONGEST].long(),
        valid=bias.valid[:-1],
        pixels=torch.stack([picture(scene, *key, n) for n, scene in enumerate(scenes)]),
        targets=torch.tensor([ANSWERS.index(scene.answer) for scene in scenes]),
        kinds=torch.tensor([KINDS.index(scene.kind) for scene in scenes]),
        allowed=bias.allowed[:-1],
        relations=_relations(graphs, pieces, bias.valid.shape[1]),
    )


def _graph(scene: Scene, kind: str | None, *key: str | int) -> AttentionGraph | None:
    if kind is None:
        return None
    if kind.startswith("corrupt"):
        return corrupted(true_graph(scene), int(kind.removeprefix("corrupt")) / 100, *key)
    if kind == "parser":
        return parsed_graph(scene)
    return true_graph(scene, across=kind != "apart")


def _relations(graphs: Sequence[AttentionGraph | None], pieces: Sequence[Pieces], size: int) -> torch.Tensor:
    """int8 (N, S, S); tokens of no node and the picture are tied to all by kind 4."""
    out = torch.full((len(graphs), size, size), 4, dtype=torch.int8)
    for b, (graph, own) in enumerate(zip(graphs, pieces, strict=True)):
        if graph is None:
            continue
        token = {offset: t for t, offset in enumerate(own.offsets) if offset[0] < offset[1]}
        at = torch.tensor([token[node.span] for node in graph.nodes if node.span in token], dtype=torch.long)
        out[b, at[:, None], at[None]] = 0
        for i, j, what in graph.edges:
            ends = [token.get(graph.nodes[n].span) for n in (i, j)]
            if None not in ends:
                kind = 2 if what == "same" else 3 if max(own.offsets[e][1] for e in ends) <= own.kept[0][1] else 1
                out[b, ends[0], ends[1]] = out[b, ends[1], ends[0]] = kind
    return out
