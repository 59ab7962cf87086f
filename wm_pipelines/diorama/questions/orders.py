"""Questions about the order of what happens: which comes first, and in which order three things do (our design).

Two of the kinds of MMWorld (arXiv 2406.08407), temporal understanding and procedure, on clean motions.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.questions import measures
from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.law import Ask, Family, Setting, pick, some
from wm_pipelines.diorama.questions.looks import exchanged, unchanged
from wm_pipelines.diorama.questions.motions import ROUND, SPINS, clip_stage, decoys, hop, put_bystanders, spin, travel
from wm_pipelines.diorama.questions.wording import the

VERBS = ("moves", "turns", "jumps")


def _doing(rng: np.random.Generator, verb: str, start: float, end: float) -> Motion:
    if verb == "moves":
        return travel(rng, pick(rng, ROUND), start, end, (0.6, 0.9))
    return spin(rng, pick(rng, SPINS), start, end, 0.8) if verb == "turns" else hop(rng, start, end)


def _sorted(setting: Setting, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(pairs, key=setting.pairs.index)


# --- which comes first -----------------------------------------------------------------------------------------------


def ask_order(rng: np.random.Generator, setting: Setting) -> Ask:
    verb = pick(rng, ("moves", "turns"))
    among = _sorted(setting, some(rng, setting.pairs, setting.options))
    options = tuple(the(pair) for pair in among)
    program = {"verb": verb, "among": [list(pair) for pair in among]}
    return Ask(f"which object {verb} first?", program, options, options)


def stage_order(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    """The answer begins first, it or another ends last, a third may move in between; others rest or aren't there."""
    verb, last = ask.program["verb"], setting.frames - 1
    gap = max(2, setting.frames // 5)
    first = next(tuple(pair) for pair in ask.program["among"] if the(pair) == answer)
    rest = some(rng, [tuple(pair) for pair in ask.program["among"] if the(pair) != answer], 4)
    until_last = pick(rng, [first, *rest])
    windows = {first: (int(rng.integers(2)), last if until_last == first else last - gap)}
    if until_last != first:
        windows[until_last] = (gap + 1 + int(rng.integers(2)), last)
    if len(windows) < 2 or rng.random() < 0.5:
        between = [pair for pair in rest if pair not in windows][:1]
        windows |= {pair: (gap + 1, last - gap) for pair in between}
    stage = clip_stage(rng, setting)
    for pair, (start, end) in windows.items():
        if not stage.put(*pair, lambda start=start, end=end: (_doing(rng, verb, start, end),), pattern="striped"):
            return None
    idle = [pair for pair in rest if pair not in windows][: min(setting.knobs.bystanders, 4 - len(windows))]
    if not all(stage.put(*pair, pattern="striped") for pair in idle):
        return None
    clip = Clip(stage.scene, setting.frames)
    return clip if stage.allowed() and order_backwards(ask, clip, answer)[answer] else None


def order_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    onsets = {}
    for pair in program["among"]:
        obj = clip.find(pair)
        if obj is not None:
            onsets[the(pair)] = measures.onset(clip, obj.id, program["verb"], frames)
    if None in onsets.values():
        return None
    begun = [name for name, at in sorted(onsets.items(), key=lambda item: item[1]) if at]
    return begun[0] if begun and [*onsets.values()].count(onsets[begun[0]]) == 1 else None


def order_backwards(ask: Ask, clip: Clip, answer: str) -> dict:
    """Backwards, what ends last begins first."""
    ends = {}
    for pair in ask.program["among"]:
        obj = clip.find(pair)
        if obj is not None:
            ends[the(pair)] = measures.outset(clip, obj.id, ask.program["verb"], range(clip.shown)) or 0
    last = max(ends.values())
    found = [name for name, at in ends.items() if at == last]
    return exchanged(ask, answer, found[0] if len(found) == 1 else None)


# --- in which order --------------------------------------------------------------------------------------------------


def _said(order: tuple[int, ...], deeds: list) -> str:
    return ", then ".join(f"{the(deeds[i][:2])} {deeds[i][2]}" for i in order)


def ask_procedure(rng: np.random.Generator, setting: Setting) -> Ask:
    deeds = [[*pair, pick(rng, VERBS)] for pair in _sorted(setting, some(rng, setting.pairs, 3))]
    orders = list(permutations(range(3)))
    couples = [(order, order[::-1]) for order in orders if order < order[::-1]]
    chosen = some(rng, couples, setting.options // 2)
    plausible = sorted(order for couple in chosen for order in couple)
    extra = some(rng, [order for order in orders if order not in plausible], setting.options - len(plausible))
    options = tuple(_said(order, deeds) for order in sorted(plausible + extra))
    program = {"deeds": deeds}
    return Ask("in which order does this happen?", program, options, tuple(_said(order, deeds) for order in plausible))


def stage_procedure(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    deeds = ask.program["deeds"]
    order = next(order for order in permutations(range(3)) if _said(order, deeds) == answer)
    whole = (setting.frames - 1) / 3
    stage = clip_stage(rng, setting)
    for n, i in enumerate(order):
        colour, shape, verb = deeds[i]
        start, end = n * whole, (n + 1) * whole - 0.5
        if not stage.put(colour, shape, lambda v=verb, s=start, e=end: (_doing(rng, v, s, e),), pattern="striped"):
            return None
    taken = [tuple(deed[:2]) for deed in deeds]
    others = [p for p in decoys(rng, setting, taken[0], 4) if p not in taken][: min(1, setting.knobs.bystanders)]
    put_bystanders(stage, others, pattern="striped")
    return Clip(stage.scene, setting.frames) if stage.allowed() else None


def procedure_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    onsets = []
    for colour, shape, verb in program["deeds"]:
        obj = clip.find((colour, shape))
        onsets.append(obj and measures.onset(clip, obj.id, verb, frames))
    if not all(onsets) or len(set(onsets)) < 3:
        return None
    return _said(tuple(sorted(range(3), key=onsets.__getitem__)), program["deeds"])


def procedure_backwards(ask: Ask, clip: Clip, answer: str) -> dict:
    """Backwards, the last comes first."""
    backwards = {option: ", then ".join(option.split(", then ")[::-1]) for option in ask.options}
    return {option: other if other in ask.options else None for option, other in backwards.items()}


FAMILIES = (
    Family("order", "clip", ask_order, stage_order, unchanged, order_truth, order_backwards),
    Family("procedure", "clip", ask_procedure, stage_procedure, unchanged, procedure_truth, procedure_backwards),
)
