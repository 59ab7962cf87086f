"""Questions about one picture: colour, shape, size, where, how many, the same (our design)."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from wm_pipelines.diorama.questions import relations
from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.contexts import NUMBERS
from wm_pipelines.diorama.questions.law import CONTEXTS, Ask, Family, Setting, closed, pick, some
from wm_pipelines.diorama.questions.looks import build, company, explain, fill, name_by, refer, swapped, unchanged
from wm_pipelines.diorama.questions.relations import MIRRORED, OPPOSITE, PLACES, holds, layout
from wm_pipelines.diorama.questions.wording import Wording, the
from wm_pipelines.diorama.scene import COLOURS, SHAPES, SIZES

NOBODY = "no other object"


# --- colour, shape, size ---------------------------------------------------------------------------------------------


def ask_attribute(attribute: str, rng: np.random.Generator, setting: Setting) -> Ask:
    by = "colour" if attribute == "shape" else "shape"
    words = name_by(rng, setting, by)
    if attribute == "colour":
        plausible, every = setting.colours(words[0]), list(COLOURS)
    elif attribute == "shape":
        plausible, every = setting.shapes(words[0]), list(SHAPES)
    else:
        plausible, every = list(SIZES), list(SIZES)
        if setting.context is None:
            words = [*pick(rng, [pair for pair in setting.pairs if pair[1] == words[0]])]
    options, plausible = fill(rng, plausible, [e for e in every if e not in plausible], setting.options)
    wording = Wording()
    wording.say("what ").node(attribute)
    program = refer(rng, wording.say(" is "), words, setting)
    return Ask(
        wording.say("?").text,
        program | {"attribute": attribute, "by": by},
        tuple(options),
        tuple(plausible),
        wording.graph,
    )


def stage_attribute(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    attribute, by, words = ask.program["attribute"], ask.program["by"], ask.program["object"]
    look = {attribute: answer, by: words[-1]}
    if attribute == "size":
        look["colour"] = words[0] if len(words) == 2 else pick(rng, setting.colours(words[-1]))
    looks = company(rng, setting, [look], 1 + setting.knobs.bystanders, by, prefer=list(ask.plausible))
    return looks and build(rng, setting, some(rng, looks, len(looks)))


def attribute_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    obj = clip.find(program["object"])
    return obj and getattr(obj, program["attribute"])


# --- where -----------------------------------------------------------------------------------------------------------

PLACED = {place: f"{place} it" for place in PLACES}
PLACED_MIRRORED = {PLACED[a]: PLACED[b] for a, b in MIRRORED.items()}


def ask_where(rng: np.random.Generator, setting: Setting) -> Ask:
    c1, s1 = pick(rng, setting.pairs)
    c2, s2 = pick(rng, [p for p in setting.pairs if p[1] != s1 and not setting.clash((c1, s1), p)])
    mine, other = ([s1], [s2]) if setting.context else ([c1, s1], [c2, s2])
    wording = Wording()
    wording.say("compared with ").node(the(other))
    program = refer(rng, wording.say(", where is "), mine, setting)
    groups = [("left of it", "right of it"), ("in front of it",), ("behind it",)]
    options = closed(rng, groups, setting.options)
    return Ask(wording.say("?").text, program | {"other": other}, options, options, wording.graph)


def stage_where(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    place = next(p for p in PLACES if PLACED[p] == answer)
    first = []
    for words in (ask.program["object"], ask.program["other"]):
        colour = words[0] if len(words) == 2 else pick(rng, setting.colours(words[-1]))
        first.append({"colour": colour, "shape": words[-1]})
    # now and then without bystanders: with all four shapes there may be no scene that this composition allows
    others = setting.knobs.bystanders if rng.random() < 0.8 else 0
    looks = company(rng, setting, first, others, "shape")

    def wanted(x, depth):
        how = {p: relations.degree(p, x[:, 1] - x[:, 0], depth[:, 1] - depth[:, 0]) for p in PLACES}
        clear = [how[p] < 0.5 * relations.limit(p) for p in PLACES if p not in (place, OPPOSITE[place])]
        return np.all(clear, axis=0) & (how[place] > 1.1)

    spots = looks and layout(rng, len(looks), wanted, {})
    return spots and build(rng, setting, looks, spots)


def where_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    obj, other = clip.find(program["object"]), clip.find(program["other"])
    if obj is None or other is None:
        return None
    states = {place: holds(clip, place, obj.id, other.id) for place in PLACES}
    found = [place for place, state in states.items() if state]
    return PLACED[found[0]] if len(found) == 1 and None not in states.values() else None


# --- how many --------------------------------------------------------------------------------------------------------


def ask_count(rng: np.random.Generator, setting: Setting) -> Ask:
    kind = pick(rng, ("shape", "colour", "size"))
    word = pick(rng, tuple(SIZES)) if kind == "size" else name_by(rng, setting, kind)[0]
    # four large ones rarely find room
    at_most = {"small": 4, "large": 3}.get(word) or sum(word in pair for pair in setting.pairs)
    options = NUMBERS[: setting.options]
    said = f"{word}s" if kind == "shape" else f"{word} objects"
    program = {"of": word, "kind": kind}
    return Ask(f"how many {said} are there?", program, options, options[: at_most + 1])


def stage_count(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    word, kind, count = ask.program["of"], ask.program["kind"], NUMBERS.index(answer)
    total = min(4, max(count, 1 + int(rng.integers(2))) + setting.knobs.bystanders)
    if kind == "size":
        other = next(size for size in SIZES if size != word)
        sizes = [word] * count + [other] * (total - count)
        pairs = some(rng, setting.pairs, total)
        looks = [{"colour": c, "shape": s, "size": z} for (c, s), z in zip(pairs, sizes, strict=True)]
    else:
        pairs = some(rng, [p for p in setting.pairs if word in p], count)
        pairs += some(rng, [p for p in setting.pairs if word not in p], total - count)
        looks = [{"colour": c, "shape": s} for c, s in pairs]
    return build(rng, setting, some(rng, looks, total))


def count_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    return NUMBERS[len(clip.all([program["of"]]))]


# --- the same --------------------------------------------------------------------------------------------------------


def ask_same(rng: np.random.Generator, setting: Setting) -> Ask:
    kinds = [k for k in ("colour", "shape") if k == "shape" or setting.composition != "held_out"]
    attribute = pick(rng, kinds)
    by = "shape" if attribute == "colour" else "colour"
    words = name_by(rng, setting, by)
    shared = setting.colours if attribute == "colour" else setting.shapes
    others = [v for v in (SHAPES if by == "shape" else COLOURS) if v != words[0]]
    able = [v for v in others if set(shared(v)) & set(shared(words[0]))]
    options, plausible = fill(rng, able, [v for v in others if v not in able], setting.options - 1)
    wording = Wording()
    wording.say("which object has the same ").node(attribute)
    program = refer(rng, wording.say(" as "), words, setting)
    return Ask(
        wording.say("?").text,
        program | {"attribute": attribute, "by": by, "among": options},
        (*(the([v]) for v in options), NOBODY),
        (*(the([v]) for v in plausible), NOBODY),
        wording.graph,
    )


def stage_same(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    attribute, by, word = ask.program["attribute"], ask.program["by"], ask.program["object"][0]
    shared = setting.colours if attribute == "colour" else setting.shapes
    twin = next((v for v in ask.program["among"] if the([v]) == answer), None)
    value = pick(rng, [v for v in shared(word) if twin is None or v in shared(twin)])
    looks = [{by: word, attribute: value}] + ([] if twin is None else [{by: twin, attribute: value}])
    for _ in range(2 + setting.knobs.bystanders - len(looks)):
        free = [{"colour": c, "shape": s} for c, s in setting.pairs]
        free = [f for f in free if f[attribute] != value and f[by] not in {look[by] for look in looks}]
        wanted = [f for f in free if f[by] in ask.program["among"]] or free
        if not wanted:
            return None
        looks.append(pick(rng, wanted))
    return build(rng, setting, some(rng, looks, len(looks)))


def same_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    obj, attribute, by = clip.find(program["object"]), program["attribute"], program["by"]
    if obj is None:
        return None
    alike = [o for o in clip.scene.objects if o != obj and getattr(o, attribute) == getattr(obj, attribute)]
    if not alike:
        return NOBODY
    name = the([getattr(alike[0], by)])
    return name if len(alike) == 1 and clip.find([getattr(alike[0], by)]) else None


# --- the families ----------------------------------------------------------------------------------------------------

_ABOUT_ONE = {"medium": "picture", "contexts": CONTEXTS, "context": explain}
FAMILIES = (
    *(
        Family(
            name,
            ask=partial(ask_attribute, name),
            stage=stage_attribute,
            truth=attribute_truth,
            mirror=unchanged,
            **_ABOUT_ONE,
        )
        for name in ("colour", "shape", "size")
    ),
    Family(
        "where",
        ask=ask_where,
        stage=stage_where,
        truth=where_truth,
        mirror=partial(swapped, PLACED_MIRRORED),
        **_ABOUT_ONE,
    ),
    Family("count", "picture", ask=ask_count, stage=stage_count, truth=count_truth, mirror=unchanged),
    Family("same", ask=ask_same, stage=stage_same, truth=same_truth, mirror=unchanged, **_ABOUT_ONE),
)
