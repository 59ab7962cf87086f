"""Contexts: rows that tell, in random order, what no picture shows; one or two of them matter (our design).

"facts" say what persons like, own or want; "graph" says where the objects were yesterday, among things that are not
in the picture; a "table" has a name, an object and a price in each row. Every object stands in as many rows as the
others (one more at most), and other rows share the anchor or the relation with the one that matters, so that neither
how often something is said nor half of a question tells the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wm_pipelines.diorama.questions.law import pick, some
from wm_pipelines.diorama.questions.record import Context
from wm_pipelines.diorama.questions.wording import Wording

NAMES = ("anna", "bob", "carl", "dora", "emil", "fay", "gus", "hana", "ivan", "jane", "kurt", "lena")
THINGS = ("table", "chair", "door", "box", "lamp", "bed", "shelf", "rug", "window", "desk", "sofa", "clock")
LIKINGS = ("likes", "owns", "wants")
PLACES = ("left of", "behind", "above")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
FILLERS = ("well", "also", "indeed", "now")


@dataclass(frozen=True)
class Clue:
    """What a question says instead of naming an object: the rows lead from `anchor` by `relation` to it.

    Args:
        kind: of the context.
        anchor: a person, or a thing of yesterday.
        relation: a liking, or a place; "object" in a table.
    """

    kind: str
    anchor: str
    relation: str

    def say(self, wording: Wording) -> None:
        """ "the object that anna likes", "the object that was behind the door yesterday", "the object of anna"."""
        if self.kind == "table":
            wording.say("the ")
            thing = wording.node("object")
            wording.join(thing, wording.say(" of ").node(self.anchor), "row")
            return
        thing = wording.node("the object")
        if self.kind == "facts":
            name = wording.say(" that ").node(self.anchor)
            verb = wording.say(" ").node(self.relation)
            wording.join(name, verb, "subject")
            wording.join(verb, thing, "object")
        else:
            place = wording.say(" that was ").node(self.relation)
            anchor = wording.say(" ").node(f"the {self.anchor}")
            wording.join(thing, place, "subject")
            wording.join(place, anchor, "object")
            wording.say(" yesterday")


def draw_clue(rng: np.random.Generator, kind: str) -> Clue:
    if kind == "table":
        return Clue(kind, pick(rng, NAMES), "object")
    if kind == "facts":
        return Clue(kind, pick(rng, NAMES), pick(rng, LIKINGS))
    return Clue(kind, pick(rng, THINGS), pick(rng, PLACES))


def tell(
    rng: np.random.Generator, clue: Clue, target: str, objects: Sequence[str], rows: int, partner: str | None = None
) -> Context:
    """The facts or places in which `clue` leads to `target`, one of the phrases `objects`.

    Args:
        rows: sentences in all, or as many as there are objects (and links), if that is more.
        partner: a friend of the anchor, or what stood near it: rows that link such pairs are among the others.
    """
    keys = _keys(rng, clue, max(rows - 2 * (partner is not None), len(objects)))
    links = [] if partner is None else _pairs(rng, clue, partner, sorted({a for a, _ in keys}))
    dealt = _deal(rng, objects, len(keys))
    # the clue takes the place of one of the keys that were dealt its target
    at = pick(rng, [i for i, o in enumerate(dealt) if o == target])
    keys[0], keys[at] = keys[at], keys[0]
    said = [(*key, other, i == at) for i, (key, other) in enumerate(zip(keys, dealt, strict=True))]
    said += [(a, "link", b, clue.anchor in (a, b)) for a, b in links]
    said = some(rng, said, len(said))
    wording, spans = Wording(), []
    for anchor, relation, other, _ in said:
        wording.say(" " if wording.text else "")
        start = len(wording.text)
        _say_row(rng, wording, clue.kind, anchor, relation, other)
        spans.append((start, len(wording.text)))
    needed = tuple(i for i, row in enumerate(said) if row[3])
    return Context(clue.kind, wording.text, tuple(spans), needed, wording.graph)


def _say_row(rng, wording: Wording, kind: str, anchor: str, relation: str, other: str) -> None:
    if rng.random() < 0.5:
        wording.say(pick(rng, FILLERS) + " ")
    if kind == "facts":
        if relation == "link":
            wording.fact(anchor, "is a friend of", other)
        else:
            wording.fact(anchor, relation, other)
    elif relation == "link":
        wording.fact(f"the {anchor}", "was near", f"the {other}")
    else:
        subject = wording.node(other)
        place = wording.say(" was ").node(relation)
        wording.join(subject, place, "subject")
        wording.join(place, wording.say(" ").node(f"the {anchor}"), "object")
    wording.say(".")


def _keys(rng, clue: Clue, count: int) -> list[tuple[str, str]]:
    """`count` different (anchor, relation): the clue's, one with its anchor, one with its relation, and others."""
    anchors, relations = (NAMES, LIKINGS) if clue.kind == "facts" else (THINGS, PLACES)
    anchors = [clue.anchor, *some(rng, [a for a in anchors if a != clue.anchor], count // 2)]
    same_anchor = (clue.anchor, pick(rng, [r for r in relations if r != clue.relation]))
    first = [(clue.anchor, clue.relation), same_anchor, (pick(rng, anchors[1:]), clue.relation)]
    rest = [(a, r) for a in anchors for r in relations if (a, r) not in first]
    return first + some(rng, rest, count - len(first))


def _deal(rng, objects: Sequence[str], count: int) -> list[str]:
    """`count` objects, each as often as the others or once more, in random order."""
    pool = [*objects] * (count // len(objects))
    return some(rng, pool + some(rng, objects, count - len(pool)), count)


def _pairs(rng, clue: Clue, partner: str, anchors: list[str]) -> list[tuple[str, str]]:
    """Two pairs of friends or neighbours, the clue's own and one with another anchor, said from either side."""
    free = [a for a in (NAMES if clue.kind == "facts" else THINGS) if a not in (clue.anchor, partner)]
    other = pick(rng, [a for a in free if a in anchors] or free)
    pairs = [(clue.anchor, partner), (other, pick(rng, [a for a in free if a != other]))]
    return [pair if rng.random() < 0.5 else pair[::-1] for pair in pairs]


def tabulate(
    rng: np.random.Generator, names: Sequence[str], objects: Sequence[str], prices: Sequence[str], needed: set[str]
) -> Context:
    """A table with one row for each name, in random order, its columns in random order too.

    Args:
        objects, prices: the cells beside each name.
        needed: the names whose rows matter.
    """
    order = some(rng, range(len(names)), len(names))
    columns = some(rng, [("name", names), ("object", objects), ("price", prices)], 3)
    wording, spans, cells = Wording(), [], {header: [] for header, _ in columns}
    for n, i in enumerate(order):
        wording.say(" " if n else "")
        start = len(wording.text)
        wording.say(f"row {NUMBERS[n + 1]}: ")
        for k, (header, values) in enumerate(columns):
            head = wording.say("; " if k else "").node(header)
            cell = wording.say(" is ").node(values[i])
            wording.join(head, cell, "header")
            for other in (c[n] for c in cells.values() if len(c) > n):
                wording.join(other, cell, "row")
            for above in cells[header]:
                wording.join(above, cell, "column")
            cells[header].append(cell)
        spans.append((start, len(wording.say(".").text)))
    matter = tuple(n for n, i in enumerate(order) if names[i] in needed)
    return Context("table", wording.text, tuple(spans), matter, wording.graph)


def told_by_table(rng: np.random.Generator, clue: Clue, target: str, objects: Sequence[str], rows: int) -> Context:
    """The table in which the row of the clue's anchor has the object `target`."""
    names = [clue.anchor, *some(rng, [n for n in NAMES if n != clue.anchor], max(rows, len(objects)) - 1)]
    dealt = _deal(rng, objects, len(names))
    at = pick(rng, [i for i, o in enumerate(dealt) if o == target])
    dealt[0], dealt[at] = dealt[at], dealt[0]
    return tabulate(rng, names, dealt, some(rng, NUMBERS[1:], len(names)), {clue.anchor})


def context_for(rng: np.random.Generator, clue: Clue, target: str, objects: Sequence[str], rows: int) -> Context:
    """The context in which `clue` leads to `target`, one of the phrases `objects`."""
    said = told_by_table if clue.kind == "table" else tell
    return said(rng, clue, target, objects, rows)
