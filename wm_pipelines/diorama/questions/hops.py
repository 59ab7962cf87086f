"""Questions over two relations of a picture: "what colour is the object left of the object behind the cube?"."""

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import combinations, product

import numpy as np

from wm_pipelines.diorama.questions import relations
from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.law import CONTEXTS, Ask, Family, Setting, pick, some
from wm_pipelines.diorama.questions.looks import build, company, exchanged, explain, fill, name_by, refer, unchanged
from wm_pipelines.diorama.questions.relations import MIRRORED, OPPOSITE, PLACES, follow, layout
from wm_pipelines.diorama.questions.wording import Wording
from wm_pipelines.diorama.scene import COLOURS, HELD_OUT_RELATIONS, SHAPES

SIDES = ("left of", "right of")
ASSIGNMENTS = 12  # of looks to one layout, before another layout is drawn


def ask_two_hops(rng: np.random.Generator, setting: Setting) -> Ask:
    attribute = pick(rng, ("colour", "shape"))
    by = "colour" if attribute == "shape" else "shape"
    words = name_by(rng, setting, by)
    first = pick(rng, PLACES)
    second = pick(rng, [p for p in PLACES if p not in (first, OPPOSITE[first])])
    every = list(COLOURS) if attribute == "colour" else list(SHAPES)
    able = partial(_triples, setting.composition, attribute, words[0], (first, second))
    plausible = [v for v in every if able(v)]
    options, plausible = fill(rng, plausible, [], setting.options)
    known = setting.shapes(words[0]) if attribute == "shape" else setting.colours(words[0])
    if not {*known} & {*options}:  # in the mirror, the anchor may be the answer
        options = sorted([*some(rng, options, len(options) - 1), pick(rng, known)], key=every.index)
        plausible = [v for v in options if able(v)]
    wording = Wording()
    wording.say("what ").node(attribute)
    wording.say(" is ")
    outer = wording.node("the object")
    then = wording.say(" ").node(second)
    inner = wording.say(" ").node("the object")
    place = wording.say(" ").node(first)
    for a, b, label in ((outer, then, "subject"), (then, inner, "object"), (inner, place, "subject")):
        wording.join(a, b, label)
    program = refer(rng, wording.say(" "), words, setting)
    program |= {"attribute": attribute, "by": by, "path": [first, second]}
    return Ask(wording.say("?").text, program, tuple(options), tuple(plausible), wording.graph)


def stage_two_hops(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    first, second = ask.program["path"]
    # now and then without bystanders: with all four shapes there may be no scene that this composition allows
    count = 3 + (setting.knobs.bystanders if rng.random() < 0.8 else 0)

    steps = [(first, 1, 0), (second, 2, 1)]
    if count > 3 and second in SIDES and rng.random() < 0.5:  # a twin in the mirror
        steps.append((MIRRORED[second], 3, 1))

    def wanted(x, depth):
        good = np.ones(len(x), bool)
        for predicate, subject, other in steps:
            for k in set(range(count)) - {other}:
                across, deep = x[:, other] - x[:, k], depth[:, other] - depth[:, k]
                how = relations.degree(predicate, across, deep)
                good &= how > 1.1 if k == subject else how < 0.8 * relations.limit(predicate)
                if k == subject:  # and the one is found near the other
                    good &= np.abs(deep) < 1.6 if predicate in SIDES else np.abs(across) < 0.3
        return good

    spots = layout(rng, count, wanted, {first: (1, 0), second: (2, 1)})
    for _ in range(ASSIGNMENTS if spots else 0):
        looks = _looks(rng, ask, answer, setting, count)
        clip = looks and build(rng, setting, looks, spots)
        if clip and _in_mirror(ask.program, clip) in (None, *ask.options):
            return clip
    return None


def _looks(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting, count: int) -> list[dict] | None:
    """Of `count` objects: the anchor, what stands between, the target, and others."""
    attribute, by, (word,), path = (ask.program[key] for key in ("attribute", "by", "object", "path"))
    triples = _triples(setting.composition, attribute, word, tuple(path), answer)
    if attribute == "shape":  # in the mirror, the anchor may be the answer
        triples = [t for t in triples if t[0] in ask.options] or triples
    shapes = pick(rng, triples)
    colours: list[str] = []
    for n, shape in enumerate(shapes):
        given = word if by == "colour" and n == 0 else answer if attribute == "colour" and n == 2 else None
        free = [c for c in setting.colours(shape) if by == "shape" or c not in (word, *colours)]
        if given is None and not free:
            return None
        colours.append(given or pick(rng, [c for c in free if c in ask.options] or free))
    looks = [{"colour": c, "shape": s} for c, s in zip(colours, shapes, strict=True)]
    if len({(look["colour"], look["shape"]) for look in looks}) < 3:
        return None
    return company(rng, setting, looks, count - 3, by, prefer=[*ask.plausible])


@lru_cache(maxsize=4096)
def _triples(composition: str, attribute: str, word: str, path: tuple[str, str], value: str) -> list[tuple[str, ...]]:
    """Shapes of anchor, between and target that a composition allows to stand so, if `value` is the answer.

    On the axis of the first predicate what is between goes farthest, then the anchor, then the target; on that of the
    second the target, what is between, the anchor.
    """
    setting, found = Setting(composition=composition), []
    for shapes in product(SHAPES, repeat=3):
        if attribute == "shape":
            fits = shapes[0] in setting.shapes(word) and shapes[2] == value
        else:
            fits = shapes[0] == word and len(set(shapes)) == 3 and shapes[2] in setting.shapes(value)
        ordered = [
            (predicate, shapes[i], shapes[j])
            for predicate, order in zip(path, ((1, 0, 2), (2, 1, 0)), strict=True)
            for i, j in combinations(order, 2)
        ]
        ordered += [(OPPOSITE[predicate], j, i) for predicate, i, j in ordered]
        if fits and (composition != "train" or not HELD_OUT_RELATIONS & {*ordered}):
            found.append(shapes)
    return found


def hop(program: dict, clip: Clip, path: list[str]) -> str | None:
    at = clip.find(program["object"])
    for predicate in path:
        id = at and follow(clip, predicate, at.id)
        at = id and clip.scene.object(id)
    return at and getattr(at, program["attribute"])


def two_hops_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    return hop(program, clip, program["path"])


def two_hops_mirror(ask: Ask, clip: Clip, answer: str) -> dict:
    """In the mirror, left of is right of: another object may stand there, or none."""
    if not {*SIDES} & {*ask.program["path"]}:
        return unchanged(ask, clip, answer)
    return exchanged(ask, answer, _in_mirror(ask.program, clip))


def _in_mirror(program: dict, clip: Clip) -> str | None:
    return hop(program, clip, [MIRRORED[p] for p in program["path"]])


FAMILIES = (
    Family(
        "two_hops",
        "picture",
        ask=ask_two_hops,
        stage=stage_two_hops,
        truth=two_hops_truth,
        mirror=two_hops_mirror,
        contexts=CONTEXTS,
        context=explain,
    ),
)
