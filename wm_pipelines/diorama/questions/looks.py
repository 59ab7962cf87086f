"""What questions over pictures share: naming an object, options, and a picture of given looks (our design)."""

from functools import partial

import numpy as np

from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.contexts import Clue, context_for, draw_clue
from wm_pipelines.diorama.questions.law import Ask, Setting, pick, some
from wm_pipelines.diorama.questions.record import Context
from wm_pipelines.diorama.questions.stage import Stage
from wm_pipelines.diorama.questions.wording import Wording, the
from wm_pipelines.diorama.scene import COLOURS, SHAPES


def refer(rng: np.random.Generator, wording: Wording, words: list[str], setting: Setting) -> dict:
    """Says an object, by its words or by a clue of the context; returns what `program` must know."""
    if setting.context is None:
        wording.node(the(words))
        return {"object": words}
    clue = draw_clue(rng, setting.context)
    clue.say(wording)
    return {"object": words, "clue": [clue.kind, clue.anchor, clue.relation]}


def explain(rng: np.random.Generator, ask: Ask, clip: Clip, answer: str, setting: Setting) -> Context | None:
    """The context that leads from the clue to the object that the question means."""
    if "clue" not in ask.program:
        return None
    by, (target,) = ask.program.get("by", "shape"), ask.program["object"]
    objects = [the([getattr(o, by)]) for o in clip.scene.objects]
    return context_for(rng, Clue(*ask.program["clue"]), the([target]), objects, setting.knobs.rows)


def name_by(rng: np.random.Generator, setting: Setting, by: str) -> list[str]:
    """One word for an object: a shape or a colour of the composition."""
    values = {shape for _, shape in setting.pairs} if by == "shape" else {colour for colour, _ in setting.pairs}
    return [pick(rng, [v for v in (SHAPES if by == "shape" else COLOURS) if v in values])]


def fill(rng: np.random.Generator, plausible: list[str], others: list[str], most: int) -> tuple[list, list]:
    """Options, plausible ones first served, and those of them that are plausible, both in the given order."""
    chosen = some(rng, plausible, most)
    chosen += some(rng, others, most - len(chosen))
    order = [*plausible, *others]
    return sorted(chosen, key=order.index), [p for p in plausible if p in chosen]


def build(rng: np.random.Generator, setting: Setting, looks: list[dict], spots: list | None = None) -> Clip | None:
    """A picture of objects with these looks (keyword arguments of `Stage.put`), at these spots or anywhere."""
    stage = Stage(rng, setting, 1)
    for i, look in enumerate(looks):
        fixed = {} if spots is None else {"spot": partial(spots.__getitem__, i), "tries": 4}
        if not stage.put(**look, **fixed):
            return None
    return Clip(stage.scene, 1) if stage.allowed() else None


def company(
    rng: np.random.Generator, setting: Setting, first: list[dict], count: int, by: str, prefer: list[str] = ()
) -> list[dict] | None:
    """`first` and `count` more looks, all with different values of `by` and of colour and shape together.

    Args:
        prefer: values of the other attribute that the new ones take while there are some, each once.
    """
    other = "colour" if by == "shape" else "shape"
    looks = [*first]
    left = [v for v in some(rng, prefer, len(prefer)) if v not in {look[other] for look in first}]
    for _ in range(count):
        taken = {look[by] for look in looks}
        free = [{"colour": c, "shape": s} for c, s in setting.pairs]
        free = [f for f in free if f[by] not in taken]
        wanted = [f for f in free if f[other] in left] or free
        if not wanted:
            return None
        looks.append(pick(rng, wanted))
        left = [v for v in left if v != looks[-1][other]]
    return looks


def unchanged(ask: Ask, clip: Clip, answer: str) -> dict:
    """Every answer stays what it is."""
    return {option: option for option in ask.options}


def swapped(table: dict[str, str], ask: Ask, clip: Clip, answer: str) -> dict:
    """Answers change places by a table of words."""
    return {option: table.get(option, option) for option in ask.options}


def exchanged(ask: Ask, answer: str, other: str | None) -> dict:
    """What is known when the other world's answer is `other`: it and the answer change places."""
    known = {answer: other, other: answer} if other is not None else {}
    return {option: known.get(option) for option in ask.options}
