"""A smoke run of the cost benchmark, and the claims in it that do not depend on time."""

import pytest

pytestmark = pytest.mark.slow


def test_smallest_run_has_every_figure(script, tmp_path):
    cost, out = script("flexecontrol_cost"), tmp_path / "cost.jsonl"
    cost.main([f"--out={out}", "--pairs=1", "--steps=1", "--train-pairs=1", "--batch=1", "--random"])
    rows = script("records").read(out)
    assert [(r["figure"], r["method"]) for r in rows] == [
        ("merged adapter", "paper"),
        ("six conditions / one", "FlexEControl"),
        ("six conditions / one", "FlexEControl, conflicts ignored"),
        ("six conditions / one", "MultiControlNet"),
        ("optimiser + gradient bytes", "uni"),
        ("optimiser + gradient bytes", "paper"),
        ("optimiser + gradient bytes", "paper with both losses"),
        ("training step / uni", "paper"),
        ("training step / uni", "paper with both losses"),
    ]
    merged, flex, _, nets, uni, paper, *_ = rows
    assert merged["holds"] and merged["decomposed"] > 0 and not merged["left"]
    assert merged["operators"]["before"] > merged["operators"]["merged"] > 50
    assert flex["ratio"] < nets["ratio"]
    # gradient and two Adam moments in float32, and the step counter of each parameter
    assert 12 * paper["optimised"] <= paper["value"] < 12.1 * paper["optimised"]
    assert paper["value"] < 0.5 * uni["value"]
    assert "hardware" in merged and "random weights" in merged["base"]


def test_pairs_alternate_and_the_ratio_is_that_of_the_pairs(script):
    cost, order = script("flexecontrol_cost"), []
    runs = [lambda: order.append("one"), lambda: order.append("six")]
    cost.alternate(*runs, swapped=False)
    cost.alternate(*runs, swapped=True)
    assert order == ["one", "six", "six", "one"]
    row = cost.paired([1.0, 2.0, 4.0], [1.1, 2.2, 8.0])
    assert abs(row["ratio"] - 1.1) < 1e-9 and row["pairs"] == 3 and row["ci95"][0] <= 1.1 <= row["ci95"][1]
