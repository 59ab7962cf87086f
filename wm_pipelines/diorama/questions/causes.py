"""Questions about causes: what sets an object moving, what stops it, and how many are moved by one (our design).

Two of the kinds of MMWorld (arXiv 2406.08407), explanation and attribution; the truth is in the simulator's contacts.
"""

from collections.abc import Sequence

import numpy as np

from wm_pipelines.diorama.questions import measures
from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.contexts import NUMBERS
from wm_pipelines.diorama.questions.law import Ask, Family, Setting, pick, some
from wm_pipelines.diorama.questions.looks import exchanged, unchanged
from wm_pipelines.diorama.questions.stage import reach
from wm_pipelines.diorama.questions.table import Table, sideways
from wm_pipelines.diorama.questions.wording import the

ITSELF, NEVER = "it moves by itself", "it does not move"
STOPS, GOES_ON = "it stops by itself", "it does not stop"
SLACK = 0.15  # seconds from a touch until its effect is seen
REST = 0.05  # seconds that an object is seen at rest, at least, to be called so
SLIDING = ("cube", "cylinder", "cone")  # what friction stops


def _hit(pair) -> str:
    return f"{the(pair)} hits it"


def _stopped(pair) -> str:
    return f"{the(pair)} stops it"


def _partner(clip: Clip, id: int, since: float, until: float) -> int | None:
    """The only object that touched `id` in a time (frames), 0 where none did, None where several did."""
    found = {a + b - id for t, a, b in clip.contacts if id in (a, b) and since <= t <= until}
    return None if len(found) > 1 else next(iter(found), 0)


def _begun(clip: Clip, id: int, frames) -> int | str | None:
    """Who set `id` moving, as these frames show it: an id, `ITSELF`, `NEVER` or None."""
    at, fps = measures.onset(clip, id, "moves", frames), clip.scene.fps
    if not at:
        return NEVER if at == 0 else None
    if frames[at] - frames[0] <= SLACK * fps:  # it moves as soon as it is seen
        untouched = _partner(clip, id, frames[0], frames[at]) == 0
        return ITSELF if frames[0] == 0 and untouched else None
    if frames[at - 1] - frames[0] < REST * fps:
        return None
    who = _partner(clip, id, frames[at - 1] - SLACK * fps, frames[at])
    return who or (ITSELF if who == 0 else None)


def _ended(clip: Clip, id: int, frames) -> int | str | None:
    """Who stopped `id`: an id, `STOPS` (no one), `GOES_ON`, `NEVER` or None."""
    at, fps = measures.outset(clip, id, "moves", frames), clip.scene.fps
    if not at:
        return NEVER if at == 0 else None
    if frames[-1] - frames[at - 1] <= SLACK * fps:  # it moves as long as it is seen
        untouched = _partner(clip, id, frames[at - 1], frames[-1]) == 0
        return GOES_ON if frames[-1] == clip.shown - 1 and untouched else None
    if frames[-1] - frames[at] < REST * fps:
        return None
    who = _partner(clip, id, frames[at - 1], frames[at] + SLACK * fps)
    return who or (STOPS if who == 0 else None)


def _answer(program: dict, clip: Clip, found: int | str | None, say) -> str | None:
    """The option that says so."""
    if found is None or isinstance(found, str):
        return found
    name = [pair for pair in program["among"] if (o := clip.find(pair)) and o.id == found]
    return say(name[0]) if name else None


def _ask_who(rng: np.random.Generator, setting: Setting, text: str, say, others: tuple, shapes: tuple) -> Ask:
    """A question about one object, whose answers are other objects and `others`."""
    able = [pair for pair in setting.pairs if pair[1] in shapes]
    pair = pick(rng, able)
    among = some(rng, [p for p in setting.pairs if p != pair], min(2, setting.options - 2))
    among.sort(key=setting.pairs.index)
    options = (*(say(p) for p in among), *others)
    program = {"object": list(pair), "among": [list(p) for p in among]}
    return Ask(text.format(the(pair)), program, options, options)


# --- explanation -----------------------------------------------------------------------------------------------------


def ask_explanation(rng: np.random.Generator, setting: Setting) -> Ask:
    shapes = ("sphere", *SLIDING)
    return _ask_who(rng, setting, "what makes {} move?", _hit, (ITSELF, NEVER), shapes)


def stage_explanation(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    """One object hits it, or it is pushed, or it rests; the others rest, or go ways of their own."""
    table, along = Table(rng, setting), sideways(rng, 0.6)
    target = table.put_at(ask.program["object"], rng.uniform((-0.8, -0.9), (0.8, 1.5)), size="small")
    if target is None:
        return None
    others = [tuple(pair) for pair in ask.program["among"]]
    hitter = next((pair for pair in others if _hit(pair) == answer), None)
    if hitter:
        far = reach(target) + 0.6 + rng.uniform(0.3, 0.5)
        spot = np.array(target.position[:2]) - far * along[:2]
        obj = table.put_at(hitter, spot, size="small")
        if obj is None:
            return None
        table.push(obj, along, rng.uniform(2.0, 2.6), far + 0.3)
        table.keep_free(target, along, 0.9)
    elif answer == ITSELF:
        table.push(target, along, rng.uniform(1.7, 2.3), 1.2)
    for pair in others:
        # something else moves too, so that moving alone tells nothing
        if pair != hitter and table.put_aside(pair, 1.6 if rng.random() < 0.7 else 0.0) is None:
            return None
    return table.played(friction=rng.uniform(0.12, 0.2), restitution=rng.uniform(0.6, 0.9))


def explanation_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    obj = clip.find(program["object"])
    if obj is None or len(frames) < 2:
        return None
    return _answer(program, clip, _begun(clip, obj.id, frames), _hit)


def explanation_backwards(ask: Ask, clip: Clip, answer: str) -> dict:
    """Backwards, what stopped it sets it moving."""
    found = _ended(clip, clip.find(ask.program["object"]).id, range(clip.shown))
    found = ITSELF if found in (STOPS, GOES_ON) else found
    return exchanged(ask, answer, _answer(ask.program, clip, found, _hit))


# --- attribution -----------------------------------------------------------------------------------------------------


def ask_attribution(rng: np.random.Generator, setting: Setting) -> Ask:
    if rng.random() < 0.5:
        return _ask_who(rng, setting, "what stops {}?", _stopped, (STOPS, GOES_ON), SLIDING)
    pair = pick(rng, setting.pairs)
    options = NUMBERS[: min(3, setting.options)]
    text = f"how many objects move because of {the(pair)}?"
    return Ask(text, {"object": list(pair), "among": None}, options, options)


def stage_attribution(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    stage = _stage_count if ask.program["among"] is None else _stage_stop
    return stage(rng, ask, answer, setting)


def _stage_stop(rng, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    """It meets a large object and stays there, or friction stops it, or nothing does; the others stand elsewhere."""
    table, along = Table(rng, setting), sideways(rng)
    spot = np.array([-1.2 * np.sign(along[0]), rng.uniform(-0.6, 1.4)]) + rng.uniform(-0.2, 0.2, 2)
    target = table.put_at(ask.program["object"], spot, size="small")
    if target is None:
        return None
    others = [tuple(pair) for pair in ask.program["among"]]
    stopper = next((pair for pair in others if _stopped(pair) == answer), None)
    friction, speed = {STOPS: (rng.uniform(0.3, 0.4), 2.0), GOES_ON: (rng.uniform(0.02, 0.06), 1.8)}.get(
        answer, (rng.uniform(0.25, 0.35), 2.6)
    )
    if stopper:
        far = reach(target) + 0.75 + rng.uniform(0.3, 0.5)
        if table.put_at(stopper, spot + far * along[:2], size="large") is None:
            return None
    table.push(target, along, speed * rng.uniform(0.95, 1.05), 1.9)
    for pair in others:
        if pair != stopper and table.put_aside(pair) is None:
            return None
    return table.played(friction=friction, restitution=rng.uniform(0.15, 0.3))


def _stage_count(rng, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    """It goes its way alone, or meets one, which may meet another; one more moves by itself, or rests."""
    table, along, count = Table(rng, setting), sideways(rng, 0.25), NUMBERS.index(answer)
    pairs = some(rng, [p for p in setting.pairs if p != tuple(ask.program["object"])], 3)
    spot = np.array([-1.6 * np.sign(along[0]), rng.uniform(-0.4, 1.4)]) + rng.uniform(-0.2, 0.2, 2)
    first = table.put_at(ask.program["object"], spot, size="small")
    if first is None:
        return None
    speed, behind = rng.uniform(2.6, 3.0) if count else rng.uniform(1.6, 2.0), first
    for n, pair in enumerate(pairs[:count]):
        # two frames show the first one at rest before it is met
        gap = rng.uniform(0.1, 0.2) + (1.3 * speed / setting.frames if n == 0 else 0.0)
        spot = spot + (reach(behind) + 0.6 + gap) * along[:2]
        behind = table.put_at(pair, spot, size="small")
        if behind is None:
            return None
    table.push(first, along, speed, 1.0)
    table.keep_free(behind, along, 0.9)
    for n, pair in enumerate(pairs[count : 2 + (count == 2)]):
        if table.put_aside(pair, 1.6 if n == 0 else 0.0) is None:
            return None
    return table.played(friction=rng.uniform(0.15, 0.3), restitution=rng.uniform(0.7, 0.9))


def _moved_by(clip: Clip, id: int, frames) -> int | None:
    """How many objects begin to move because `id`, or one that it moved, meets them."""
    onsets = {o.id: measures.onset(clip, o.id, "moves", frames) for o in clip.scene.objects}
    if None in onsets.values() or not onsets[id]:
        return None
    moved = {id}
    for t, a, b in clip.contacts:
        for giver, taker in ((a, b), (b, a)):
            at = onsets[taker]
            if giver in moved and taker not in moved and at and t <= frames[at]:
                if frames[at - 1] - frames[0] < REST * clip.scene.fps:  # whether it rested before is not seen
                    return None
                if t >= frames[at - 1] - SLACK * clip.scene.fps:
                    moved.add(taker)
    return len(moved) - 1


def attribution_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    obj = clip.find(program["object"])
    if obj is None or len(frames) < 2:
        return None
    if program["among"] is None:
        count = _moved_by(clip, obj.id, frames)
        return None if count is None else NUMBERS[count]
    return _answer(program, clip, _ended(clip, obj.id, frames), _stopped)


def attribution_backwards(ask: Ask, clip: Clip, answer: str) -> dict:
    """Backwards, what set it moving stops it; how many it moves is not known."""
    if ask.program["among"] is None:
        return dict.fromkeys(ask.options)
    found = _begun(clip, clip.find(ask.program["object"]).id, range(clip.shown))
    found = GOES_ON if found == ITSELF else found
    return exchanged(ask, answer, _answer(ask.program, clip, found, _stopped))


FAMILIES = (
    Family(
        "explanation",
        "events",
        ask_explanation,
        stage_explanation,
        unchanged,
        explanation_truth,
        explanation_backwards,
    ),
    Family(
        "attribution",
        "events",
        ask_attribution,
        stage_attribution,
        unchanged,
        attribution_truth,
        attribution_backwards,
    ),
)
