"""The evaluation of diorama-vlm: a run and its export give the same rows."""

import json

import pytest

from wm_pipelines.training import Recipe, build, train

pytestmark = pytest.mark.slow

SMALL = {
    "width": 16, "layers": 1, "heads": 2, "inner": 32, "vision_width": 16, "vision_layers": 1, "vision_inner": 32,
    "size": 32, "length": 4, "sources": ["pictures"],
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    recipe = Recipe(task="diorama-vlm", steps=2, batch_size=2, lr=1e-3, ema=0.9, options=SMALL)
    train(build(recipe), recipe, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_and_its_export_are_scored_alike(script, run, tmp_path, capsys):
    benchmark, found = script("diorama_vlm"), {}
    for name, where in (("run", ["--run", run]), ("export", ["--model", run / "export"])):
        out = tmp_path / f"{name}.jsonl"
        benchmark.main([*map(str, where), "--length=7", "--sources=pictures", "--split=val", f"--out={out}"])
        (found[name],) = [json.loads(line) for line in out.read_text().splitlines()]
    assert "step 2" in capsys.readouterr().out
    assert found["run"]["evaluation"] == found["export"]["evaluation"]
    (row,) = found["run"]["evaluation"]
    assert row["n"] == 7 and row["dataset"] == "Diorama val, questions, pictures" and 0 < row["baseline"] < 1
    assert len(found["run"]["families"]) == 7


def test_fine_tuning_is_reported_net_of_its_blind_twin(script, tmp_path, capsys):
    benchmark = script("diorama_vlm_sft")
    options = {**benchmark.QUICK["options"], "length": 3, "sources": ["pictures"], "families": ["colour"]}
    recipe = Recipe(task="diorama-vlm", steps=1, batch_size=2, lr=1e-3, options=options)
    train(build(recipe), recipe, tmp_path / "base")
    out = tmp_path / "sft.jsonl"
    small = ["--quick", f"--base={tmp_path / 'base' / 'export'}", f"--work={tmp_path / 'work'}", f"--out={out}"]
    assert benchmark.main([*small, "--arms=base,synthetic,synthetic-blind"]) == 0
    said = capsys.readouterr().out
    assert said.count("net of blind") == 2 and said.count("over the base") == 2
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["arm"] for row in rows] == ["base", "synthetic", "synthetic-blind"]
    assert benchmark.main([*small, "--arms=base"]) == 0 and "0 of 1 cells" in capsys.readouterr().out
    made_up = [
        {"kind": "cell", "arm": arm, "right": {test: right for test in benchmark.TESTS}}
        for arm, right in (("real", [1] * 60 + [0] * 40), ("real-blind", [1] * 50 + [0] * 50))
    ]
    assert "real             real       60.0" in benchmark.report(made_up)[0]
    assert "net of blind +10.0" in benchmark.report(made_up)[0] and "(p 2.0e-03)" in benchmark.report(made_up)[0]
