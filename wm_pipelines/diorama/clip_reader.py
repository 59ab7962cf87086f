"""What a feature of `diorama-clip` must say: a head that reads colours, shapes and places from it (our design).

Contrastive training hardly ever asks which of two objects is left of the other, nor what a shape is apart from its
colour: a text tower that drops the first and a picture tower that knows shapes by colour lose little. One linear head,
the same for both modalities and not exported, asks: from the feature of a picture, or of a caption, it reads which
colours and shapes there are and a place for each colour, of which two compared say left or right, behind or in front.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from wm_pipelines.diorama.parser import ParsedCaption
from wm_pipelines.diorama.scene import COLOURS, SHAPES, Scene, clear_relations

COLOUR, SHAPE = list(COLOURS), list(SHAPES)
AXES = {"left of": (0, 1), "right of": (0, -1), "in front of": (1, 1), "behind": (1, -1)}
"""Axis of a relation, and the sign of the second object's place less the first's."""
GAIN = 8.0  # features have unit length


@dataclass(frozen=True)
class Said:
    """What a picture shows or a caption says.

    Args:
        colours, shapes: indices of those that are there; `colours` is None where nothing is known of them.
        places: (axis, first colour, second colour, sign) for pairs of objects whose colours nothing else has.
    """

    colours: frozenset[int] | None
    shapes: frozenset[int]
    places: tuple[tuple[int, int, int, int], ...] = ()


def said_of(colours: Sequence[str | None], shapes: Sequence[str], relations: Iterable[tuple[str, int, int]]) -> Said:
    """What is said of objects with these looks, and relations (predicate, subject, object) of their indices."""
    if None in colours:
        return Said(None, frozenset(map(SHAPE.index, shapes)))
    codes = [COLOUR.index(colour) for colour in colours]
    places = tuple(
        (*(AXES[predicate][:1]), codes[a], codes[b], AXES[predicate][1])
        for predicate, a, b in relations
        if predicate in AXES and codes.count(codes[a]) == codes.count(codes[b]) == 1
    )
    return Said(frozenset(codes), frozenset(map(SHAPE.index, shapes)), places)


def shown_in(scene: Scene, faded: bool = False) -> Said:
    """What a picture of `scene` shows; where its colours fade, shapes alone."""
    at = {o.id: n for n, o in enumerate(scene.objects)}
    relations = [(predicate, at[a], at[b]) for predicate, a, b in sorted(clear_relations(scene))]
    return said_of([None if faded else o.colour for o in scene.objects], [o.shape for o in scene.objects], relations)


def said_in(caption: ParsedCaption) -> Said:
    """What a caption says."""
    relations = [(predicate, a, b) for a, predicate, b in caption.relations]
    return said_of([o.get("colour") for o in caption.objects], [o["shape"] for o in caption.objects], relations)


class Reader(nn.Module):
    """The head: 8 colours, 4 shapes, and 2 coordinates of each colour from a unit feature."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 3 * len(COLOUR) + len(SHAPE))

    def forward(self, features: torch.Tensor, said: Sequence[Said]) -> dict[str, torch.Tensor]:
        """Losses of features (N, D), "there" and "places", and the share of places read rightly, "placed"."""
        out = self.linear(GAIN * functional.normalize(features, dim=-1))
        count = len(COLOUR)
        colours, shapes, places = out[:, :count], out[:, count : count + len(SHAPE)], out[:, count + len(SHAPE) :]
        known = [n for n, one in enumerate(said) if one.colours is not None]
        there = functional.binary_cross_entropy_with_logits(shapes, _marks([s.shapes for s in said], shapes))
        if known:
            marks = _marks([said[n].colours for n in known], colours)
            there = there + functional.binary_cross_entropy_with_logits(colours[known], marks)
        compared = [(n, *place) for n, one in enumerate(said) for place in one.places]
        if not compared:
            return {"there": there}
        row, axis, first, second, sign = torch.tensor(compared, device=out.device).T
        places = places.unflatten(1, (2, count))
        apart = sign * (places[row, axis, second] - places[row, axis, first])
        return {
            "there": there,
            "places": functional.softplus(-apart).mean(),
            "placed": (apart > 0).float().mean().detach(),
        }


def _marks(rows: Sequence[frozenset[int]], like: torch.Tensor) -> torch.Tensor:
    marks = torch.zeros(len(rows), like.shape[1], device=like.device)
    for n, row in enumerate(rows):
        marks[n, list(row)] = 1
    return marks


def without_colours(text: str) -> str:
    """The caption with no word of colour: "an orange cube and a red cone" is "a cube and a cone"."""
    bare = re.sub(rf"\b(?:{'|'.join(COLOUR)}) ", "", text)
    return re.sub(r"\ban (?=[^aeiou])", "a ", bare)


def fade(pictures: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, H, W) of which a share (N,) of the colour gives way to its luminance."""
    light = (pictures * pictures.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    return torch.lerp(pictures, light.expand_as(pictures), share[:, None, None, None])
