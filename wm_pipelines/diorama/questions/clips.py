"""Questions about a clip: where things go, which way they turn, how many do so, and what is not there (our design).

The kinds are those of VLM4D (arXiv 2508.02095): translation over the floor, in the picture and seen from the moving
object itself, rotation, counting, false positives.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from wm_pipelines.diorama.questions import measures
from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.contexts import NUMBERS
from wm_pipelines.diorama.questions.law import Ask, Family, Setting, closed, pick, some
from wm_pipelines.diorama.questions.looks import exchanged, swapped, unchanged
from wm_pipelines.diorama.questions.motions import (
    OPPOSITE,
    ROUND,
    SPINS,
    anything,
    clip_stage,
    decoys,
    moves,
    put_bystanders,
    spin,
    travel,
    turns,
)
from wm_pipelines.diorama.questions.stage import Stage, moving_camera
from wm_pipelines.diorama.questions.wording import the
from wm_pipelines.diorama.scene import SHAPES

# words of `measures` -> answers
WAYS = {
    "left": "left",
    "right": "right",
    "towards": "towards the camera",
    "away": "away from the camera",
    "jumps": "it jumps up and down in its place",
    "still": "it stays still",
}
SEEN = {"left": "left", "right": "right", "up": "up", "down": "down", "still": "it stays in its place"}
CORNERS = {"left": "to its left", "right": "to its right", "straight": "straight on", "back": "back"}
TURNS = {
    "clockwise": "clockwise",
    "counterclockwise": "counterclockwise",
    "none": "it does not turn",
    "back": "one way, then the other",
}


def _table(words: dict[str, str], *pairs: tuple[str, str]) -> dict[str, str]:
    """Answers that change places."""
    return {words[a]: words[b] for pair in pairs for a, b in (pair, pair[::-1])}


LEFT_RIGHT, FAR_NEAR = ("left", "right"), ("towards", "away")


def _word(words: dict[str, str], answer: str) -> str:
    return next(word for word, text in words.items() if text == answer)


def _ask_of_one(words: dict, groups: list, text: str, rng: np.random.Generator, setting: Setting) -> Ask:
    """A question about one object, named by colour and shape."""
    pair = pick(rng, setting.pairs)
    options = closed(rng, [tuple(words[w] for w in group) for group in groups], setting.options)
    return Ask(text.format(the(pair)), {"object": list(pair)}, options, options)


def _stage_one(stage: Stage, ask: Ask, motion, **looks: str) -> Clip | None:
    """The object with `motion()`, and bystanders, which have a pattern if it has."""
    pair, setting = tuple(ask.program["object"]), stage.setting
    if not stage.put(*pair, motion, **looks):
        return None
    looks = {name: value for name, value in looks.items() if name == "pattern"}
    put_bystanders(stage, decoys(stage.rng, setting, pair, setting.knobs.bystanders), **looks)
    return Clip(stage.scene, setting.frames) if stage.allowed() else None


def _truth_of_one(measure, words: dict[str, str], program: dict, clip: Clip, frames) -> str | None:
    obj = clip.find(program["object"])
    return obj and words.get(measure(clip, obj.id, frames))


# --- translation and rotation ----------------------------------------------------------------------------------------


def stage_translation(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    return _stage_one(clip_stage(rng, setting), ask, lambda: moves(rng, _word(WAYS, answer), setting.frames))


def stage_picture(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    """The camera moves or not, the object moves or not, until the picture shows the answer."""
    camera = moving_camera(rng, setting.frames) if rng.random() < 0.8 else None
    stage = Stage(rng, setting, setting.frames, camera)
    return _stage_one(stage, ask, lambda: moves(rng, pick(rng, ("still", *ROUND)), setting.frames))


def stage_corner(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    def motion():
        first = pick(rng, ROUND)
        at = ROUND.index(first)
        then = {"left": ROUND[(at + 1) % 4], "right": ROUND[at - 1], "straight": first, "back": OPPOSITE[first]}
        middle = (setting.frames - 1) // 2 + int(rng.integers(2))
        return tuple(
            travel(rng, way, start, end, (0.6, 1.0))
            for way, start, end in ((first, 0, middle), (then[_word(CORNERS, answer)], middle, setting.frames - 1))
        )

    return _stage_one(clip_stage(rng, setting), ask, motion)


def stage_rotation(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    def motion():
        turning = turns(rng, _word(TURNS, answer), setting.frames)
        drifts = rng.random() < 0.4
        return (*turning, *((travel(rng, pick(rng, ROUND), 0, setting.frames - 1, (0.5, 1.0)),) if drifts else ()))

    # small stripes are hard to see
    return _stage_one(clip_stage(rng, setting), ask, motion, size="large", pattern="striped")


# --- counting --------------------------------------------------------------------------------------------------------

DEEDS = {
    "move": "move to another place",
    "turn": "turn",
    "jump": "jump",
    "left": "move left",
    "right": "move right",
    "clockwise": "turn clockwise, seen from above",
    "counterclockwise": "turn counterclockwise, seen from above",
}
DEED_TWINS = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}


def ask_counting(rng: np.random.Generator, setting: Setting) -> Ask:
    deed = pick(rng, tuple(DEEDS))
    shapes = [s for s in SHAPES if len(setting.colours(s)) >= setting.options]
    of = pick(rng, shapes) if shapes and rng.random() < 0.3 else None
    text = f"how many {f'{of}s' if of else 'objects'} {DEEDS[deed]}?"
    options = NUMBERS[: setting.options]
    return Ask(text, {"deed": deed, "of": of}, options, options)


def _doing(rng, deed: str, frames: int) -> tuple:
    if deed in SPINS or deed == "turn":
        return (spin(rng, pick(rng, SPINS) if deed == "turn" else deed, 0, frames - 1),)
    if deed == "jump":
        return moves(rng, "jumps", frames)
    return (travel(rng, pick(rng, ROUND) if deed == "move" else deed, 0, frames - 1, (0.6, 1.1)),)


def stage_counting(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    deed, of, count, frames = ask.program["deed"], ask.program["of"], NUMBERS.index(answer), setting.frames
    total = min(4, max(2, count + int(rng.integers(2)) + setting.knobs.bystanders))
    pairs = some(rng, [p for p in setting.pairs if of is None or p[1] == of], count)
    pairs += some(rng, [p for p in setting.pairs if p not in pairs], total - count)
    stage = clip_stage(rng, setting)
    for n, pair in enumerate(pairs):
        again = n >= count and pair[1] != of and of is not None and rng.random() < 0.5  # another shape does it too
        does = partial(_doing, rng, deed, frames) if n < count or again else lambda: anything(rng, frames)
        if not (stage.put(*pair, does, pattern="striped") or (n >= count and stage.put(*pair, pattern="striped"))):
            return None
    clip = Clip(stage.scene, frames)
    twin = counting_truth(ask.program | {"deed": DEED_TWINS.get(deed, deed)}, clip, range(frames))
    return clip if stage.allowed() and twin in ask.options else None


def _does(deed: str, clip: Clip, id: int, frames) -> bool | None:
    if deed in SPINS or deed == "turn":
        word = measures.turn(clip, id, frames)
        return None if word is None else word == deed or (deed == "turn" and word != "none")
    word = measures.motion(clip, id, frames)
    wanted = {"move": ROUND, "jump": ("jumps",)}.get(deed, (deed,))
    return None if word is None else word in wanted


def counting_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    those = clip.all([program["of"]] if program["of"] else [])
    states = [_does(program["deed"], clip, o.id, frames) for o in those]
    return None if None in states else NUMBERS[sum(states)]


def counting_twin(ask: Ask, clip: Clip, answer: str) -> dict:
    """Left and right, clockwise and counter-clockwise change places in the mirror, and backwards."""
    deed = ask.program["deed"]
    if deed not in DEED_TWINS:
        return unchanged(ask, clip, answer)
    other = counting_truth(ask.program | {"deed": DEED_TWINS[deed]}, clip, range(clip.shown))
    return exchanged(ask, answer, other)


# --- what is not there -----------------------------------------------------------------------------------------------


def ask_absent(rng: np.random.Generator, setting: Setting) -> Ask:
    pair = pick(rng, setting.pairs)
    nothing = f"there is no {' '.join(pair)}"
    groups = [(nothing,), LEFT_RIGHT, tuple(WAYS[w] for w in FAR_NEAR), (WAYS["still"],)]
    options = closed(rng, groups, setting.options, always=1)
    program = {"object": list(pair), "nothing": nothing}
    return Ask(f"which way does {the(pair)} move over the floor?", program, options, options)


def stage_absent(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    if answer != ask.program["nothing"]:
        return stage_translation(rng, ask, answer, setting)
    stage = clip_stage(rng, setting)
    put_bystanders(stage, decoys(rng, setting, tuple(ask.program["object"]), 1 + setting.knobs.bystanders))
    return Clip(stage.scene, setting.frames) if stage.allowed() else None


def absent_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    if not clip.all(program["object"]):
        return program["nothing"]
    return _truth_of_one(measures.motion, WAYS, program, clip, frames)


# --- the families ----------------------------------------------------------------------------------------------------


def _family(name: str, text: str, measure, words: dict, groups: list, stage, mirror, reverse) -> Family:
    return Family(
        name,
        "clip",
        ask=partial(_ask_of_one, words, groups, text),
        stage=stage,
        truth=partial(_truth_of_one, measure, words),
        mirror=partial(swapped, _table(words, *mirror)),
        reverse=partial(swapped, _table(words, *reverse)),
    )


FAMILIES = (
    _family(
        "translation",
        "which way does {} move over the floor?",
        measures.motion,
        WAYS,
        [LEFT_RIGHT, FAR_NEAR, ("jumps",), ("still",)],
        stage_translation,
        [LEFT_RIGHT],
        [LEFT_RIGHT, FAR_NEAR],
    ),
    _family(
        "translation_picture",
        "which way does {} move in the picture?",
        measures.in_picture,
        SEEN,
        [LEFT_RIGHT, ("up", "down"), ("still",)],
        stage_picture,
        [LEFT_RIGHT],
        [LEFT_RIGHT, ("up", "down")],
    ),
    _family(
        "translation_object",
        "halfway, seen from {} itself, which way does it go?",
        measures.corner,
        CORNERS,
        [LEFT_RIGHT, ("straight",), ("back",)],
        stage_corner,
        [LEFT_RIGHT],
        [LEFT_RIGHT],
    ),
    _family(
        "rotation",
        "which way does {} turn, seen from above?",
        measures.turn,
        TURNS,
        [SPINS, ("none",), ("back",)],
        stage_rotation,
        [SPINS],
        [SPINS],
    ),
    Family("counting", "clip", ask_counting, stage_counting, counting_twin, counting_truth, counting_twin),
    Family(
        "absent",
        "clip",
        ask_absent,
        stage_absent,
        truth=absent_truth,
        mirror=partial(swapped, _table(WAYS, LEFT_RIGHT)),
        reverse=partial(swapped, _table(WAYS, LEFT_RIGHT, FAR_NEAR)),
    ),
)
