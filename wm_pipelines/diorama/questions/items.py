"""Questions with the clips that they are about, drawn by key (our design)."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wm_pipelines.diorama.questions import causes, clips, hops, lookups, orders, pictures, worlds
from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.law import (
    CONTEXTS,
    Ask,
    Family,
    Knobs,
    Setting,
    choose_answer,
    order_options,
    priors,
)
from wm_pipelines.diorama.questions.record import Question
from wm_pipelines.diorama.questions.table import well_seen
from wm_pipelines.runtime.random import keyed
from wm_pipelines.runtime.readers import concise, parse_json

_ROOMS = (pictures, hops, lookups, clips, orders, causes, worlds)
FAMILIES: dict[str, Family] = {family.name: family for room in _ROOMS for family in room.FAMILIES}
KNOWING = tuple(name for name, family in FAMILIES.items() if family.world)
PICTURES = tuple(name for name, family in FAMILIES.items() if family.medium == "picture")
TRIES = 500  # worlds drawn for one question before giving up
BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class Item:
    """A question and what it is about."""

    question: Question
    clip: Clip

    def truth_for(self, frames: Iterable[int]) -> str | None:
        """The answer that these frames decide, for someone who sees them alone and in order.

        Nothing but the state is looked at. A question whose context says the answer needs no frame. What is asked of
        "the clip" is meant of these frames: two of an object's three moves may make another option true.

        Returns:
            One of the options, or None: they do not decide it, or what they show is not among the options.
        """
        frames = sorted(set(frames))
        if frames and not (0 <= frames[0] and frames[-1] < self.clip.shown):
            raise ValueError(f"`frames` are {frames}; this clip shows 0 to {self.clip.shown - 1}")
        return truth(self.question, self.clip, frames)

    def mirrored(self) -> "Item | None":
        """The same question about the mirrored clip; None where that has no answer."""
        question = self.question.twin("mirror")
        return question and _decided(question, self.clip.mirrored())

    def backwards(self) -> "Item | None":
        """The same question about the clip run backwards; None where that has no answer."""
        question = self.question.twin("reverse")
        return question and _decided(question, self.clip.backwards())

    def to_json(self) -> str:
        """One JSON object; an item over events takes a second to draw and no time to read."""
        return json.dumps({"question": json.loads(self.question.to_json()), "clip": self.clip.to_dict()})

    @classmethod
    @concise()
    def from_json(cls, text: str) -> "Item":
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is not an item.
        """
        data = parse_json(text)
        if not isinstance(data, dict) or set(data) != {"question", "clip"}:
            raise ValueError("an item is a JSON object with a question and a clip")
        question = Question.from_json(json.dumps(data["question"]))
        if question.family not in FAMILIES:
            raise ValueError(f"`family` is {question.family!r}; allowed: {', '.join(FAMILIES)}")
        return cls(question, Clip.from_dict(data["clip"]))


def truth(question: Question, clip: Clip, frames: Sequence[int]) -> str | None:
    """The option that these frames of `clip` make true, by its state; None where they do not decide."""
    family = FAMILIES[question.family]
    if family.told:
        return question.right
    found = family.truth(question.program, clip, frames) if len(frames) else None
    return found if found in question.options else None


def sample_question(
    family: str,
    *key: str | int,
    knobs: Knobs | None = None,
    frames: int = 16,
    composition: str = "train",
    context: str | None = None,
    world: str = "normal",
) -> Item:
    """Draws the question that belongs to `key`, the same on every machine.

    Args:
        family: a name of `FAMILIES`.
        key: any strings and integers.
        knobs: what can be turned; default: none.
        frames: frames that a clip shows, 8 to 64; a picture is one.
        composition: "train", "held_out" or "all", as in `scene.sample_scene`.
        context: "facts", "table" or "graph": the object that is asked about is named by a row of it.
        world: "normal", or "counter": the same question, options and setup as in the normal world of this key, where
            another law holds (families of `KNOWING`). `Question.world` says which, and `Question.conflict` whether
            the answer is another.

    Raises:
        ValueError: an argument is out of range, or family, context and world do not go together.
        ImportError: a family over events, and MuJoCo is not installed.
    """
    known = check_family(family, context, world)
    if composition not in ("train", "held_out", "all"):
        raise ValueError(f"`composition` is {composition!r}; allowed: train, held_out, all")
    if isinstance(frames, bool) or not isinstance(frames, int) or not 8 <= frames <= 64:
        raise ValueError(f"`frames` is {frames!r}; allowed: 8 to 64")
    knobs = knobs or Knobs()
    setting = Setting(knobs, 1 if known.medium == "picture" else frames, composition, context)
    ask, answer, options, rng = draw(family, *key, setting=setting)
    for _ in range(TRIES):
        clip = known.stage(rng, ask, answer, setting)
        if clip is None or not (known.told or known.truth(ask.program, clip, range(setting.frames)) == answer):
            continue
        question = _question(rng, known, ask, answer, options, clip, setting)
        other = known.world and _counter(known, question, clip)
        if known.world and other is None and _has_counter(known, question):
            continue
        if world == "counter":
            if other is None:
                raise ValueError(f"`knobs` has {knobs.distractors} distractors; {family} has twins from 2 on")
            question, clip = other.question, other.clip
            question = replace(question, priors=priors(ask, options, knobs.rho, knobs.skew, known.world))
        return _decided(question, clip)
    raise ValueError(f"no world for {ask.text!r} with the answer {answer!r} and {knobs}")


def draw(family: str, *key: str | int, setting: Setting) -> tuple[Ask, str, tuple[str, ...], np.random.Generator]:
    """What is asked, the answer and the options as they are shown, before any world is drawn; and what draws it."""
    rng = keyed("question", family, setting.composition, setting.context or "", *key)
    ask = FAMILIES[family].ask(rng, setting)
    answer = choose_answer(rng, ask, setting.knobs.rho)
    return ask, answer, order_options(rng, ask, answer, setting.knobs.skew), rng


def _question(rng, family: Family, ask: Ask, answer: str, options: tuple[str, ...], clip: Clip, setting) -> Question:
    likely = priors(ask, options, setting.knobs.rho, setting.knobs.skew)
    return Question(
        family=family.name,
        text=ask.text,
        options=options,
        answer=options.index(answer),
        program=ask.program,
        priors=tuple(float(o == answer) for o in options) if family.told else likely,
        mirror=family.mirror(ask, clip, answer),
        reverse=family.reverse and family.reverse(ask, clip, answer),
        frames=(),
        context=family.context(rng, ask, clip, answer, setting) if setting.context else None,
        graph=ask.graph if setting.context else None,
    )


def _has_counter(family: Family, question: Question) -> bool:
    return set(family.world(question.program, question.options, question.right)[1]) <= set(question.options)


def _counter(family: Family, question: Question, clip: Clip) -> Item | None:
    """The twin in another world, if its frames show that world and decide the answer that is to be expected there."""
    law, chances = family.world(question.program, question.options, question.right)
    if not _has_counter(family, question):
        return None
    other = worlds.in_world(clip, law)
    answer = family.truth(question.program, other, range(other.shown)) if well_seen(other) else None
    if answer not in chances:
        return None
    at = question.options.index(answer)
    return Item(replace(question, answer=at, world=law, conflict=answer != question.right), other)


def _decided(question: Question, clip: Clip) -> Item:
    """The item, its frames as few, evenly spread ones as decide the question, with none of them left to spare."""
    if FAMILIES[question.family].told:
        return Item(question, clip)
    last = clip.shown - 1
    for k in (*(b for b in BUDGETS if b < clip.shown), clip.shown):
        frames = sorted({round(i * last / max(1, k - 1)) for i in range(k)})
        if truth(question, clip, frames) == question.right:
            break
    fewer: list[int] | None = frames
    while fewer:
        frames = fewer
        without = ([f for f in frames if f != t] for t in frames)
        fewer = next((some for some in without if truth(question, clip, some) == question.right), None)
    return Item(replace(question, frames=tuple(frames)), clip)


def check_family(family: str, context: str | None, world: str = "normal") -> Family:
    """The family, if it can be asked with this context and in this world.

    Raises:
        ValueError: it is unknown, or does not go with them.
    """
    if family not in FAMILIES:
        raise ValueError(f"`family` is {family!r}; allowed: {', '.join(FAMILIES)}")
    if context is not None and context not in CONTEXTS:
        raise ValueError(f"`context` is {context!r}; allowed: {', '.join(CONTEXTS)}")
    known = FAMILIES[family]
    if world not in ("normal", "counter"):
        raise ValueError(f"`world` is {world!r}; allowed: normal, counter")
    if world == "counter" and known.world is None:
        raise ValueError(f"`family` {family!r} takes no knowledge and has no counter-world; {', '.join(KNOWING)} have")
    if context is not None and context not in known.contexts:
        able = [name for name, f in FAMILIES.items() if context in f.contexts]
        raise ValueError(f"`family` {family!r} has no context {context!r}; with it go {', '.join(able)}")
    if context is None and known.told:
        raise ValueError(f"`family` {family!r} needs a `context`: {', '.join(known.contexts)}")
    return known
