"""What a feature of `diorama-clip` must say: a head that reads colours, shapes and places from it (our design).

Contrastive training hardly ever asks which of two objects is left of the other, nor what a shape is apart from its
colour: a text tower that drops the first and a picture tower that knows shapes by colour lose little. One linear head,
the same for both modalities and not exported, asks: from the feature of a picture, or of a caption, it reads which
colours and shapes there are and a place for each colour, of which two compared say left or right, behind or in front.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wm_pipelines.diorama.parser import ParsedCaption
from wm_pipelines.diorama.scene import COLOURS, HELD_OUT, SHAPES, Scene, clear_relations

COLOUR, SHAPE = list(COLOURS), list(SHAPES)
AXES = {"left of": (0, 1), "right of": (0, -1), "in front of": (1, 1), "behind": (1, -1)}
"""Axis of a relation, and the sign of the second object's place less the first's."""
LUMINANCE = (0.299, 0.587, 0.114)
NEAR = 0.35  # between colours whose largest channel is 1
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


def shown_in(scene: Scene, dyed: bool = False) -> Said:
    """What a picture of `scene` shows; where its objects are dyed, shapes alone."""
    at = {o.id: n for n, o in enumerate(scene.objects)}
    relations = [(predicate, at[a], at[b]) for predicate, a, b in sorted(clear_relations(scene))]
    return said_of([None if dyed else o.colour for o in scene.objects], [o.shape for o in scene.objects], relations)


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


def draw_dye(shape: str, rng: np.random.Generator) -> np.ndarray:
    """Any colour (3,) but those that come near one in which this shape is held out, as bright as it may be."""
    kept_out = np.array([COLOURS[colour] for colour, held in HELD_OUT if held == shape])
    kept_out /= kept_out.max(1, keepdims=True)
    while True:
        dye = rng.uniform(0.05, 1, 3)
        if np.linalg.norm(dye / dye.max() - kept_out, axis=1).min() > NEAR:
            return dye


def dye(picture: torch.Tensor, ids: torch.Tensor, scene: Scene, rng: np.random.Generator) -> torch.Tensor:
    """The picture (3, H, W) in [0, 1] with another colour for each object, which keeps its light and shade."""
    weights = picture.new_tensor(LUMINANCE)[:, None, None]
    light = (picture * weights).sum(0)
    for thing in scene.objects:
        new = picture.new_tensor(draw_dye(thing.shape, rng))[:, None, None]
        shade = light / float(np.dot(LUMINANCE, COLOURS[thing.colour]))
        picture = torch.where(ids == thing.id, (shade * new).clamp(0, 1), picture)
    return picture
