"""The figures that follow from VLM4D's published files; skipped where `VLM4D_ROOT` does not name their repository."""

import os
from functools import cache
from pathlib import Path

import pytest

from wm_pipelines.evaluation.mcq.compare import compare, leaderboard
from wm_pipelines.evaluation.mcq.figures import position_bias
from wm_pipelines.vlm4d.data import load_vlm4d
from wm_pipelines.vlm4d.predictions import read_predictions
from wm_pipelines.vlm4d.twins import offers_rotations, offers_sides

ROOT = os.environ.get("VLM4D_ROOT")
pytestmark = pytest.mark.skipif(not ROOT, reason="VLM4D_ROOT does not name a clone of ShijieZhou-UCLA/VLM4D")

# table 1, chain of thought: right answers of 1,816; ego, exo, directional, false positive in %
TABLE = {
    "gemini-2.5-pro-preview-06-05_1fps": (1125, 64.6, 62.9, 54.8, 80.0),
    "gpt-4o_32frame": (1044, 55.5, 62.1, 49.5, 53.3),
    "Llama-4-Scout-17B-16E-Instruct_10frame": (983, 48.6, 56.2, 53.2, 75.6),
    "Qwen2.5-VL-72B-Instruct_1fps": (962, 54.3, 52.5, 49.5, 80.0),
    "Qwen2.5-VL-7B-Instruct_1fps": (796, 42.3, 43.7, 43.5, 64.4),
}


@cache
def items():
    return load_vlm4d(ROOT, videos=False)


@cache
def rows(kind, model, judged=True):
    folder = Path(ROOT) / "processed_outputs_paper_results"
    files = [folder / f"{subset}_mc_{kind}" / f"{model}.json" for subset in ("real", "synthetic")]
    return [row for file in files for row in read_predictions(file, items(), judged=judged)]


def models(kind):
    return sorted(
        path.stem for path in (Path(ROOT) / "processed_outputs_paper_results" / f"real_mc_{kind}").glob("*.json")
    )


def test_the_questions():
    facets = [item.facet for item in items()]
    counts = {facet: facets.count(facet) for facet in set(facets)}
    assert counts == {"exo": 922, "ego": 449, "directional": 400, "false positive": 45}
    assert len({item.cluster for item in items()}) == 1000
    assert sum(offers_sides(item.options) for item in items()) == 1040
    assert sum(offers_rotations(item.options) for item in items()) == 135
    assert [item.uid for item in items() if len(item.right) == 2] == ["vlm4d/real/validation_633"]
    types = [item.family for item in items() if item.subset == "real"]
    shares = [round(100 * sum(kind in t for t in types) / 1371) for kind in ("transl", "rotat", "count", "false")]
    assert shares == pytest.approx([57, 21, 18, 4], abs=1.1)


@pytest.mark.parametrize("model", TABLE)
def test_the_counts_of_table_1(model):
    found = rows("cot", model)
    count, *shares = TABLE[model]
    assert sum(row.correct for row in found) == count and len(found) == 1816
    for facet, share in zip(("ego", "exo", "directional", "false positive"), shares, strict=True):
        some = [row.correct for row in found if row.facet == facet]
        assert 100 * sum(some) / len(some) == pytest.approx(share, abs=0.051)


@pytest.mark.parametrize(("kind", "total", "least"), [("cot", 41_768, 0.9925), ("direct-output", 39_952, 0.99975)])
def test_the_extractor_agrees_with_the_verdicts(kind, total, least):
    found = [row for model in models(kind) for row in rows(kind, model, judged=False)]
    assert len(found) == total
    assert sum(row.correct == row.annotations["judged_correct"] for row in found) / total >= least


def test_position_bias():
    direct, cot = (position_bias(rows(kind, "gpt-4o_32frame")) for kind in ("direct-output", "cot"))
    assert direct["rstd"] == pytest.approx(0.097, abs=5e-4) and cot["rstd"] == pytest.approx(0.017, abs=5e-4)
    assert direct["recall"]["A"] == pytest.approx(0.43, abs=0.005)
    assert direct["recall"]["C"] == pytest.approx(0.70, abs=0.005)
    other = position_bias(rows("direct-output", "InternVideo2-Chat-8B_1fps"))
    assert other["rstd"] == pytest.approx(0.136, abs=1e-3)


def test_adjacent_ranks():
    board = leaderboard([row for model in models("cot") for row in rows("cot", model)], allow_mismatch=True)
    assert sum(rank.p < 0.05 for rank in board[:-1]) == 5 and len(board) == 23
    assert [rank.model for rank in board if rank.adjusted is not None and rank.adjusted < 0.05] == [board[0].model]
    assert all(0.965 <= rank.micro.design_effect <= 1.115 for rank in board)


@pytest.mark.parametrize(
    ("model", "p"),
    [("gpt-4o_32frame", 0.03), ("Llama-4-Scout-17B-16E-Instruct_10frame", 0.003), ("Aria-Chat_8frame", 0.35)],
)
def test_reasons_against_none(model, p):
    direct = [row for row in rows("direct-output", model)]
    assert compare(rows("cot", model), direct, allow_mismatch=True).test.p == pytest.approx(p, abs=0.005)
