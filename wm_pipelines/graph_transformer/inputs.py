"""What a call may be given; every refusal says what came and what is allowed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from wm_pipelines.data.class_folders import list_pictures
from wm_pipelines.graph_transformer.graph import AttentionGraph
from wm_pipelines.graph_transformer.tables import Table
from wm_pipelines.media.pictures import to_pil

Context = str | Table | None


@dataclass(frozen=True)
class RegionFeatures:
    """What a detector saw in a picture: LXMERT reads this.

    Args:
        features (`torch.Tensor` of shape `(N, F)`): of each region.
        boxes (`torch.Tensor` of shape `(N, 4)`): x0, y0, x1, y1 in fractions of the picture.
    """

    features: torch.Tensor
    boxes: torch.Tensor

    def __post_init__(self) -> None:
        for name in ("features", "boxes"):
            value = getattr(self, name)
            if not isinstance(value, torch.Tensor) or value.ndim != 2 or not bool(value.isfinite().all()):
                shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ValueError(f"`{name}` must be a finite tensor (regions, values), got {shape}")
        if len(self.features) != len(self.boxes) or self.boxes.shape[1] != 4 or not len(self.boxes):
            raise ValueError(
                f"`boxes` is {tuple(self.boxes.shape)} for {len(self.features)} features; four numbers for each"
            )
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        if bool((self.boxes < 0).any() or (self.boxes > 1).any() or (low > high).any()):
            raise ValueError("`boxes` must lie in [0, 1] with x0 <= x1 and y0 <= y1: fractions of the picture")


@dataclass(frozen=True)
class Example:
    """One question about one picture; `graph` is "auto", None or what `parsing.read_graph` takes."""

    picture: Any
    question: str
    context: Context
    graph: Any

    @property
    def context_text(self) -> str | None:
        return self.context.text() if isinstance(self.context, Table) else self.context


def read_examples(images: Any, questions: Any, context: Any, graph: Any, regions: bool) -> list[Example]:
    """One example for each question: question i with picture i, or the only one of either with all of the other.

    Args:
        regions: pictures come as `RegionFeatures`.

    Raises:
        ValueError: no picture or question, another kind of either, or numbers that don't go together.
    """
    asked = [questions] if isinstance(questions, str) else questions
    if not isinstance(asked, Sequence) or not asked:
        raise ValueError(f"`questions` must be a question or a non-empty list of questions, got {questions!r}")
    for n, question in enumerate(asked):
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"`questions`[{n}] must be a non-empty string, got {question!r}")
    pictures = _pictures(images, regions)
    count = max(len(asked), len(pictures))
    for name, there in (("images", len(pictures)), ("questions", len(asked))):
        if there not in (1, count):
            raise ValueError(f"{len(pictures)} images and {len(asked)} questions don't pair up; `{name}` has {there}")
    contexts, graphs = _contexts(context, count), _graphs(graph, count)
    return [
        Example(
            pictures[n if len(pictures) > 1 else 0],
            asked[n if len(asked) > 1 else 0],
            context=contexts[n],
            graph=graphs[n],
        )
        for n in range(count)
    ]


def _pictures(images: Any, regions: bool) -> list[Any]:
    if regions:
        found = [images] if isinstance(images, RegionFeatures) else images
        good = isinstance(found, Sequence) and len(found) and all(isinstance(x, RegionFeatures) for x in found)
        if not good:
            raise ValueError(f"`images` must be RegionFeatures, which LXMERT reads, got {type(images).__name__}")
        return list(found)
    pictures: list[Image.Image] = []
    for n, image in enumerate(list_pictures(images)):
        try:
            pictures.append(to_pil(image))
        except ValueError as error:
            raise ValueError(f"`images`[{n}]: {error}") from None
    return pictures


def _contexts(context: Any, count: int) -> list[Context]:
    one = context is None or isinstance(context, str | Table)
    given = [context] * count if one else list(context) if isinstance(context, Sequence) else [context]
    if len(given) != count:
        raise ValueError(f"`context` has {len(given)} entries for {count} questions; give one, or one for each")
    for n, own in enumerate(given):
        if own is not None and not isinstance(own, str | Table):
            raise ValueError(f"`context`[{n}] is a {type(own).__name__}; a text, a Table or None")
        if isinstance(own, str) and not own.strip():
            raise ValueError(f"`context`[{n}] is empty; leave it out or give None")
    return given


def _graphs(graph: Any, count: int) -> list[Any]:
    """A list is one graph for each question, unless it is a list of facts."""
    listed = isinstance(graph, list | tuple) and not (graph and all(_is_fact(entry) for entry in graph))
    given = list(graph) if listed else [graph] * count
    if len(given) != count:
        raise ValueError(f"`graph` has {len(given)} entries for {count} questions; graphs and images must match")
    return given


def _is_fact(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and all(isinstance(word, str) for word in entry)


def read_candidates(candidates: Any, answers: Sequence[str], count: int) -> list[list[int]] | None:
    """Places of the candidates among the answers, for each question; None where all are.

    Raises:
        ValueError: an empty list, an answer that is not there, or one that is there twice.
    """
    if candidates is None:
        return None
    one = isinstance(candidates, Sequence) and all(isinstance(name, str) for name in candidates)
    if isinstance(candidates, str) or not isinstance(candidates, Sequence):
        raise ValueError(f"`candidates` must be a list of answers, got {candidates!r}")
    listed = [candidates] * count if one else list(candidates)
    if len(listed) != count:
        raise ValueError(f"`candidates` has {len(listed)} lists for {count} questions; give one for each, or one list")
    places = {name: n for n, name in enumerate(answers)}
    return [_placed(own, places) for own in listed]


def _placed(names: Any, places: dict[str, int]) -> list[int]:
    import difflib

    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise ValueError(f"`candidates` must be non-empty lists of answers, got {names!r}")
    if len(set(names)) != len(names):
        raise ValueError(f"`candidates` has {next(n for n in names if list(names).count(n) > 1)!r} more than once")
    for name in names:
        if name not in places:
            near = difflib.get_close_matches(str(name), places, n=1, cutoff=0.0)
            raise ValueError(f"`candidates` has {name!r}, which the model does not answer; the nearest is {near[0]!r}")
    return [places[name] for name in names]


def is_empty(graph: AttentionGraph) -> bool:
    """Whether a graph says nothing: it has no node."""
    return not graph.nodes
