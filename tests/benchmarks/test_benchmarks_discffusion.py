"""The micro-experiment of Discffusion: its world, and its verdict on made-up rows."""

import pytest

from wm_pipelines.runtime.random import keyed


@pytest.fixture
def micro(script):
    return script("discffusion_micro")


@pytest.mark.parametrize("foil", ["subject", "object", "relation"])
def test_a_foil_differs_in_one_part(micro, foil):
    for n in range(50):
        rng = keyed("micro test", foil, n)
        scene = micro.sample(rng)
        other = micro.foil_of(scene, foil, rng)
        changed = [k for k in range(5) if scene[k] != other[k]]
        assert len(changed) == 1
        assert changed[0] in {"subject": (0, 1), "object": (3, 4), "relation": (2,)}[foil]


def test_the_begin_of_text_knows_nothing_of_the_text(micro):
    made = micro.tower(0)
    hidden = made(micro.ids_of([(0, 0, 0, 1, 1), (1, 2, 3, 0, 0), None]))[0]
    assert hidden[:, 0].std(0).max() < 1e-6 < hidden[:, 5].std(0).max()


def rows(micro, means):
    cells = [f"{f}/{s}/{n}" for f in micro.FOILS for s in ("picture", "caption") for n in micro.STEPS]
    return [
        {"arm": arm, "seed": seed, "accuracy": {f"{cell}/{micro.score_of(arm)}": mean for cell in cells}}
        for arm, mean in means.items()
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("c", "f", "a", "holds"), [(0.8, 0.7, 0.6, True), (0.8, 0.79, 0.6, False), (0.8, 0.7, 0.85, False)]
)
def test_the_verdict_is_the_one_that_was_fixed(micro, c, f, a, holds):
    means = {"a": a, "b": 0.9, "c": c, "d": 0.5, "e": 0.5, "f": f}
    assert micro.report(rows(micro, means), 3, 250)[0]["holds"] is holds
