"""Clean motions for questions: one direction, one corner, one turn, with clear margins (our design)."""

import numpy as np

from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.questions.law import Setting, pick, some
from wm_pipelines.diorama.questions.stage import Stage, moving_camera

FPS = 8.0
ROUND = ("right", "away", "left", "towards")  # counter-clockwise, seen from above
OPPOSITE = dict(zip(ROUND, (*ROUND[2:], *ROUND[:2]), strict=True))
SPINS = ("clockwise", "counterclockwise")
STEP = 0.36  # radians a frame at most


def travel(
    rng: np.random.Generator, direction: str, start: float, end: float, metres: tuple[float, float] = (0.8, 1.4)
) -> Motion:
    """A straight way over the floor between two frames."""
    low, high = metres
    # a metre towards the camera or away from it is less in the picture than one across
    far = round(float(rng.uniform(low, high)) * (1.0 if direction in ("left", "right") else 1.5), 2)
    return Motion("translate", start, end, direction, far * FPS / (end - start))


def spin(rng: np.random.Generator, direction: str, start: float, end: float, least: float = 1.2) -> Motion:
    """A turn in place between two frames."""
    most = max(least, min(3.2, STEP * (end - start)))
    return Motion("turn", start, end, direction, round(float(rng.uniform(least, most)), 2) * FPS / (end - start))


def hop(rng: np.random.Generator, start: float, end: float, count: int = 1) -> Motion:
    return Motion("bounce", start, end, height=round(float(rng.uniform(0.35, 0.7)), 2), count=count)


def there_and_back(rng: np.random.Generator, frames: int) -> tuple[Motion, ...]:
    """A turn one way, then the other."""
    half = (frames - 1) / 2
    first = pick(rng, SPINS)
    second = next(s for s in SPINS if s != first)
    return (spin(rng, first, 0, half, 0.9), spin(rng, second, half, frames - 1, 0.9))


def moves(rng: np.random.Generator, word: str, frames: int) -> tuple[Motion, ...]:
    """The motion that `measures.motion` calls `word`."""
    if word == "still":
        return ()
    start, end = int(rng.integers(2)), frames - 1 - int(rng.integers(2))
    if word == "jumps":
        return (hop(rng, 0, frames - 1, int(rng.integers(1, 3))),)
    return (travel(rng, word, start, end),)


def turns(rng: np.random.Generator, word: str, frames: int) -> tuple[Motion, ...]:
    """The motion that `measures.turn` calls `word`."""
    if word == "none":
        return ()
    return there_and_back(rng, frames) if word == "back" else (spin(rng, word, 0, frames - 1),)


def anything(rng: np.random.Generator, frames: int) -> tuple[Motion, ...]:
    """What a bystander does."""
    what = pick(rng, ("still", *ROUND, *SPINS))
    if what in SPINS:
        return turns(rng, what, frames)
    return (travel(rng, what, 0, frames - 1, (0.6, 1.1)),) if what in ROUND else ()


def clip_stage(rng: np.random.Generator, setting: Setting) -> Stage:
    camera = moving_camera(rng, setting.frames) if setting.knobs.camera_motion else None
    return Stage(rng, setting, setting.frames, camera)


def decoys(rng: np.random.Generator, setting: Setting, pair: tuple[str, str], count: int) -> list[tuple[str, str]]:
    """`count` other pairs of colour and shape; the first two share one of them with `pair`, where they can."""
    alike = [p for p in setting.pairs if p != pair and (p[0] == pair[0] or p[1] == pair[1])]
    chosen = some(rng, alike, min(2, count))
    free = [p for p in setting.pairs if p != pair and p not in chosen]
    return chosen + some(rng, free, count - len(chosen))


def put_bystanders(stage: Stage, pairs: list[tuple[str, str]], **looks: str) -> None:
    """Objects that do anything, or stay, or are left out where nothing else finds room."""
    rng, frames = stage.rng, stage.setting.frames
    for colour, shape in pairs:
        if not stage.put(colour, shape, lambda: anything(rng, frames), tries=15, **looks):
            stage.put(colour, shape, tries=15, **looks)
