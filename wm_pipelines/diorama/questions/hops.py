"""Questions over two relations of a picture: "what colour is the object left of the object behind the cube?"."""

import numpy as np

from wm_pipelines.diorama.questions import relations
from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.law import CONTEXTS, Ask, Family, Setting, pick, some
from wm_pipelines.diorama.questions.looks import build, company, exchanged, explain, fill, name_by, refer, unchanged
from wm_pipelines.diorama.questions.relations import MIRRORED, OPPOSITE, PLACES, follow, layout
from wm_pipelines.diorama.questions.wording import Wording
from wm_pipelines.diorama.scene import COLOURS, SHAPES

ASSIGNMENTS = 12  # of looks to one layout, before another layout is drawn


def ask_two_hops(rng: np.random.Generator, setting: Setting) -> Ask:
    attribute = pick(rng, ("colour", "shape"))
    by = "colour" if attribute == "shape" else "shape"
    words = name_by(rng, setting, by)
    first = pick(rng, PLACES)
    second = pick(rng, [p for p in PLACES if p not in (first, OPPOSITE[first])])
    every = list(COLOURS) if attribute == "colour" else list(SHAPES)
    plausible = [v for v in every if _fitting(setting, attribute, v, avoid=words[0])]
    options, plausible = fill(rng, plausible, [], setting.options)
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

    def wanted(x, depth):
        def clear(predicate, subject, other):
            how = relations.degree(predicate, x[:, other] - x[:, subject], depth[:, other] - depth[:, subject])
            return how > 1.1, how < 0.8 * relations.limit(predicate)

        good = np.ones(len(x), bool)
        for predicate, subject, other in ((first, 1, 0), (second, 2, 1)):
            for k in set(range(count)) - {other}:
                good &= clear(predicate, k, other)[0 if k == subject else 1]
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
    attribute, by, (word,) = ask.program["attribute"], ask.program["by"], ask.program["object"]
    target = {attribute: answer, by: pick(rng, _fitting(setting, attribute, answer, avoid=word))}
    anchor = {by: word, attribute: pick(rng, setting.colours(word) if by == "shape" else setting.shapes(word))}
    near = some(rng, ask.plausible, int(rng.integers(len(ask.plausible) + 1)))
    looks = company(rng, setting, [anchor, target], count - 2, by, prefer=near)
    return looks and [looks[0], looks[2], looks[1], *looks[3:]]


def _fitting(setting: Setting, attribute: str, value: str, avoid: str) -> list[str]:
    values = setting.shapes(value) if attribute == "colour" else setting.colours(value)
    return [v for v in values if v != avoid]


def hop(program: dict, clip: Clip, path: list[str]) -> str | None:
    at = clip.find(program["object"])
    for predicate in path:
        id = at and follow(clip, predicate, at.id)
        at = id and clip.scene.object(id)
    return at and getattr(at, program["attribute"])


def two_hops_truth(program: dict, clip: Clip, frames) -> str | None:
    return hop(program, clip, program["path"])


def two_hops_mirror(ask: Ask, clip: Clip, answer: str) -> dict:
    """In the mirror, left of is right of: another object may stand there, or none."""
    if not {"left of", "right of"} & {*ask.program["path"]}:
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
