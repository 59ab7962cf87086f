"""What holds each phrase of a prompt to a place: conditions that carry it, or the nodes of a scene graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.conditions.preparing import PreparedCondition
from wm_pipelines.media.conditions import depth_to_map, seg_from_ids
from wm_pipelines.text.prompts import Phrase, Span, find_phrases, locate
from wm_pipelines.text.scene_graph import CompiledGraph

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PhraseSpec = str | tuple[str, Span]


@dataclass(frozen=True)
class Binding:
    """The phrases of one prompt and their places.

    Args:
        phrases: distinct, in order of first mention by conditions, `phrases=` and graph.
        owners: for each of the prompt's conditions, the index of its phrase or None.
        fixed: phrase index -> bool (H, W), a place that holds all through sampling.
        placed: the phrases that have a place at some step.
    """

    phrases: list[Phrase] = field(default_factory=list)
    owners: list[int | None] = field(default_factory=list)
    fixed: dict[int, torch.Tensor] = field(default_factory=dict)
    placed: frozenset[int] = frozenset()

    def told_apart(self) -> list[int]:
        """The phrases that have a place at some step, if they are two or more; alone, one has nothing to be told from,
        and its place may show the prompt's other objects."""
        return sorted(self.placed) if len(self.placed) > 1 else []

    def regions(self, row: Sequence[PreparedCondition], flags: Sequence[bool]) -> dict[int, torch.Tensor]:
        """Phrase index -> float (H, W) in [0, 1]; phrases that nothing holds at this step are left out.

        A phrase follows its conditions' windows; several conditions give it the union of their places.
        """
        regions = {p: mask.float() for p, mask in self.fixed.items()}
        for condition, flag, owner in zip(row, flags, self.owners, strict=True):
            if flag and owner is not None:
                place = condition.area[0].float()
                regions[owner] = torch.maximum(regions[owner], place) if owner in regions else place
        return regions


def bind(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    conditions: Sequence[PreparedCondition],
    phrases: Sequence[PhraseSpec],
    graph: CompiledGraph | None = None,
    convert: Callable[[str], str] = str,
) -> Binding:
    """Find every phrase in the prompt and note what binds it.

    A node of the graph binds its phrase to its mask, unless a condition is bound to words of that phrase: explicit
    conditions win.

    Raises:
        ValueError: a phrase that is not in the prompt, is there twice without a span, or is cut by the token limit.
    """
    wanted = [(c.phrase or "", c.span) for c in conditions if c.phrase is not None or c.span is not None]
    bound = [locate(prompt, *spec) for spec in wanted]
    wanted += [(spec, None) if isinstance(spec, str) else (spec[0], tuple(spec[1])) for spec in phrases]
    masks: dict[Span, torch.Tensor] = {}
    if graph is not None:
        for node, (start, end) in graph.spans.items():
            text = graph.caption[start:end]
            span = (start, end) if prompt == graph.caption else _locate_node(prompt, text)
            if not any(span[0] < other[1] and other[0] < span[1] for other in bound):
                masks[span] = graph.masks[node]
                wanted.append((prompt[slice(*span)], span))
    found = find_phrases(tokenizer, prompt, wanted, convert)
    index = {phrase.span: p for p, phrase in enumerate(found)}
    spans = iter(bound)
    owners = [index[next(spans)] if c.phrase is not None or c.span is not None else None for c in conditions]
    fixed = {index[span]: mask for span, mask in masks.items()}
    acting = {o for c, o in zip(conditions, owners, strict=True) if o is not None and c.strength > 0}
    return Binding(found, owners, fixed, frozenset(acting | set(fixed)))


def _locate_node(prompt: str, text: str) -> Span:
    """A node's phrase in a prompt that is not the graph's own caption: any article will do."""
    words = text.split(" ", 1)[1]
    return locate(prompt, text if text.lower() in prompt.lower() else words)


def graph_conditions(graph: CompiledGraph, types: Sequence[str], explicit: Sequence[Condition]) -> list[Condition]:
    """The maps that a graph stands for: `seg` from the nodes' masks and `depth` from their order.

    Only types that the model has and that no explicit condition gives. Nearer nodes are drawn over farther ones; the
    palette says nothing about the nodes.
    """
    given = {getattr(condition, "type", None) for condition in explicit}
    derived = []
    if not graph.masks:
        return derived
    if "seg" in types and "seg" not in given:
        ids = torch.zeros(graph.depth.shape, dtype=torch.long)
        numbers = {node: i + 1 for i, node in enumerate(graph.masks)}
        for node in reversed(graph.depth_order):
            ids[graph.masks[node]] = numbers[node]
        derived.append(Condition("seg", seg_from_ids(ids), source="graph"))
    if "depth" in types and "depth" not in given:
        depth = depth_to_map(graph.depth)
        if depth.any():  # nodes at one depth have no order to show
            derived.append(Condition("depth", depth, source="graph"))
    return derived


def stack_regions(
    bindings: Sequence[dict[int, torch.Tensor]], count: int, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Regions of all prompts, float (P, count, H, W), and which phrases are held at all, bool (P, count)."""
    regions = torch.zeros(len(bindings), count, *size)
    held = torch.zeros(len(bindings), count, dtype=torch.bool)
    for b, places in enumerate(bindings):
        for p, place in places.items():
            regions[b, p], held[b, p] = place, True
    return regions, held
