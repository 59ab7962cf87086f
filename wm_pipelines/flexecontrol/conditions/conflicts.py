"""What conditions, phrases and scene graph disagree about, found before sampling. Our design.

Who wins follows from how sampling works, nothing else:
maps of one type are added in the adapter's first layer, each times its strength; maps of different types are added
there too, through kernels of their own; a phrase may act in the union of the places of its conditions; a word that
stands in several phrases may act in the places of all of them; a phrase bound by a condition is not bound by the
graph, and a graph gives no map of a type that a condition gives.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import torch
import torch.nn.functional as F

from wm_pipelines.flexecontrol.conditions.preparing import PreparedCondition
from wm_pipelines.media.conditions import SPARSE, box_mask, support
from wm_pipelines.text.prompts import Span, locate
from wm_pipelines.text.scene_graph import CompiledGraph

OVERLAP = 0.5
DIFFERENCE = 0.25
DISCONTINUITY = 0.1
EDGE_AGREEMENT = 0.3
EDGE_RADIUS = 2
APART = 0.1
GRAPH_AGREEMENT = 0.25
GRAPH_STEP = 0.3  # metres; nearer than this two nodes have no order
# Fewer discontinuous pixels than this are a speck, and their share says nothing.
_FEWEST = 8
# Line segments leave out curves, and poses outline nothing: neither is expected to follow depth.
_EDGE_TYPES = ("canny", "softedge", "sketch")


@dataclass(frozen=True)
class Conflict:
    """One disagreement.

    Args:
        kind: same_type, edge_depth, phrase_in_two_places, phrases_overlap, shared_words, graph_place or graph_depth.
        indices: the conditions concerned, from 0, in the user's order.
        message: all of it in one sentence, for people.
        winner: what sampling will follow: a condition's name, "both" or "neither".
        reason: why.
        measure: the numbers behind it.
    """

    kind: str
    indices: tuple[int, ...]
    message: str
    winner: str
    reason: str
    measure: dict[str, float]

    def to_dict(self) -> dict[str, object]:
        """As JSON takes it."""
        return {**asdict(self), "indices": list(self.indices)}


def find_conflicts(
    prepared: Sequence[PreparedCondition],
    prompt: str,
    phrases: Sequence[str | tuple[str, Span]],
    graph: CompiledGraph | None = None,
) -> list[Conflict]:
    """All conflicts of one prompt's conditions; those that never act together have none.

    Args:
        prepared: conditions of one size.
        prompt: the text that the phrases are part of.
        phrases: all phrases asked for; those that no condition places matter where they share words with one.
        graph: compiled at the same size.
    """
    acting = [condition for condition in prepared if condition.strength > 0]
    pairs = [(a, b) for a, b in combinations(acting, 2) if a.start < b.end and b.start < a.end]
    found = [conflict for a, b in pairs for conflict in (*_same_type(a, b), *_edge_depth(a, b))]
    spans = {id(c): span for c in acting if (span := _span(prompt, c.phrase, c.span)) is not None}
    for a, b in pairs:
        if id(a) in spans and id(b) in spans:
            found += _phrases(prompt, a, spans[id(a)], b, spans[id(b)])
    bound = [(c, spans[id(c)]) for c in acting if id(c) in spans]
    others = {_span(prompt, *((spec, None) if isinstance(spec, str) else spec)) for spec in phrases}
    for c, span in bound:
        for other in sorted(others - set(spans.values()) - {None}):
            found += _loose_words(prompt, c, span, other)
    if graph is not None:
        drawn = any(c.source == "graph" for c in acting)
        for c, span in bound:
            found += _graph_place(prompt, c, span, graph, bound=spans.values(), drawn=drawn)
        found += [conflict for c in acting if c.type == "depth" for conflict in _graph_depth(c, graph)]
    return found


def _conflict(
    kind: str, conditions: Sequence[PreparedCondition], problem: str, winner: str, reason: str, **measure: float
) -> Conflict:
    outcome = {"both": "both act", "neither": "neither is sure to win"}.get(winner, f"{winner} wins")
    rounded = {name: round(float(value), 4) for name, value in measure.items()}
    indices = tuple(condition.index for condition in conditions)
    return Conflict(kind, indices, f"{problem}; {outcome}: {reason}", winner, reason, rounded)


def _share(a: torch.Tensor, b: torch.Tensor) -> float:
    """|A and B| / min(|A|, |B|) of two masks, 0 if one is empty."""
    smaller = min(int(a.sum()), int(b.sum()))
    return int((a & b).sum()) / smaller if smaller else 0.0


def _near(mask: torch.Tensor, radius: int) -> torch.Tensor:
    return F.max_pool2d(mask[None].float(), 2 * radius + 1, 1, radius)[0]


def _weight(a: PreparedCondition, b: PreparedCondition) -> str:
    if a.strength == b.strength:
        return "neither"
    return a.name if a.strength > b.strength else b.name


def _same_type(a: PreparedCondition, b: PreparedCondition) -> Iterator[Conflict]:
    """Two maps of one type that say different things about the same place.

    In sparse maps most pixels are empty on both sides and would hide any disagreement, so the mean runs over the
    pixels that one of the two marks, and marks within `EDGE_RADIUS` of each other agree.
    """
    if a.type != b.type:
        return
    both = a.area & b.area
    overlap = _share(a.area, b.area)
    if overlap <= OVERLAP:
        return
    if a.type in SPARSE:
        marks = [(c.image - c.background).abs().amax(0, keepdim=True) for c in (a, b)]
        lone = [(m - _near(n, EDGE_RADIUS)).clamp_min(0) for m, n in (marks, marks[::-1])]
        both = both & (support(a.type, a.image, a.background) | support(b.type, b.image, b.background))
        distance = torch.maximum(*lone)
    else:
        distance = (a.image - b.image).abs().mean(0, keepdim=True)
    difference = float(distance[both].mean()) if both.any() else 0.0
    if difference > DIFFERENCE:
        yield _conflict(
            "same_type",
            (a, b),
            f"{a.name} and {b.name} overlap {overlap:.0%} and disagree; set regions or strengths",
            _weight(a, b),
            f"maps of one type are added, each times its strength ({a.strength:g} and {b.strength:g})",
            overlap=overlap,
            difference=difference,
        )


def _edge_depth(a: PreparedCondition, b: PreparedCondition) -> Iterator[Conflict]:
    """Steps in depth where the edges show nothing.

    An edge map that is bound to a phrase or a region speaks about that place only, so only steps there count.
    """
    if b.type in _EDGE_TYPES and a.type == "depth":
        a, b = b, a
    if a.type not in _EDGE_TYPES or b.type != "depth":
        return
    depth = b.image.mean(0, keepdim=True)
    steps = torch.zeros_like(depth, dtype=torch.bool)
    across = (depth[:, :, 1:] - depth[:, :, :-1]).abs() > DISCONTINUITY
    down = (depth[:, 1:] - depth[:, :-1]).abs() > DISCONTINUITY
    steps[:, :, 1:] |= across
    steps[:, :, :-1] |= across
    steps[:, 1:] |= down
    steps[:, :-1] |= down
    if b.region is not None:
        steps &= b.region >= 0.5
    if a.region is not None:
        steps &= a.region >= 0.5
    elif a.phrase is not None or a.span is not None:
        steps &= _near(a.area, EDGE_RADIUS) > 0
    if int(steps.sum()) < _FEWEST:
        return
    edges = _near(support(a.type, a.image, a.background), EDGE_RADIUS) > 0
    agreement = float(edges[steps].float().mean())
    if agreement < EDGE_AGREEMENT:
        yield _conflict(
            "edge_depth",
            (a, b),
            f"only {agreement:.0%} of the depth steps of {b.name} lie within {EDGE_RADIUS} px of an edge of {a.name}",
            _weight(a, b),
            "maps of different types are added after kernels of their own; only strengths "
            f"({a.strength:g} and {b.strength:g}) weigh them",
            agreement=agreement,
            steps=int(steps.sum()),
        )


def _span(prompt: str, phrase: str | None, span: Span | None) -> Span | None:
    """Where a phrase stands; None if there is none or the prompt leaves it open, which others refuse."""
    if phrase is None and span is None:
        return None
    try:
        return locate(prompt, phrase or "", span)
    except ValueError:
        return None


def _meet(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _loose_words(prompt: str, condition: PreparedCondition, span: Span, other: Span) -> Iterator[Conflict]:
    """A phrase that nothing places, with words of one that a condition does."""
    if _meet(span, other):
        shared = prompt[max(span[0], other[0]) : min(span[1], other[1])]
        yield _conflict(
            "shared_words",
            (condition,),
            f"the phrase {prompt[slice(*other)]!r} has no place but shares {shared!r} with the phrase of "
            f"{condition.name}",
            condition.name,
            "words of a bound phrase act in its place only, whatever other phrase holds them",
            shared_letters=len(shared),
        )


def _phrases(prompt: str, a: PreparedCondition, at: Span, b: PreparedCondition, bt: Span) -> Iterator[Conflict]:
    first, second = prompt[slice(*at)], prompt[slice(*bt)]
    overlap = _share(a.area, b.area)
    if at == bt:
        if overlap < APART:
            yield _conflict(
                "phrase_in_two_places",
                (a, b),
                f"the phrase {first!r} is bound to two places, by {a.name} and {b.name}",
                "both",
                "a phrase may act in all places of its conditions, so its object may appear in either or in each",
                overlap=overlap,
            )
        return
    shared = (max(at[0], bt[0]), min(at[1], bt[1]))
    if shared[0] < shared[1]:
        if overlap < OVERLAP:
            yield _conflict(
                "shared_words",
                (a, b),
                f"the phrases {first!r} ({a.name}) and {second!r} ({b.name}) share {prompt[slice(*shared)]!r} "
                "but not their place",
                "both",
                "a word of several phrases may act in the places of all of them; bind phrases that share no word",
                overlap=overlap,
            )
    elif overlap > OVERLAP:
        yield _conflict(
            "phrases_overlap",
            (a, b),
            f"the phrases {first!r} ({a.name}) and {second!r} ({b.name}) claim the same place ({overlap:.0%})",
            "neither",
            "where places overlap both phrases may act, and the base model decides what appears; set regions",
            overlap=overlap,
        )


def _graph_place(
    prompt: str, condition: PreparedCondition, span: Span, graph: CompiledGraph, bound: Iterable[Span], drawn: bool
) -> Iterator[Conflict]:
    """A phrase far from its own node's box, or in the place of a node that the graph binds to another phrase.

    Args:
        bound: the words that conditions hold. drawn: whether the graph gives maps of its own, which show its nodes.
    """
    area = condition.area
    for node, (start, end) in graph.spans.items():
        place = (start, end)
        if prompt != graph.caption:
            text = graph.caption[start:end]
            place = _span(prompt, text, None) or _span(prompt, text.partition(" ")[2], None)
        if place is None or not area.any():
            continue
        words = prompt[slice(*span)]
        if _meet(span, place):
            inside = _share(area, box_mask(graph.boxes[node], *area.shape[1:]) > 0)
            if inside < GRAPH_AGREEMENT:
                yield _conflict(
                    "graph_place",
                    (condition,),
                    f"{condition.name} binds {words!r} to a place that shares {inside:.0%} with the box of node "
                    f"{node!r} of the graph",
                    "both" if drawn else condition.name,
                    "a phrase bound by a condition is not bound by the graph"
                    + (
                        "; but the graph's own maps show the node at its box, where it appears as well"
                        if drawn
                        else ""
                    ),
                    inside=inside,
                )
        elif not any(_meet(place, other) for other in bound):
            overlap = _share(area, graph.masks[node][None])
            if overlap > OVERLAP:
                yield _conflict(
                    "phrases_overlap",
                    (condition,),
                    f"the phrases {words!r} ({condition.name}) and {prompt[slice(*place)]!r} (node {node!r} of the "
                    f"graph) claim the same place ({overlap:.0%})",
                    "neither",
                    "where places overlap both phrases may act, and the base model decides what appears; set regions",
                    overlap=overlap,
                )


def _graph_depth(condition: PreparedCondition, graph: CompiledGraph) -> Iterator[Conflict]:
    """A depth map that turns the graph's order round, judged where the nodes are seen."""
    near = condition.image.mean(0)
    seen = {}
    order = [node for node in graph.depth_order if graph.masks[node].any()]
    for node in order:
        depths = graph.depth.where(graph.masks[node], -torch.inf)
        # Where nothing hides it the nearest thing is the node itself, and nothing in its mask is farther.
        own = float(depths.max())
        seen[node] = own, float(near[depths == own].mean())
    for front, behind in combinations(order, 2):
        ordered = seen[behind][0] - seen[front][0] >= GRAPH_STEP
        gap = seen[behind][1] - seen[front][1]
        if ordered and gap > DISCONTINUITY:
            yield _conflict(
                "graph_depth",
                (condition,),
                f"{condition.name} is nearer at node {behind!r} of the graph than at {front!r}, which the graph puts "
                "in front",
                condition.name,
                "the graph gives no depth map where a condition gives one; its boxes and masks keep the graph's order",
                gap=gap,
            )
