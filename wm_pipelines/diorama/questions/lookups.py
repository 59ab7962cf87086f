"""Questions that a context answers by itself, in one step or in two (our design)."""

from functools import partial

import numpy as np

from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.contexts import (
    NAMES,
    NUMBERS,
    THINGS,
    Clue,
    draw_clue,
    tabulate,
    tell,
    told_by_table,
)
from wm_pipelines.diorama.questions.law import CONTEXTS, Ask, Family, Setting, pick, some
from wm_pipelines.diorama.questions.looks import build, unchanged
from wm_pipelines.diorama.questions.record import Context
from wm_pipelines.diorama.questions.wording import Wording, the


def ask_lookup(hops: int, rng: np.random.Generator, setting: Setting) -> Ask:
    clue = draw_clue(rng, setting.context)
    return {"facts": _ask_facts, "graph": _ask_graph, "table": _ask_table}[clue.kind](rng, clue, hops, setting)


def _objects(rng: np.random.Generator, setting: Setting) -> tuple[str, ...]:
    """As many objects as there are options, up to four, of different shapes."""
    shapes = some(rng, sorted({shape for _, shape in setting.pairs}), setting.options)
    return tuple(the([pick(rng, setting.colours(shape)), shape]) for shape in shapes)


def _partner(rng: np.random.Generator, clue: Clue, hops: int) -> str | None:
    known = NAMES if clue.kind == "facts" else THINGS
    return pick(rng, [a for a in known if a != clue.anchor]) if hops == 2 else None


def _program(clue: Clue, options: tuple[str, ...], partner: str | None = None, column: str = "object") -> dict:
    said = [clue.kind, clue.anchor, clue.relation]
    objects = [option for option in options if option.startswith("the ")]
    return {"clue": said, "partner": partner, "column": column, "objects": objects}


def _ask_facts(rng, clue: Clue, hops: int, setting: Setting) -> Ask:
    options, partner = _objects(rng, setting), _partner(rng, clue, hops)
    wording = Wording()
    thing = wording.node("what")
    wording.say(" does ")
    if partner:
        wording.say("the ")
        friend = wording.node("friend")
        wording.join(friend, wording.say(" of ").node(partner), "object")
        name = friend
    else:
        name = wording.node(clue.anchor)
    verb = wording.say(" ").node(clue.relation.removesuffix("s"))
    wording.join(name, verb, "subject")
    wording.join(verb, thing, "object")
    return Ask(wording.say("?").text, _program(clue, options, partner), options, options, wording.graph)


def _ask_graph(rng, clue: Clue, hops: int, setting: Setting) -> Ask:
    options, partner = _objects(rng, setting), _partner(rng, clue, hops)
    wording = Wording()
    thing = wording.node("what")
    place = wording.say(" was ").node(clue.relation)
    wording.join(thing, place, "subject")
    if partner:
        middle = wording.say(" ").node("the thing")
        near = wording.say(" ").node("near")
        anchor = wording.say(" ").node(f"the {partner}")
        wording.join(place, middle, "object")
        wording.join(middle, near, "subject")
        wording.join(near, anchor, "object")
    else:
        wording.join(place, wording.say(" ").node(f"the {clue.anchor}"), "object")
    return Ask(wording.say(" yesterday?").text, _program(clue, options, partner), options, options, wording.graph)


def _ask_table(rng, clue: Clue, hops: int, setting: Setting) -> Ask:
    wording = Wording()
    if hops == 2:
        names = some(rng, [n for n in NAMES if n != clue.anchor], setting.options)
        options = tuple(n for n in NAMES if n in names)
        who = wording.node("who")
        price = wording.say(" has the same ").node("price")
        anchor = wording.say(" as ").node(clue.anchor)
        wording.join(who, price, "header")
        wording.join(price, anchor, "header")
        program = _program(clue, options, column="name")
    else:
        column = pick(rng, ("object", "price"))
        numbers = some(rng, NUMBERS[1:], setting.options)
        options = _objects(rng, setting) if column == "object" else tuple(n for n in NUMBERS if n in numbers)
        header = wording.say("what is the ").node(column)
        wording.join(header, wording.say(" of ").node(clue.anchor), "row")
        program = _program(clue, options, column=column)
    return Ask(wording.say("?").text, program, options, options, wording.graph)


def stage_lookup(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    """A picture of the objects that the answers name, or of any."""
    named = [phrase.split()[1:] for phrase in ask.program["objects"]]
    if not named:
        named = some(rng, setting.pairs, 2 + setting.knobs.bystanders)
    return build(rng, setting, [{"colour": c, "shape": s} for c, s in some(rng, named, len(named))])


def tell_lookup(rng: np.random.Generator, ask: Ask, clip: Clip, answer: str, setting: Setting) -> Context:
    clue, rows, options = Clue(*ask.program["clue"]), setting.knobs.rows, ask.options
    partner, column = ask.program["partner"], ask.program["column"]
    if clue.kind != "table":
        return tell(rng, clue, answer, options, rows, partner)
    if column == "object":
        return told_by_table(rng, clue, answer, options, rows)
    rows = max(rows, len(options) + (column == "name"))
    free = [n for n in NAMES if n != clue.anchor and n not in options]
    others = [n for n in options if n != answer] if column == "name" else []
    names = [clue.anchor, *([answer] if column == "name" else []), *others]
    names += some(rng, free, rows - len(names))
    objects = some(rng, [the([o.colour, o.shape]) for o in clip.scene.objects], len(clip.scene.objects))
    objects = [objects[i % len(objects)] for i in range(rows)]
    if column == "name":  # prices in pairs: the anchor's with the answer's, the others' among themselves
        order = [0, 1, *some(rng, range(2, rows), rows - 2)]
        kinds = some(rng, NUMBERS[1:], (rows + 1) // 2)
        prices = [kinds[order.index(i) // 2] for i in range(rows)]
        return tabulate(rng, names, objects, prices, {clue.anchor, answer})
    rest = [n for n in options if n != answer]
    rest += some(rng, [n for n in NUMBERS[1:] if n not in options], rows - len(options))
    return tabulate(rng, names, objects, [answer, *some(rng, rest, len(rest))], {clue.anchor})


FAMILIES = tuple(
    Family(
        name,
        "picture",
        ask=partial(ask_lookup, hops),
        stage=stage_lookup,
        mirror=unchanged,
        contexts=CONTEXTS,
        context=tell_lookup,
    )
    for name, hops in (("lookup", 1), ("lookup_two_hops", 2))
)
