"""Questions with the clips that they are about, drawn by key (our design)."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from wm_pipelines.diorama.questions import clips, hops, lookups, pictures
from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.law import CONTEXTS, Family, Knobs, Setting, choose_answer, order_options, priors
from wm_pipelines.diorama.questions.record import Question
from wm_pipelines.runtime.random import keyed

FAMILIES: dict[str, Family] = {
    family.name: family for room in (pictures, hops, lookups, clips) for family in room.FAMILIES
}
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
        question = self.question.twin("mirror", self.clip.shown)
        return question and Item(question, self.clip.mirrored())

    def backwards(self) -> "Item | None":
        """The same question about the clip run backwards; None where that has no answer."""
        question = self.question.twin("reverse", self.clip.shown)
        return question and Item(question, self.clip.backwards())

    def to_json(self) -> str:
        """Question, scene, contacts and frames shown, as one JSON object."""
        clip = {"scene": json.loads(self.clip.scene.to_json()), "shown": self.clip.shown, "contacts": self.clip.contacts}
        return json.dumps({"item": json.loads(self.question.to_json()), "clip": clip})


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
) -> Item:
    """Draws the question that belongs to `key`, the same on every machine.

    Args:
        family: a name of `FAMILIES`.
        key: any strings and integers.
        knobs: what can be turned; default: none.
        frames: frames that a clip shows, 8 or more; a picture is one.
        composition: "train", "held_out" or "all", as in `scene.sample_scene`.
        context: "facts", "table" or "graph": the object that is asked about is named by a row of it.

    Raises:
        ValueError: an argument is out of range, or the family and the context do not go together.
    """
    known = check_family(family, context)
    if composition not in ("train", "held_out", "all"):
        raise ValueError(f"`composition` is {composition!r}; allowed: train, held_out, all")
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 8:
        raise ValueError(f"`frames` is {frames!r}; a clip has 8 or more")
    setting = Setting(knobs or Knobs(), 1 if known.medium == "picture" else frames, composition, context)
    rng = keyed("question", family, composition, context or "", *key)
    ask = known.ask(rng, setting)
    answer = choose_answer(rng, ask, setting.knobs.rho)
    for _ in range(TRIES):
        clip = known.stage(rng, ask, answer, setting)
        seen = range(setting.frames)
        if clip is not None and (known.told or known.truth(ask.program, clip, seen) == answer):
            return _item(rng, known, ask, answer, clip, setting)
    raise ValueError(f"no world for {ask.text!r} with the answer {answer!r} and {setting.knobs}")


def _item(rng, family: Family, ask, answer: str, clip: Clip, setting: Setting) -> Item:
    options = order_options(rng, ask, answer, setting.knobs.skew)
    likely = priors(ask, options, setting.knobs.rho, setting.knobs.skew)
    question = Question(
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
    return Item(replace(question, frames=deciding_frames(question, clip)), clip)


def deciding_frames(question: Question, clip: Clip) -> tuple[int, ...]:
    """A small set of shown frames that decides the question: as few as do, evenly spread, and none left to spare."""
    if FAMILIES[question.family].told:
        return ()
    last = clip.shown - 1
    for k in (*(b for b in BUDGETS if b < clip.shown), clip.shown):
        frames = sorted({round(i * last / max(1, k - 1)) for i in range(k)})
        if truth(question, clip, frames) == question.right:
            break
    for t in list(frames):
        fewer = [f for f in frames if f != t]
        if truth(question, clip, fewer) == question.right:
            frames = fewer
    return tuple(frames)


def check_family(family: str, context: str | None) -> Family:
    """The family, if it can be asked with this context.

    Raises:
        ValueError: it is unknown, or does not go with the context.
    """
    if family not in FAMILIES:
        raise ValueError(f"`family` is {family!r}; allowed: {', '.join(FAMILIES)}")
    if context is not None and context not in CONTEXTS:
        raise ValueError(f"`context` is {context!r}; allowed: {', '.join(CONTEXTS)}")
    known = FAMILIES[family]
    if context is not None and context not in known.contexts:
        able = [name for name, f in FAMILIES.items() if context in f.contexts]
        raise ValueError(f"`family` {family!r} has no context {context!r}; with it go {', '.join(able)}")
    if context is None and known.told:
        raise ValueError(f"`family` {family!r} needs a `context`: {', '.join(known.contexts)}")
    return known
