"""Questions that take knowledge of the physics: what would be without an object, and what comes after the clip.

Two of the kinds of MMWorld (arXiv 2406.08407), counterfactual thinking and future prediction. Each has a twin in a
world of other laws, which its frames show: the same question, with the answer of that world (our design).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from wm_pipelines.diorama.questions import measures
from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.law import Ask, Family, Setting, closed, pick, some
from wm_pipelines.diorama.questions.looks import swapped, unchanged
from wm_pipelines.diorama.questions.setup import Hold, happen
from wm_pipelines.diorama.questions.stage import reach
from wm_pipelines.diorama.questions.table import Table, sideways
from wm_pipelines.diorama.questions.wording import the

SLIDING = ("cube", "cylinder", "cone")  # what friction stops
EVIDENCE = 2.5  # pixels by which a frame tells two worlds apart
CLOSE = 0.12  # metres: what stops nearer than that to another may have touched it

TOUCHES, SHORT, AWAY, RESTS = (
    "it would touch it",
    "it would stop before it",
    "it would go the other way",
    "it would stay still",
)


def in_world(clip: Clip, law: str) -> Clip:
    """The same setup under another law."""
    return Clip.of(replace(clip.setup, law=law), clip.shown)


def tells_apart(clip: Clip, other: Clip, frames: Sequence[int]) -> bool:
    """Whether one of these frames shows an object clearly elsewhere in the other clip."""
    at = list(frames)
    for id, track in clip.tracks.items():
        for t in at:
            here, there = measures.pixels(clip, np.stack([track.centre[t], other.tracks[id].centre[t]]), t)
            if np.linalg.norm(here - there) >= EVIDENCE:
                return True
    return False


def decided(
    clip: Clip, laws: tuple[str, ...], frames: Sequence[int], answer_in: Callable[[Clip], str | None]
) -> str | None:
    """`answer_in(clip)`, if these frames rule out every law under which it would be another."""
    answer = answer_in(clip)
    for law in laws:
        if law != clip.setup.law:
            other = in_world(clip, law)
            if answer_in(other) != answer and not tells_apart(clip, other, frames):
                return None
    return answer


# --- what would be without it ----------------------------------------------------------------------------------------

REACH_LAWS = ("normal", "no friction")


def ask_counterfactual(rng: np.random.Generator, setting: Setting) -> Ask:
    pair = pick(rng, [p for p in setting.pairs if p[1] in SLIDING])
    removed = pick(rng, [p for p in setting.pairs if p != pair and not setting.clash(pair, p)])
    goal = pick(rng, [p for p in setting.pairs if p not in (pair, removed) and not setting.clash(pair, removed, p)])
    options = closed(rng, [(TOUCHES, SHORT), (AWAY,), (RESTS,)], setting.options)
    program = {"object": list(pair), "removed": list(removed), "goal": list(goal)}
    text = f"without {the(removed)}, would {the(pair)} touch {the(goal)}?"
    return Ask(text, program, options, options)


def stage_counterfactual(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    """A row along one line: what is to be removed stands in the way, or is what pushes."""
    table, along = Table(rng, setting), sideways(rng, 0.25)
    # pushed away from the goal, it needs room behind it
    begin = rng.uniform(-0.9, -0.6) if answer == AWAY else rng.uniform(-1.7, -1.3)
    spot = np.array([begin * np.sign(along[0]), rng.uniform(-0.4, 1.4)])
    mine, removed, goal = (ask.program[key] for key in ("object", "removed", "goal"))
    first, second = {RESTS: (removed, mine), AWAY: (removed, mine)}.get(answer, (mine, removed))
    behind = None
    for pair, gap in ((first, 0.0), (second, rng.uniform(0.2, 0.4)), (goal, rng.uniform(0.35, 0.6))):
        if behind is not None:
            spot = spot + (reach(behind) + 0.55 + gap) * along[:2]
        behind = table.put_at(pair, spot, size="small")
        if behind is None:
            return None
    objects = {tuple(pair): table.scene.objects[n] for n, pair in enumerate((first, second, goal))}
    friction, speed = {
        TOUCHES: (rng.uniform(0.05, 0.1), rng.uniform(2.4, 2.8)),
        SHORT: (rng.uniform(0.3, 0.4), rng.uniform(1.9, 2.2)),
        AWAY: (rng.uniform(0.2, 0.4), rng.uniform(1.3, 1.6)),
        RESTS: (rng.uniform(0.2, 0.4), rng.uniform(2.0, 2.4)),
    }[answer]
    pusher = removed if answer == RESTS else mine
    way = -along if answer == AWAY else along
    table.push(objects[tuple(pusher)], way, speed, 1.0)
    return table.played(after=_later(setting), friction=friction, restitution=rng.uniform(0.3, 0.6))


def _later(setting: Setting) -> int:
    return max(2, round(0.6 * setting.frames))


def _without(program: dict, clip: Clip) -> str | None:
    """What the object does when another is taken away and everything happens again."""
    mine, removed, goal = (clip.find(program[key]) for key in ("object", "removed", "goal"))
    if mine is None or removed is None or goal is None or clip.setup is None:
        return None
    setup = clip.setup.without(removed.id)
    scene, contacts = happen(setup)
    again = Clip(scene, scene.duration, contacts, setup)
    touched = [t for t, a, b in contacts if {a, b} == {mine.id, goal.id}]
    if touched:
        return TOUCHES if touched[0] < scene.duration - 2 else None
    every = range(scene.duration)
    if measures.stays(again, mine.id, every):
        return RESTS
    track, other = again.tracks[mine.id].base, again.tracks[goal.id].base
    way, towards = track[-1] - track[0], other[0] - track[0]
    if way @ towards < 0:
        return AWAY
    ended = np.linalg.norm(track[-1] - track[-2]) < 0.005
    clear = np.linalg.norm(track[-1, :2] - other[-1, :2]) > reach(mine) + reach(goal) + CLOSE
    return SHORT if ended and clear else None


def counterfactual_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    """Frames decide it that show the object before anything meets it, moving or at rest, and which world it is."""
    mine = clip.find(program["object"])
    if mine is None or clip.setup is None:
        return None
    met = min((t for t, a, b in clip.contacts if mine.id in (a, b)), default=float(clip.shown))
    before = [t for t in frames if t <= met]
    if len(before) < 2 or before[0] > 1 or (met < clip.shown - 1 and frames[-1] <= met):
        return None
    return decided(clip, REACH_LAWS, frames, lambda c: _without(program, c))


def counterfactual_world(program: dict, options: Sequence[str], answer: str) -> tuple[str, dict[str, float]]:
    return "no friction", {TOUCHES if answer == SHORT else answer: 1.0}


# --- what comes after ------------------------------------------------------------------------------------------------

GLIDES = {
    "left": "farther left",
    "right": "farther right",
    "towards": "nearer to the camera",
    "away": "farther from the camera",
    "still": "in the same place",
}
HEIGHTS = {"up": "higher", "down": "lower", "still": "at the same height"}
GLIDE_LAWS = ("normal", "no friction", "no inertia")
HEIGHT_LAWS = ("normal", "inverted gravity")
RISEN = 2.5  # pixels that something is higher or lower by, to be called so


def ask_future(rng: np.random.Generator, setting: Setting) -> Ask:
    pair, witness = some(rng, [pair for pair in setting.pairs if pair[1] in SLIDING], 2)
    glides = bool(rng.random() < 0.5)
    if glides:
        groups = [(GLIDES["still"],), (GLIDES["left"], GLIDES["right"]), (GLIDES["towards"], GLIDES["away"])]
    else:
        groups = [(HEIGHTS["still"],), (HEIGHTS["up"], HEIGHTS["down"])]
    options = closed(rng, groups, setting.options, always=int(setting.options > 2))
    what = "where" if glides else "how high"
    text = (
        f"{the(pair)} is let go when the clip ends, {the(witness)} is let go earlier. "
        f"{what} will {the(pair)} be shortly after the clip?"
    )
    program = {"object": list(pair), "witness": list(witness), "glides": glides, "after": _later(setting)}
    return Ask(text, program, options, options)


def stage_future(rng: np.random.Generator, ask: Ask, answer: str, setting: Setting) -> Clip | None:
    """Two objects are held and carried; the one that is let go first shows what happens to what is let go."""
    table, frames = Table(rng, setting), setting.frames
    mine, witness = ask.program["object"], ask.program["witness"]
    side = pick(rng, (-1, 1))
    for pair, half, until, wanted in ((mine, side, frames - 1, answer), (witness, -side, round(0.4 * frames), None)):
        plan = _glide if ask.program["glides"] else _lift
        spot, velocity, start = plan(rng, ask, wanted, half, until, frames)
        obj = table.put_at(pair, spot, size="small")
        if obj is None:
            return None
        table.holds.append(Hold(obj.id, velocity, start, until))
    friction = rng.uniform(0.5, 0.65) if answer == GLIDES["still"] else rng.uniform(0.08, 0.15)
    for pair in some(rng, [p for p in setting.pairs if list(p) not in (mine, witness)], setting.knobs.bystanders):
        table.put_aside(pair)
    return table.played(after=_later(setting), friction=friction, restitution=0.1)


def _glide(rng, ask: Ask, wanted: str | None, half: int, until: int, frames: int):
    """Where it begins, and how it is carried: fast enough to glide on, or so slowly that it stops at once."""
    words = {"left": (-1, 0), "right": (1, 0), "towards": (0, -1), "away": (0, 1)}
    word = next((w for w in words if GLIDES[w] == wanted), None)
    way = np.array([*words[word or pick(rng, [w for w in words if GLIDES[w] in ask.options])], 0.0])
    slow, fast = ((0.65, 0.8), (1.4, 1.8)) if way[0] else ((1.15, 1.3), (1.8, 2.2))
    speed = rng.uniform(*((1.1, 1.5) if wanted is None else slow if wanted == GLIDES["still"] else fast))
    middle = (0.0, 0.4 + 0.9 * half) if way[0] else (0.9 * half, 0.3)
    spot = middle + rng.uniform(-0.3, 0.3, 2) - 0.6 * speed * until / frames * way[:2]
    return spot, tuple(float(v) for v in speed * way), 0


def _lift(rng, ask: Ask, wanted: str | None, half: int, until: int, frames: int):
    """Held in the air, carried slowly up, thrown up at the end, or held on the floor."""
    height, speed, start = rng.uniform(0.5, 0.9), rng.uniform(0.0, 0.3), 0
    if wanted is None:
        speed = 0.0
    elif wanted == HEIGHTS["still"]:
        height, speed = 0.0, 0.0
    elif wanted == HEIGHTS["up"]:
        height, speed, start = 0.0, rng.uniform(4.0, 4.4), until - max(1, round(0.15 * frames))
    return (half * rng.uniform(0.5, 1.3), rng.uniform(-0.6, 1.4), height), (0.0, 0.0, speed), start


def _afterwards(program: dict, clip: Clip) -> str | None:
    """Where the object is some frames after the last that is shown, compared with where it is then."""
    obj = clip.find(program["object"])
    now, then = clip.shown - 1, clip.shown - 1 + program["after"]
    if obj is None or then >= clip.scene.duration:
        return None
    path = clip.tracks[obj.id].centre[[now, then]]
    xy = measures.pixels(clip, path, now)
    if not program["glides"]:
        level = path[0] * (1, 1, 0) + path[1] * (0, 0, 1)
        up = xy[0, 1] - measures.pixels(clip, level[None], now)[0, 1]
        if abs(up) >= RISEN:
            return HEIGHTS["up" if up > 0 else "down"]
        return HEIGHTS["still"] if abs(up) < 3 * measures.NOTHING else None
    if np.linalg.norm(xy[1] - xy[0]) < 3 * measures.NOTHING:
        return GLIDES["still"]
    far = np.linalg.norm(xy[1] - xy[0]) >= measures.CLEAR
    return GLIDES.get(measures.heading(clip, path[1] - path[0], now)) if far else None


def future_truth(program: dict, clip: Clip, frames: Sequence[int]) -> str | None:
    """Frames decide it that show how the object moves at the end, and by the other one which world it is."""
    if clip.setup is None or len(frames) < 2 or frames[-1] < clip.shown - 2:
        return None
    laws = GLIDE_LAWS if program["glides"] else HEIGHT_LAWS
    return decided(clip, laws, frames, lambda c: _afterwards(program, c))


def future_world(program: dict, options: Sequence[str], answer: str) -> tuple[str, dict[str, float]]:
    if not program["glides"]:
        return "inverted gravity", {HEIGHTS["up"]: 1.0}
    if answer == GLIDES["still"]:
        ways = [o for o in options if o != answer]
        return "no friction", {way: 1 / len(ways) for way in ways}
    return "no inertia", {GLIDES["still"]: 1.0}


def _unknown(ask: Ask, clip: Clip, answer: str) -> dict:
    """What came of the clip run backwards is nobody's to say: no physics made it."""
    return dict.fromkeys(ask.options)


_SIDES = {GLIDES["left"]: GLIDES["right"], GLIDES["right"]: GLIDES["left"]}
FAMILIES = (
    Family(
        "counterfactual",
        "events",
        ask_counterfactual,
        stage_counterfactual,
        unchanged,
        counterfactual_truth,
        _unknown,
        world=counterfactual_world,
    ),
    Family(
        "future",
        "events",
        ask_future,
        stage_future,
        lambda ask, clip, answer: swapped(_SIDES, ask, clip, answer),
        future_truth,
        _unknown,
        world=future_world,
    ),
)
