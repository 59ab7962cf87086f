"""Smoke runs of the benchmarks of diorama-clip and of the embedded kadaptation, on an untrained CLIP."""

import json

import pytest

from wm_pipelines import hub
from wm_pipelines.config import WMConfig
from wm_pipelines.hub.publishing import validate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """An embedded root with a diorama-clip that has learnt nothing."""
    from wm_pipelines.training import Recipe, build

    root = tmp_path_factory.mktemp("embedded")
    (root / "diorama-clip").mkdir()
    recipe = Recipe(task="diorama-clip", steps=1, batch_size=1, options={"length": 1})
    build(recipe).export(root / "diorama-clip")
    hub.seal(root / "diorama-clip", WMConfig(method="diorama-clip"))
    return root


def test_clip_benchmark_has_every_figure(script, untrained, monkeypatch, tmp_path):
    bench, out = script("diorama_clip"), tmp_path / "out.jsonl"
    monkeypatch.setattr(bench, "GALLERY", 3)
    bench.main([f"--clip={untrained / 'diorama-clip'}", "--scenes=4", f"--out={out}"])
    rows = script("records").read(out)
    assert [row["task"] for row in rows] == ["zero-shot classification", "retrieval among 200", "relation"] * 2
    for row in rows:
        for item in row["evaluation"]:
            assert 0 <= item["ci95"][0] <= item["value"] <= item["ci95"][1] <= 1 and 0 < item["baseline"] < 1


def test_kadaptation_benchmark_seals_a_checkpoint(script, untrained, monkeypatch, tmp_path):
    monkeypatch.setattr("wm_pipelines.hub.store.EMBEDDED_ROOT", untrained)
    bench, out, folder, page = script("kadaptation_embedded"), *(tmp_path / n for n in ("out.jsonl", "ckpt", "page"))
    sizes = ["--shots=1", "--test=1", "--seeds=1", "--epochs=1"]
    bench.main([*sizes, f"--out={out}", f"--checkpoint={folder}", f"--page={page}"])
    rows = script("records").read(out)
    assert [row["arm"] for row in rows] == list(bench.ARMS) and "over probe" in rows[-1]
    assert validate(folder) == []
    record = WMConfig.load(folder)
    assert record.evaluation[0].task.endswith("this checkpoint") and len(record.evaluation) == 1 + len(rows)
    assert (page / "README.md").read_text() == (folder / "README.md").read_text()
    assert json.loads((page / "log.jsonl").read_text().splitlines()[-1])["epoch"] == 1


def test_the_shots_of_two_draws_are_different_and_equally_many(script):
    bench = script("kadaptation_embedded")
    first, labels = bench.draw("val", 2, 0)
    again, _ = bench.draw("val", 2, 0)
    other, _ = bench.draw("val", 2, bench.APART)
    assert labels == ["one", "one", "two", "two", "three", "three", "four", "four"]
    assert first.equal(again) and not first.equal(other)
