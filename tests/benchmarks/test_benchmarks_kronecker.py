"""The benchmarks of the Kronecker adapter that measure no time: records as committed, and claims that can fail."""

import math

import pytest
import torch


def test_counts_are_the_committed_ones(script, tmp_path):
    """Built anew on the meta device; each is the specification's."""
    counts, records = script("kadaptation_counts"), script("records")
    assert counts.main([f"--out={tmp_path / 'rows.jsonl'}"]) == 0
    rows = records.read(tmp_path / "rows.jsonl")
    assert rows == records.read(records.RESULTS / "kadaptation_counts.jsonl") and len(rows) == len(counts.EXPECTED)


def test_a_count_that_differs_fails(script, tmp_path, monkeypatch, capsys):
    counts = script("kadaptation_counts")
    monkeypatch.setattr(counts, "counts", lambda: {**counts.EXPECTED, "KAdaptation, ViT-B/32": 50_175})
    assert counts.main([f"--out={tmp_path / 'rows.jsonl'}"]) == 1
    assert "50,175  specified 50,176" in capsys.readouterr().out


def test_bottleneck_formulas_are_those_of_the_modules(script):
    """One layer built as described: projections with biases and a layer norm; rules of the Compacter left out."""
    counts = script("kadaptation_counts")
    parts = [torch.nn.Linear(768, 64), torch.nn.Linear(64, 768), torch.nn.LayerNorm(768)]
    assert counts.adapter(layers=1) == sum(p.numel() for part in parts for p in part.parameters())
    terms = [torch.empty(4, 768 // 4, 1), torch.empty(4, 1, 64 // 4)]
    rest = sum(p.numel() for p in parts[2].parameters()) + 64 + 768
    assert counts.compacter(layers=1) == 2 * sum(t.numel() for t in terms) + rest


def test_scores_are_reproduced_and_one_average_is_not(script, tmp_path):
    pe, records = script("kadaptation_pe"), script("records")
    assert pe.main([f"--out={tmp_path / 'rows.jsonl'}"]) == 0
    rows = {row["method"]: row for row in records.read(tmp_path / "rows.jsonl")}
    assert list(rows.values()) == records.read(records.RESULTS / "kadaptation_pe.jsonl")
    assert [name for name, row in rows.items() if not row["average_is_the_mean"]] == ["KAdaptation"]
    assert (
        rows["KAdaptation"]["mean_of_20"] == pytest.approx(68.80, abs=0.005)
        and rows["KAdaptation"]["average"] == 68.92
    )
    counts = script("kadaptation_counts").EXPECTED
    assert rows["KAdaptation"]["parameters"] == counts["KAdaptation, ViT-B/32, with head"]
    assert rows["LoRA"]["parameters"] == counts["LoRA r=4, ViT-B/32, with head"]
    assert rows["full fine-tune"]["parameters"] == counts["full fine-tune, ViT-B/32, with head"]
    assert pe.efficiency(0.5, 9 * 10**8) == pytest.approx(0.5 / math.e)


def test_a_changed_accuracy_fails(script, tmp_path, monkeypatch):
    pe = script("kadaptation_pe")
    monkeypatch.setitem(pe.TABLE, "DTD", (54.36, 62.04, 57.13, 50.16, 52.93, 66.97, 64.47))
    assert pe.main([f"--out={tmp_path / 'rows.jsonl'}"]) == 1


def test_merging_restores_every_bit_and_plain_subtraction_does_not(script, tmp_path):
    merging, records = script("kronecker_merging"), script("records")
    merging.main([f"--out={tmp_path / 'rows.jsonl'}", "--size=128", "--cycles=3"])
    rows = [row for row in records.read(tmp_path / "rows.jsonl") if row["update"] == "kronecker"]
    assert len(rows) == 9 and all(row["exact_3"] and row["holds"] for row in rows)
    assert all(row["left_1"] > 0 for row in rows if row["ratio"] >= 1e-2)
    assert [row["ratio"] for row in rows if row["warned"]] == [1e-2, 1e-3, 1e-3]  # twice bf16, once fp16
    assert any(row["undo_share_of_copy"] < 1 for row in rows)


def test_the_committed_merging_record_holds(script):
    records = script("records")
    rows = records.read(records.RESULTS / "kronecker_merging.jsonl")
    assert len(rows) == 18 and all(row["holds"] and row["size"] == 1024 for row in rows)
    assert all(row["exact_50"] for row in rows if row["update"] == "kronecker")
