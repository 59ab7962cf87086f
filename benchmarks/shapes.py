"""A flat 32x32 world of shapes, for the micro-experiments on matching pictures with sentences.

A scene has one or two things (of 6 shapes and 6 colours), each named in its caption, over small shapes that no caption
names (clutter) on a dark ground that may be tinted. Two things stand in one of four relations and never overlap; the
clutter lies behind them, so that their boxes are exact. All randomness is keyed: a scene is a function of its key.
"""

import dataclasses
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

SIDE = 32
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLOURS = {
    "red": (0.9, 0.15, 0.15),
    "green": (0.15, 0.8, 0.2),
    "blue": (0.2, 0.35, 0.95),
    "yellow": (0.95, 0.9, 0.2),
    "purple": (0.65, 0.25, 0.85),
    "white": (0.95, 0.95, 0.95),
}
RELATIONS = ("above", "below", "left of", "right of")
TINTS = (
    (0.3, 0.1, 0.1),
    (0.1, 0.28, 0.1),
    (0.1, 0.12, 0.32),
    (0.28, 0.26, 0.08),
    (0.24, 0.1, 0.28),
    (0.08, 0.26, 0.28),
)
KINDS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
TEMPLATE = "a photo of {}."
WORDS = tuple(
    sorted({"a", "photo", "of", *COLOURS, *SHAPES, *(word for relation in RELATIONS for word in relation.split())})
)
NOISE = 0.03  # standard deviation of the pixels' noise
PARTNERED = 0.9  # share of training pairs whose second thing is the first one's fixed partner
SINGLE = 0.3  # share of training scenes with one thing

Kind = tuple[str, str]  # colour, shape


@dataclasses.dataclass(frozen=True)
class Thing:
    """One shape: its kind, centre in pixels (x, y) and half its width."""

    kind: Kind
    x: int
    y: int
    radius: int

    @property
    def words(self) -> str:
        return " ".join(self.kind)


@dataclasses.dataclass(frozen=True)
class Scene:
    """`things`: the named ones, subject first. `tint`: index into TINTS. `key`: of the noise."""

    things: tuple[Thing, ...]
    relation: str | None
    clutter: tuple[Thing, ...]
    tint: int
    key: str

    @property
    def caption(self) -> str:
        """ "a red circle", or "a red circle above a blue square"."""
        return f" {self.relation} ".join(f"a {thing.words}" for thing in self.things)


def partner(kind: Kind) -> Kind:
    """The kind that stands beside `kind` in most training pairs; no kind is its own, and each is one kind's."""
    colours = list(COLOURS)
    colour = colours[(colours.index(kind[0]) + 1) % len(colours)]
    return colour, SHAPES[(SHAPES.index(kind[1]) + 2) % len(SHAPES)]


def place(
    rng: np.random.Generator,
    kinds: Sequence[Kind],
    relation: str | None = None,
    tint: int | None = None,
    clutter: int = 4,
) -> Scene:
    """A scene of one or two things of these kinds.

    Args:
        relation: of the first to the second; drawn for two things when None.
        tint: index into TINTS, drawn when None.
        clutter: number of small shapes behind, of other kinds than the named ones.
    """
    if len(kinds) not in (1, 2) or (relation is not None and (len(kinds) == 1 or relation not in RELATIONS)):
        raise ValueError(f"kinds={list(kinds)}, relation={relation!r}; one kind, or two with one of {RELATIONS}")
    if len(kinds) == 2 and relation is None:
        relation = RELATIONS[rng.integers(len(RELATIONS))]
    radii = [int(r) for r in rng.integers(4, 7, len(kinds))]
    if relation is None:
        centres = [tuple(int(v) for v in rng.integers(radii[0] + 1, SIDE - radii[0] - 1, 2))]
    else:
        centres = _apart(rng, radii, relation)
    things = tuple(Thing(kind, x, y, r) for kind, (x, y), r in zip(kinds, centres, radii, strict=True))
    others = [kind for kind in KINDS if kind not in kinds]
    spots = rng.integers(2, SIDE - 2, (clutter, 2))
    picked = rng.integers(len(others), size=clutter)
    behind = tuple(
        Thing(others[n], int(x), int(y), int(r))
        for n, (x, y), r in zip(picked, spots, rng.integers(2, 4, clutter), strict=True)
    )
    tint = int(rng.integers(len(TINTS))) if tint is None else tint
    return Scene(things, relation, behind, tint, str(rng.integers(1 << 62)))


def training_scene(rng: np.random.Generator) -> Scene:
    """One thing in three tenths of the scenes; else two, of which nine tenths are a kind and its partner."""
    first = KINDS[rng.integers(len(KINDS))]
    if rng.random() < SINGLE:
        return place(rng, [first])
    second = partner(first) if rng.random() < PARTNERED else _other(rng, [first])
    kinds = [first, second] if rng.random() < 0.5 else [second, first]
    return place(rng, kinds)


def counter_scene(rng: np.random.Generator) -> Scene:
    """Two things of different colours and shapes, neither the other's partner: pairs that training hardly showed."""
    while True:
        a, b = (KINDS[n] for n in rng.integers(len(KINDS), size=2))
        if a[0] != b[0] and a[1] != b[1] and b != partner(a) and a != partner(b):
            return place(rng, [a, b])


def foils(scene: Scene, rng: np.random.Generator) -> dict[str, Scene]:
    """New scenes that the caption of a scene of two is false of, by what is wrong: subject, object, verb or swap.

    The subject or the object is another kind, the relation another one (verb), or the two colours are exchanged.
    """
    (a, b), relation = [thing.kind for thing in scene.things], scene.relation
    wrong = [r for r in RELATIONS if r != relation]
    return {
        "subject": place(rng, [_other(rng, [a, b]), b], relation),
        "object": place(rng, [a, _other(rng, [a, b])], relation),
        "verb": place(rng, [a, b], wrong[rng.integers(len(wrong))]),
        "swap": place(rng, [(b[0], a[1]), (a[0], b[1])], relation),
    }


def render(scenes: Sequence[Scene]) -> torch.Tensor:
    """Pictures, float32 `(N, 3, 32, 32)` in [0, 1]."""
    from wm_pipelines.runtime.random import keyed

    pictures = np.empty((len(scenes), SIDE, SIDE, 3), np.float32)
    for picture, scene in zip(pictures, scenes, strict=True):
        picture[:] = TINTS[scene.tint]
        for thing in (*scene.clutter, *scene.things):
            picture[mask(thing)] = COLOURS[thing.kind[0]]
        picture += keyed("shapes noise", scene.key).standard_normal(picture.shape, np.float32) * NOISE
    return torch.from_numpy(pictures).clamp_(0, 1).permute(0, 3, 1, 2).contiguous()


def boxes(scene: Scene) -> dict[str, tuple[int, int, int, int]]:
    """Words of each named thing to its exact box (x0, y0, x1, y1) in pixels, x1 and y1 past the last pixel."""
    found = {}
    for thing in scene.things:
        rows, columns = np.nonzero(mask(thing))
        found[thing.words] = tuple(int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return found


@cache
def _stamp(shape: str, radius: int) -> np.ndarray:
    """The shape in its own square of side 2 radius + 1, bool; it touches all four sides."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    distance = np.hypot(x, y)
    return {
        "circle": distance <= radius + 0.3,
        "square": np.ones_like(x, bool),
        "triangle": 2 * abs(x) <= y + radius,
        "diamond": abs(x) + abs(y) <= radius,
        "cross": (abs(x) <= radius // 3) | (abs(y) <= radius // 3),
        "ring": (distance <= radius + 0.3) & (distance >= radius * 0.55),
    }[shape]


def mask(thing: Thing) -> np.ndarray:
    """Where the shape is, bool (32, 32); what reaches over the edge is cut off."""
    whole = np.zeros((SIDE + 16, SIDE + 16), bool)
    top, left = thing.y - thing.radius + 8, thing.x - thing.radius + 8
    size = 2 * thing.radius + 1
    whole[top : top + size, left : left + size] = _stamp(thing.kind[1], thing.radius)
    return whole[8:-8, 8:-8]


def _apart(rng: np.random.Generator, radii: list[int], relation: str) -> list[tuple[int, int]]:
    """Centres of two squares of these radii inside the picture, apart along the relation's axis."""
    gap, slack = sum(radii) + 2, 3
    while True:
        (ax, ay), (bx, by) = (rng.integers(r + 1, SIDE - r - 1, 2) for r in radii)
        along, across = (by - ay, bx - ax) if relation in ("above", "below") else (bx - ax, by - ay)
        if relation in ("below", "right of"):
            along = -along
        if along >= gap and abs(across) <= along - slack:
            return [(int(ax), int(ay)), (int(bx), int(by))]


def _other(rng: np.random.Generator, kinds: Sequence[Kind]) -> Kind:
    """A kind that is none of these."""
    left = [kind for kind in KINDS if kind not in kinds]
    return left[rng.integers(len(left))]
