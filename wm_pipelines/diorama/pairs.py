"""States of the miniature world and the actions between them, each visible and the only one that fits (our design)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from wm_pipelines.diorama.action_words import parse, phrase
from wm_pipelines.diorama.actions import (
    ACTIONS,
    ANGLES,
    BESIDE,
    MOVES,
    PLACES,
    Action,
    apply,
    infer,
    look_the_same,
    placed,
)
from wm_pipelines.diorama.primitives import TURNS
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import (
    MATERIALS,
    PATTERNS,
    SIZES,
    Scene,
    SceneObject,
    colour_shape_pairs,
    is_held_out,
    sample_scene,
)
from wm_pipelines.runtime.random import keyed

STATES = (2, 3, 4, 5)
COUNTS = (1, 2, 3, 4)
SIDE = 64  # pixels of the square pictures in which changes are counted
CHANGE = 0.05  # of a channel in [0, 1]: by more a pixel counts as changed
MIN_CHANGED = 24  # pixels
MIN_SHINE = 8  # pixels by which a shiny addition differs from a matte one
MIN_VISIBLE = 0.6  # of each silhouette, in every state
APART = 0.3  # metres between places that words tell apart
CROWD = 0.2  # share of chains that begin with three or four objects
TRIES = 400  # scenes drawn before giving up
DRAWS = 12  # actions drawn for each scene
UNDONE = {"swap": 2, "resize": 1}  # of so many objects, a second action of that kind takes the first one back
LEVEL = ("left", "right", "towards", "away")


@dataclass(frozen=True)
class Chain:
    """`states`, and the `actions` between them: `apply(states[i], actions[i])` is `states[i + 1]`."""

    states: tuple[Scene, ...]
    actions: tuple[Action, ...]

    def phrases(self, seed: int = 0) -> tuple[str, ...]:
        """A sentence for each action, in the state before it; `seed` 0 gives the plainest."""
        steps = zip(self.actions, self.states, strict=False)
        return tuple(phrase(a, s, seed and 4 * seed + n) for n, (a, s) in enumerate(steps))


def changed_pixels(before: torch.Tensor, after: torch.Tensor) -> int:
    """Pixels of which a channel differs by more than `CHANGE` between two pictures (3, H, W)."""
    return int(((before - after).abs().amax(0) > CHANGE).sum())


def chain_kinds(
    states: int = 2,
    actions: Sequence[str] = ACTIONS,
    num_objects: int | Sequence[int] | None = None,
    composition: str = "train",
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Every order of kinds that a chain may have, and how many objects its first state may have for that.

    Args: as of `sample_chain`.

    Raises:
        ValueError: an argument is out of range, or there is no chain in which one of the `actions` could be.
    """
    counts = COUNTS if num_objects is None else (num_objects,) if isinstance(num_objects, int) else tuple(num_objects)
    if states not in STATES:
        raise ValueError(f"`states` is {states!r}; allowed: {', '.join(map(str, STATES))}")
    if isinstance(actions, str) or not actions or not set(actions) <= set(ACTIONS):
        raise ValueError(f"`actions` is {actions!r}; one or more of {', '.join(ACTIONS)}")
    if not counts or not set(counts) <= set(COUNTS):
        raise ValueError(f"`num_objects` is {num_objects!r}; pairs have {', '.join(map(str, COUNTS))}, or None")
    undone = UNDONE | ({"recolour": 1} if composition == "held_out" else {})  # a shape has two colours there
    orders = {k: tuple(n for n in counts if _fits(k, n, undone)) for k in product(actions, repeat=states - 1)}
    orders = {kinds: first for kinds, first in orders.items() if first}
    for kind in actions:
        if not any(kind in kinds for kinds in orders):
            raise ValueError(f"`actions` has {kind!r}; no chain of it begins with `num_objects` {num_objects!r}")
    return orders


def sample_chain(
    *key: str | int,
    states: int = 2,
    actions: Sequence[str] = ACTIONS,
    composition: str = "train",
    num_objects: int | Sequence[int] | None = None,
    min_changed: int = MIN_CHANGED,
    patterns: tuple[str, ...] = PATTERNS,
) -> Chain:
    """Draws the chain that belongs to `key`.

    It is the same on every machine on which the renderer's rounding puts no other number of pixels over a limit.

    Each action can be seen and is the only one: at least `min_changed` pixels change, every object stays at least 60 %
    visible, `infer` gives the action back, and its phrase, read back, leads to the same bits. What is added lies 0.3 m
    or more from where other words would put it, and is shiny only where that shows (8 pixels). No two states look the
    same, no id is used twice, moves are level. The kinds are drawn first, all with equal chance, and then scenes until
    one has room for them.

    Args:
        key: any strings and integers.
        states: 2 to 5.
        actions: kinds to choose from, out of `ACTIONS`.
        composition: of every state: "train" (what is held out never occurs), "held_out" (every object is of a
            held-out pair) or "all".
        num_objects: how many objects the first state may have, 1 to 4; None: one or two, and in a fifth of the chains
            three or four, where the kinds allow it. All states have 1 to 4.
        min_changed: pixels of a 64 x 64 picture in which a channel differs by more than 0.05.
        patterns: patterns to choose from.

    Raises:
        ValueError: an argument is out of range, or no scene has room for such a chain.
    """
    orders = chain_kinds(states, actions, num_objects, composition)
    rng = keyed("chain", *key)
    kinds = list(orders)[rng.integers(len(orders))]
    counts, crowd = orders[kinds], rng.random() < CROWD
    if num_objects is None:
        counts = tuple(n for n in counts if (n > 2) == crowd) or counts
    sampler = _Sampler(rng, composition, patterns, min_changed)
    options = {"composition": composition, "patterns": patterns, "min_pixels": 12.0 if max(counts) <= 2 else 6.0}
    for attempt in range(TRIES):
        chain = Chain((sample_scene("chain", *key, attempt, num_objects=counts, **options),), ())
        for kind in kinds:
            chain = sampler.extended(chain, kind)
            if chain is None:
                break
        else:
            return chain
    raise ValueError(
        f"no scene has room for {', '.join(kinds)} with `num_objects` {counts} and `min_changed` {min_changed}"
    )


def _fits(kinds: tuple[str, ...], count: int, undone: dict[str, int]) -> bool:
    """Whether a scene of `count` objects has room for these kinds of actions without coming back to a state."""
    for kind, last in zip(kinds, (None, *kinds), strict=False):
        if count < (2 if kind in ("remove", "swap") else 1) or count + (kind == "add") > COUNTS[-1]:
            return False
        if kind == last and undone.get(kind) == count:
            return False
        count += (kind == "add") - (kind == "remove")
    return True


@dataclass
class _Sampler:
    rng: np.random.Generator
    composition: str
    patterns: tuple[str, ...]
    min_changed: int

    def one_of(self, values):
        return values[int(self.rng.integers(len(values)))]

    def extended(self, chain: Chain, kind: str) -> Chain | None:
        """`chain` with one more action of that kind; None where the draws find none."""
        for _ in range(DRAWS):
            action = self.draw(chain.states[-1], kind)
            try:
                after = apply(chain.states[-1], action)
            except ValueError:
                continue
            if self.is_clear(chain, action, after):
                return Chain((*chain.states, after), (*chain.actions, action))
        return None

    def draw(self, scene: Scene, kind: str) -> Action:
        pairs = colour_shape_pairs(self.composition)
        o = self.one_of(scene.objects)
        if kind == "move":
            return Action("move", o.id, self.one_of(LEVEL), self.one_of(MOVES))
        if kind == "turn":
            return Action("turn", o.id, self.one_of(TURNS), self.one_of(ANGLES))
        if kind == "recolour":
            colours = [c for c, s in pairs if s == o.shape and c != o.colour]
            return Action("recolour", o.id, colour=self.one_of(colours))
        if kind == "resize":
            return Action("resize", o.id, size=next(s for s in SIZES if s != o.size))
        if kind == "remove":
            return Action("remove", o.id)
        if kind == "swap":
            return Action("swap", o.id, other=self.one_of([p.id for p in scene.objects if p.id != o.id]))
        colour, shape = self.one_of(pairs)
        new = SceneObject(
            id=max(p.id for p in scene.objects) + 1,
            shape=shape,
            colour=colour,
            size=self.one_of(tuple(SIZES)),
            pattern=self.one_of(self.patterns),
            material=self.one_of(MATERIALS),
        )
        return Action("add", new.id, new=placed(scene, new, *self.one_of(_places(scene))))

    def is_clear(self, chain: Chain, action: Action, after: Scene) -> bool:
        before = chain.states[-1]
        if self.composition == "train" and is_held_out(after) or infer(before, after) != action:
            return False
        if any(look_the_same(after, state) for state in chain.states):
            return False
        if action.kind == "add" and (
            any(o.id == action.object for state in chain.states for o in state.objects)
            or sum(_distance(before, action.new, *place) < APART for place in _places(before)) != 1
        ):
            return False
        try:
            said = parse(phrase(action, before), before)
        except ValueError:  # twins that no words tell apart
            return False
        return apply(before, said).to_json() == after.to_json() and self.is_visible(before, action, after)

    def is_visible(self, before: Scene, action: Action, after: Scene) -> bool:
        scenes = [before, after]
        shines = action.new is not None and action.new.material == "shiny"
        if shines:
            scenes.append(apply(before, replace(action, new=replace(action.new, material="matte"))))
        out = render(scenes, size=SIDE, maps=("rgb", "visible"))
        rgb, visible = out.rgb[:, 0], out.visible[1, 0, : len(after.objects)]
        if shines and changed_pixels(rgb[1], rgb[2]) < MIN_SHINE:
            return False
        return bool((visible >= MIN_VISIBLE).all()) and changed_pixels(rgb[0], rgb[1]) >= self.min_changed


def _places(scene: Scene) -> list[tuple[str, int | None]]:
    """Every place that words can say, as `placed` takes it."""
    return [(place, None) for place in PLACES] + [(relation, o.id) for o in scene.objects for relation in BESIDE]


def _distance(scene: Scene, new: SceneObject, where: str, other: int | None) -> float:
    return math.dist(new.position, placed(scene, new, where, other).position)
