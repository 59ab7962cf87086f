"""Smoke runs of CPL's benchmarks at meaningless sizes, their claims that do not depend on time, and their verdict."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def test_counts_of_the_real_sizes_are_as_expected(script, tmp_path, capsys):
    counts = script("cpl_counts")
    assert counts.main([f"--out={tmp_path / 'counts.jsonl'}"]) == 0
    rows = {r["figure"]: r["value"] for r in script("records").read(tmp_path / "counts.jsonl")}
    assert rows["prompt learner, ViT-B/16"] == 35_360 and rows["prompt learner, ViT-L/14"] == 77_616
    assert "specified" in capsys.readouterr().out and len(rows) == len(counts.EXPECTED)


def test_smallest_cost_run_has_every_figure(script, tmp_path):
    cost, out = script("cpl_cost"), tmp_path / "cost.jsonl"
    cost.main([f"--out={out}", "--tiny", "--pairs=1", "--classes=3", "--batches=1,2", "--size=24", "--cases=2"])
    rows = script("records").read(out)
    assert [(r["figure"], r.get("classes"), r.get("batch")) for r in rows] == [
        ("loop / vectorised solver", None, None),
        ("training step / CoCoOp", 3, 1),
        ("training step / CoCoOp", 3, 2),
    ]
    assert rows[0]["same_picks"] and rows[0]["ratio"] > 1 and all(s > 0 for s in rows[0]["swaps"])
    assert all(r["ratio"] > 0 and "hardware" in r and r["model"] == "tiny" for r in rows)


def test_quick_run_ends_resumes_and_reports(script, tmp_path, capsys):
    micro, out = script("cpl_micro"), tmp_path / "micro.jsonl"
    small = ["--quick", "--seeds=1", "--draws=50", f"--work={tmp_path / 'work'}", f"--out={out}"]
    assert micro.main([*small, "--arms=zero-shot,cocoop,random-negative"]) == 0
    assert "3 of 3 cells to run" in capsys.readouterr().out
    assert micro.main([*small, "--arms=zero-shot,cocoop,released-1,random-mask,random-negative"]) == 0
    said = capsys.readouterr().out
    assert "2 of 5 cells to run" in said and "the counterfactual loss helps on new classes: " in said
    rows = micro.read(out)
    cells = {row["arm"]: row for row in rows if row["kind"] == "cell"}
    assert list(cells) == ["zero-shot", "cocoop", "random-negative", "released-1", "random-mask"]
    assert all(len(v) == 18 for v in cells["cocoop"]["right"].values())
    assert "cf" in cells["released-1"]["last_epoch"] and "cf" not in cells["cocoop"]["last_epoch"]
    assert cells["random-mask"]["last_epoch"]["sparsity"] > 0
    solver = next(row for row in rows if row["kind"] == "solver")
    assert len(solver["swaps"]) == 2 and all(gap >= 0 for gap in solver["gaps_at_12"])
    assert out.with_name("micro.png").exists() and out.with_name("micro_verdicts.jsonl").exists()
    with pytest.raises(SystemExit):
        micro.main(["--quick"])


def test_the_world_of_the_micro_experiment(script):
    micro = script("cpl_micro")
    seen, new = micro.halves()
    assert len(seen) == len(new) == 18 and not set(seen) & set(new)
    for half in (seen, new):
        assert {c for c, _ in half} == set(micro.COLOURS) and {s for _, s in half} == set(micro.SHAPES)
    scenes, labels = micro.scenes_of(seen, 40, 0.95, "test of tints")
    own = np.mean([s.tint == micro.tint_of(seen[i]) for s, i in zip(scenes, labels, strict=True)])
    free, _ = micro.scenes_of(new, 40, 0.0, "test of tints")
    chance = np.mean([s.tint == micro.tint_of(s.things[0].kind) for s in free])
    assert 0.92 < own < 0.99 and 0.1 < chance < 0.24
    assert scenes == micro.scenes_of(seen, 40, 0.95, "test of tints")[0]
    assert len({micro.tint_of(k) for k in seen}) > 1


def made(difference, seeds=10):
    """Rows in which CPL is right `difference` more often than CoCoOp on new classes."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        base = rng.random(300)
        for arm, share in (("cocoop", 0.4), ("released-1", 0.4 + difference)):
            right = (base < share).astype(int).tolist()
            tests = {"seen iid": right, "seen shifted": right, "new": right}
            rows.append({"kind": "cell", "arm": arm, "seed": seed, "right": tests})
    return rows


@pytest.mark.parametrize(("difference", "holds"), [(0.05, True), (0.0, False), (-0.05, False)])
def test_the_verdict_follows_the_interval(script, difference, holds):
    micro, rows = script("cpl_micro"), made(difference)
    text, figures = micro.report(micro.Results(rows, 300), rows, 10)
    judged = next(row for row in figures if row["kind"] == "verdict")
    assert judged["holds"] is holds and judged["complete"]
    assert ("HOLDS" in text) == holds or "DOES NOT HOLD" in text
    few = made(difference, 3)
    assert not next(r for r in micro.report(micro.Results(few, 50), few, 10)[1] if r["kind"] == "verdict")["complete"]


def test_without_cells_nothing_is_judged(script):
    micro = script("cpl_micro")
    judged = micro.report(micro.Results([], 50), [], 10)[1]
    assert judged[0]["holds"] is None
