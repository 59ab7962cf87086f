"""Toy clips whose truth is known, functions that answer about them, and a real model at tiny size."""

from types import SimpleNamespace

import numpy as np
import pytest

WAYS = ("left", "right", "up", "down")
MIRROR = {"left": "right", "right": "left", "up": "up", "down": "down"}
REVERSE = {"left": "right", "right": "left", "up": "down", "down": "up"}


def clip_of(way, frames=12, size=24):
    """A white square that goes one way over black."""
    clip = np.zeros((frames, size, size, 3), np.uint8)
    for t in range(frames):
        step = round(t * (size - 5) / (frames - 1))
        step = step if way in ("right", "down") else size - 5 - step
        y, x = (size // 2, step) if way in ("left", "right") else (step, size // 2)
        clip[t, y : y + 4, x : x + 4] = 255
    return clip


def way_of(frames):
    """The way that the square goes from the first frame to the last; None where it doesn't."""
    at = [np.argwhere(frame.max(-1) > 200).mean(0) for frame in (frames[0], frames[-1])]
    down, right = at[1] - at[0]
    if abs(down) + abs(right) < 1:
        return None
    return ("down" if down > 0 else "up") if abs(down) > abs(right) else "right" if right > 0 else "left"


def item_of(number, way=None, seed=0, **changes):
    from wm_pipelines.evaluation.mcq.items import LETTERS, Item
    from wm_pipelines.runtime.random import keyed

    rng = keyed("toy", seed, number)
    way = way or WAYS[int(rng.integers(4))]
    options = dict(zip(LETTERS, (WAYS[i] for i in rng.permutation(4)), strict=False))
    given = {
        "source": "toy",
        "subset": "square",
        "id": str(number),
        "question": "Which way does the square go?",
        "options": options,
        "answer": next(letter for letter, text in options.items() if text == way),
        "video": clip_of(way),
        "cluster": f"clip {number // 2}",
        "family": "across" if way in ("left", "right") else "along",
        "annotations": {"conflict": number % 2 == 0, "third": number % 3},
        "transforms": {"mirror": MIRROR, "reverse": REVERSE},
        "state": f"The square goes {way}.",
    }
    return Item(**{**given, **changes})


def letter_of(text, options):
    return next((letter for letter, option in options.items() if option == text), "nothing of these")


def sees(frames, prompt, options):
    """Reads the motion, and words where there are no frames but a state; else says A."""
    if frames is not None and frames.max() > 200 and frames.min() == 0 and np.isin(frames, (0, 255)).all():
        return letter_of(way_of(frames), options)
    told = [way for way in WAYS if f"goes {way}." in prompt]
    return letter_of(told[0], options) if told else "A"


def says_a(frames, prompt, options):
    return "A"


def says_left(frames, prompt, options):
    """A text prior: the option that is likelier, whatever is shown."""
    return letter_of("left", options)


def bag(frames, prompt, options):
    """Sees which line the square is on, but not the order of the frames."""
    if frames is None:
        return letter_of("left", options)
    spread = np.argwhere(frames.max(0).max(-1) > 200).std(0)
    return letter_of("up" if spread[0] > spread[1] else "left", options)


def draws(frames, prompt, options):
    """Knows nothing: another letter for each text."""
    from wm_pipelines.runtime.random import keyed

    return list(options)[int(keyed("draws", prompt).integers(len(options)))]


@pytest.fixture(scope="session")
def toy():
    """`items(n, ...)` and functions as models."""
    names = (clip_of, way_of, item_of, letter_of, sees, says_a, says_left, bag, draws)
    functions = {f.__name__: f for f in names}
    return SimpleNamespace(items=lambda n, **changes: [item_of(i, **changes) for i in range(n)], **functions)
