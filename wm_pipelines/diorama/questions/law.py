"""The law by which questions are drawn: text first, then options, then the answer, and last a world where it holds.

Since text and options are drawn before the answer, and the world only to fit it (by rejection, until one does), the
probability of each option given the text is known exactly (our design).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_pipelines.diorama.questions.record import Context, TextGraph
from wm_pipelines.diorama.scene import COLOURS, HELD_OUT, HELD_OUT_RELATIONS, SHAPES

if TYPE_CHECKING:
    from wm_pipelines.diorama.questions.clip import Clip

CONTEXTS = ("facts", "table", "graph")
CLASHES = tuple({a, b} for _, a, b in HELD_OUT_RELATIONS)  # shapes that stand in relations held out of training


@dataclass(frozen=True)
class Knobs:
    """What can be turned.

    Args:
        rho: strength of the text prior, 0 to 1: with this probability the answer is the first plausible one in the
            family's own order ("left" before "right"), else any with equal chance.
        skew: position skew, 0 to 1: with this probability the right option is A, else anywhere.
        distractors: wrong options, 1 to 4; a family with fewer answers shows what it has.
        bystanders: objects, 0 to 2, that the question does not need.
        camera_motion: the camera of a clip moves.
        rows: rows of a context, 4 to 12; one or two of them matter.
    """

    rho: float = 0.0
    skew: float = 0.0
    distractors: int = 3
    bystanders: int = 1
    camera_motion: bool = False
    rows: int = 6

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rho", 0, 1),
            ("skew", 0, 1),
            ("distractors", 1, 4),
            ("bystanders", 0, 2),
            ("rows", 4, 12),
        ):
            value = getattr(self, name)
            kind = (int,) if isinstance(high, int) and high > 1 else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                raise ValueError(f"`{name}` is {value!r}; allowed: {low} to {high}")


@dataclass(frozen=True)
class Setting:
    """What a family needs to know: the knobs, the frames shown, the composition, and the context asked for."""

    knobs: Knobs = field(default_factory=Knobs)
    frames: int = 16
    composition: str = "train"
    context: str | None = None
    world: str = "normal"

    @property
    def options(self) -> int:
        return self.knobs.distractors + 1

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The (colour, shape) that occur in this composition."""
        return [
            (c, s)
            for c in COLOURS
            for s in SHAPES
            if self.composition == "all" or ((c, s) in HELD_OUT) == (self.composition == "held_out")
        ]

    def colours(self, shape: str) -> list[str]:
        return [c for c, s in self.pairs if s == shape]

    def shapes(self, colour: str) -> list[str]:
        return [s for c, s in self.pairs if c == colour]

    def clash(self, *pairs: tuple[str, str]) -> bool:
        """Whether this composition lacks relations of these objects, so that not every order of them occurs."""
        shapes = {shape for _, shape in pairs}
        return self.composition == "train" and any(clash <= shapes for clash in CLASHES)


@dataclass(frozen=True)
class Ask:
    """What is asked, before any world is drawn.

    Args:
        text, program: as in `Question`.
        options: in the family's own order.
        plausible: those of them that may be right, in the same order; the first is the one that `rho` favours.
        graph: entities and relations of `text`.
    """

    text: str
    program: dict
    options: tuple[str, ...]
    plausible: tuple[str, ...]
    graph: TextGraph | None = None


@dataclass(frozen=True)
class Family:
    """One kind of question.

    Args:
        name: as users name it.
        medium: "picture" (t = 0 alone), "clip" or "events" (needs the physics).
        ask: (rng, setting) -> Ask.
        stage: (rng, ask, answer, setting) -> a world in which `answer` should be right, or None; tried until it is.
        mirror: (ask, clip, answer) -> answers of the mirrored clip, for each option.
        truth: (program, clip, frames) -> the answer that these frames of the clip decide, or None; a family whose
            context says the answer has none.
        reverse: the same for the clip run backwards, or None for pictures.
        contexts: kinds of context that it can be asked with.
        context: (rng, ask, clip, answer, setting) -> the context, or None.
        world: (program, options, answer) -> the law of the counter-world in which the item of this answer has a twin,
            and how likely each answer is there; None for families that take no knowledge.
    """

    name: str
    medium: str
    ask: Callable[[np.random.Generator, Setting], Ask]
    stage: Callable[..., "Clip | None"]
    mirror: Callable[..., dict]
    truth: Callable[[dict, "Clip", Sequence[int]], str | None] | None = None
    reverse: Callable[..., dict] | None = None
    contexts: tuple[str, ...] = ()
    context: Callable[..., Context | None] | None = None
    world: Callable[[dict, Sequence[str], str], tuple[str, dict[str, float]]] | None = None

    @property
    def told(self) -> bool:
        """Whether the context says the answer."""
        return self.truth is None


def pick(rng: np.random.Generator, values: Sequence) -> Any:
    """One of `values`, each with equal chance."""
    return values[int(rng.integers(len(values)))]


def some(rng: np.random.Generator, values: Sequence, count: int) -> list:
    """`count` different ones of `values` (all, if there are fewer), in random order."""
    return [values[int(i)] for i in rng.permutation(len(values))[:count]]


def closed(rng: np.random.Generator, groups: Sequence[Sequence[str]], most: int, always: int = 0) -> tuple[str, ...]:
    """Whole groups of answers, as many as fit into `most`, in their own order: what belongs together stays together.

    Args:
        groups: an answer and its mirrored or reversed twin form a group; one without is alone.
        always: the first `always` groups are always taken.
    """
    fixed, free = list(groups[:always]), groups[always:]
    unions = [[*fixed, *some_] for k in range(len(free) + 1) for some_ in combinations(free, k)]
    sizes = [sum(map(len, union)) for union in unions]
    best = max(size for size in sizes if size <= most)
    chosen = pick(rng, [u for u, size in zip(unions, sizes, strict=True) if size == best])
    return tuple(answer for group in groups if group in chosen for answer in group)


def choose_answer(rng: np.random.Generator, ask: Ask, rho: float) -> str:
    return ask.plausible[0] if rng.random() < rho else pick(rng, ask.plausible)


def order_options(rng: np.random.Generator, ask: Ask, answer: str, skew: float) -> tuple[str, ...]:
    others = some(rng, [o for o in ask.options if o != answer], len(ask.options))
    at = 0 if rng.random() < skew else int(rng.integers(len(ask.options)))
    return (*others[:at], answer, *others[at:])


def priors(
    ask: Ask,
    options: Sequence[str],
    rho: float,
    skew: float,
    world: Callable[[dict, Sequence[str], str], tuple[str, dict[str, float]]] | None = None,
) -> tuple[float, ...]:
    """P(option is right | text, options in this order), for each.

    P(answer = o) = rho [o is favoured] + (1 - rho) / |plausible|; P(o at place i) = skew [i = 0] + (1 - skew) / n; the
    others fill the remaining places in any order with equal chance.

    Args:
        world: as in `Family`: the probabilities of its counter-worlds' answers instead.
    """
    n = len(options)
    weights = dict.fromkeys(options, 0.0)
    for place, option in enumerate(options):
        answer = rho * (option == ask.plausible[0]) + (1 - rho) * (option in ask.plausible) / len(ask.plausible)
        weight = answer * (skew * (place == 0) + (1 - skew) / n)
        for other, chance in (world(ask.program, options, option)[1] if world else {option: 1.0}).items():
            weights[other] += weight * chance
    total = sum(weights.values())
    return tuple(w / total for w in weights.values())
