"""The pre-registered verdicts on made-up rows whose answer is known."""

import numpy as np
import pytest

COUNTS, SEEDS, SCENES = [128, 256, 512], 5, 40


def rows(edge, bound, optimised):
    """Cells with noise of 0.01 around the given means: edge {(arm, n): F1}, bound {arm: on same-shape scenes}."""
    rng, made = np.random.default_rng(0), []
    for (arm, n), middle in edge.items():
        for seed in range(SEEDS):
            noisy = (middle + 0.01 * rng.normal(size=SCENES)).tolist()
            binding = [bound.get(arm, 0.5) if i % 2 == 0 else 0.5 for i in range(SCENES)]
            scores = {"edge_f1": noisy, "iou": noisy, "bound": binding}
            made.append(
                {
                    "kind": "cell", "arm": arm, "seed": seed, "scenes": n, "optimised": optimised.get(arm, 100),
                    "state_bytes": 12 * optimised.get(arm, 100), "step_ms": 1.0, "step_cpu_ms": 1.0,
                    "sampled": {"attention": scores}, "error": noisy,
                }
            )  # fmt: skip
    return made


GOOD = {("A", n): 0.5 for n in COUNTS} | {("B", n): 0.5 for n in COUNTS} | {("F", 512): 0.5}


def judged(script, edge=GOOD, bound=None, optimised=None):
    verdicts = script("micro_verdicts")
    made = rows(edge, bound or {"B": 0.8, "F": 0.5}, optimised or {"A": 1000, "B": 200})
    found = verdicts.verdicts(verdicts.Results(made, 200), 512, COUNTS, SEEDS)
    return {v["claim"]: v for v in found}


def test_all_three_hold_where_they_should(script):
    found = judged(script)
    assert {claim: v["holds"] for claim, v in found.items()} == {
        "efficiency": True, "multi-condition": True, "data efficiency": True,
    }  # fmt: skip
    assert all(v["complete"] for v in found.values())


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"optimised": {"A": 1000, "B": 251}}, "efficiency"),
        ({"edge": GOOD | {("B", 512): 0.47}}, "efficiency"),
        ({"bound": {"B": 0.54, "F": 0.5}}, "multi-condition"),
        ({"edge": GOOD | {("B", 128): 0.47}}, "data efficiency"),
    ],
)
def test_each_threshold_can_fail(script, change, claim):
    found = judged(script, **change)
    assert found[claim]["holds"] is False
    assert [c for c, v in found.items() if v["holds"] is False] == [claim]


def test_binding_is_judged_on_same_shape_scenes_only(script):
    part = next(iter(judged(script)["multi-condition"]["parts"].values()))
    assert part["measured"]["value"] == pytest.approx(0.3)


def test_missing_arms_are_said_to_be_not_measured(script):
    found = judged(script, edge={("B", 512): 0.5})
    assert all(v["holds"] is None and not v["complete"] for v in found.values())


def test_a_few_seeds_give_a_verdict_that_is_not_complete(script):
    verdicts = script("micro_verdicts")
    made = [r for r in rows(GOOD, {"B": 0.8}, {"A": 1000, "B": 200}) if r["seed"] < 2]
    found = verdicts.verdicts(verdicts.Results(made, 100), 512, COUNTS, SEEDS)
    assert [v["seeds"] for v in found] == [2, 2, 2] and not any(v["complete"] for v in found)
    text, lines = verdicts.report(verdicts.Results(made, 100), dict.fromkeys("ABF", "arm"), COUNTS, SEEDS)
    assert "only 2 of 5 seeds" in text and sum(line["kind"] == "verdict" for line in lines) == 3


def test_the_curve_is_drawn(script, tmp_path):
    verdicts = script("micro_verdicts")
    made = rows(GOOD, {}, {})
    verdicts.plot(verdicts.Results(made, 50), COUNTS, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG" and len(list(tmp_path.iterdir())) == 1
