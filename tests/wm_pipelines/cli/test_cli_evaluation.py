"""`wm eval` on others' files: rescore, stress, compare, leaderboard."""

import json

import pytest
from typer.testing import CliRunner

from wm_pipelines.cli import app
from wm_pipelines.evaluation.mcq.rows import read_rows

SIDES = {"A": "left", "B": "right", "C": "not moving", "D": "up"}


def wm(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """VLM4D in small, and what two models said."""
    root = tmp_path_factory.mktemp("vlm4d")
    for subset, letters in (("real", "BADC" * 6), ("synthetic", "DABC" * 3)):
        records, told = [], {"one": [], "two": []}
        for i, letter in enumerate(letters):
            folder = "videos_real/davis" if subset == "real" else "videos_synthetic"
            asked = {
                "id": f"validation_{i + 1}",
                "question": f"Where does the {subset} thing {i} go?",
                "choices": SIDES,
            }
            records.append(asked | {"video": f"https://x/{folder}/{i // 2}.mp4", "answer": SIDES[letter]})
            for model, reply in (("one", f"The final answer is: {letter}"), ("two", "B" if i % 4 else "I can't say.")):
                right = model == "one" or (letter == "B" and bool(i % 4))
                told[model].append(asked | {"response": reply, "ground_truth_answer": SIDES[letter], "correct": right})
        (root / "data").mkdir(exist_ok=True)
        (root / "data" / f"{subset}_mc.json").write_text(json.dumps(records))
        (root / f"{subset}_mc_cot").mkdir()
        for model, predictions in told.items():
            (root / f"{subset}_mc_cot" / f"{model}.json").write_text(json.dumps(predictions))
    return root


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("rescored")
    done = wm("rescore", *sorted(root.glob("*_cot/*.json")), "--data", root, "--out", out)
    assert done.exit_code == 0, done.output
    return out, done.output


def test_rescored_runs(runs):
    out, said = runs
    assert sorted(path.name for path in out.iterdir()) == ["one-cot", "two-cot"]
    rows = {name: read_rows(out / f"{name}-cot" / "rows.jsonl") for name in ("one", "two")}
    assert all(len(some) == 36 for some in rows.values())
    for some in rows.values():
        assert all(row.correct == row.annotations["judged_correct"] for row in some)
    report = json.loads((out / "one-cot" / "report.json").read_text())
    assert report["controls"]["full"]["score"] == 1 and report["groups"]["subset"]["synthetic"]["n"] == 12
    assert "100.0 %" in said and "9 format failures" in said and (out / "one-cot" / "index.html").exists()


def test_compare_and_leaderboard(runs, tmp_path):
    out, _ = runs
    refused = wm("compare", out / "one-cot", out / "two-cot")
    assert isinstance(refused.exception, ValueError) and "paired test refused: 100%" in str(refused.exception)
    done = wm("compare", out / "one-cot", out / "two-cot", "--allow-mismatch", "--out", tmp_path / "c.json")
    assert done.exit_code == 0 and "McNemar" in done.output and "beware: 100.0 %" in done.output
    assert json.loads((tmp_path / "c.json").read_text())["n"] == 36
    board = wm("leaderboard", out, "--allow-mismatch", "--out", tmp_path / "l.json")
    assert board.exit_code == 0 and board.output.index("one (cot)") < board.output.index("two (cot)")
    assert [rank["model"] for rank in json.loads((tmp_path / "l.json").read_text())] == ["one", "two"]


def test_stress(root, tmp_path):
    done = wm("stress", root, "--out", tmp_path / "s.jsonl", "--folds", 4)
    assert done.exit_code == 0 and "text alone" in done.output
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert len(rows) == 36 and all(0 <= row["score"] <= 1 for row in rows)


def test_predictions_with_another_wording_are_held_against_it(root, tmp_path):
    predictions = json.loads((root / "real_mc_cot" / "one.json").read_text())
    predictions[0] |= {"choices": {"A": "up", "B": "down"}, "ground_truth_answer": "up", "response": "A"}
    (tmp_path / "one.json").write_text(json.dumps(predictions))
    assert wm("rescore", tmp_path / "one.json", "--data", root, "--out", tmp_path / "o").exit_code == 0
    rows = read_rows(tmp_path / "o" / "one-logged" / "rows.jsonl")
    assert rows[0].correct and [row.annotations["asked_otherwise"] for row in rows] == [True] + [False] * 23


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda p: p + p[:1], "twice"), (lambda p: [p[0] | {"id": "validation_999"}, *p[1:]], "no item"),
     (lambda p: [{k: v for k, v in p[0].items() if k != "response"}], "lacks 'response'"),
     (lambda p: [p[0] | {"correct": "yes"}], "`correct`"), (lambda p: [p[0] | {"response": 5}], "`response`"),
     (lambda p: [p[0] | {"question": "Another?"}], "0 of 1"), (lambda p: [], "list of predictions"),
     (lambda p: {"results": []}, "submission")],
)  # fmt: skip
def test_bad_predictions(root, tmp_path, change, said):
    predictions = change(json.loads((root / "real_mc_cot" / "one.json").read_text()))
    (tmp_path / "bad.json").write_text(json.dumps(predictions))
    done = wm("rescore", tmp_path / "bad.json", "--data", root, "--out", tmp_path / "o")
    assert isinstance(done.exception, ValueError) and said in str(done.exception)
    assert not (tmp_path / "o").exists()


def test_logs_that_are_none(root, tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"")
    for arguments, said in (((tmp_path / "x.pkl",), "suffix"), ((root / "real_mc_cot" / "one.json",), "`--data`"),
                            ((tmp_path / "x.tsv", "--judged"), "`--judged`")):  # fmt: skip
        done = wm("rescore", *arguments, "--out", tmp_path / "o")
        assert isinstance(done.exception, ValueError) and said in str(done.exception)
    for command in (("leaderboard", tmp_path), ("compare", tmp_path, tmp_path), ("stress", tmp_path / "none")):
        assert isinstance(wm(*command).exception, ValueError)
