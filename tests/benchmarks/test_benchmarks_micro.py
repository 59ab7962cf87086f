"""A smoke run of the micro-experiment at meaningless sizes: every kind of arm, resumed, with its report."""

import pytest
import torch

from wm_pipelines.diorama.judge import DioramaJudge

pytestmark = pytest.mark.slow


@pytest.fixture
def run(script, tiny_sd, tmp_path):
    """run(*arguments) runs the script in `tmp_path`; run.rows() reads its results."""
    micro, out = script("flexecontrol_micro"), tmp_path / "results.jsonl"
    tiny_sd["vae"].save_pretrained(tmp_path / "vae")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        DioramaJudge((8, 8, 8)).save_pretrained(tmp_path / "judge")
    places = [f"--{name}={tmp_path / name}" for name in ("vae", "judge", "work")]

    def start(*arguments: str) -> int:
        small = ["--quick", "--seeds=1", "--draws=50", "--scenes=4,6", f"--out={out}"]
        return micro.main([*small, *places, *arguments])

    start.rows = lambda: micro.read(out)
    return start


def test_quick_run_ends_resumes_and_reports(run, capsys, tmp_path):
    assert run("--arms=BCG") == 0
    rows = run.rows()
    cells = {(r["arm"], r["scenes"]): r for r in rows if r["kind"] == "cell"}
    assert list(cells) == [("B", 6), ("C", 6), ("G", 6), ("B", 4)]
    assert "4 of 4 cells to run" in capsys.readouterr().out

    row = cells["B", 6]
    assert set(row["sampled"]) == {"attention", "none"} and set(cells["G", 6]["sampled"]) == {"attention"}
    assert all(len(v) == 4 for v in [row["error"], *row["sampled"]["none"].values()])
    assert row["commit"] is None or len(row["commit"]) >= 40
    assert cells["C", 6]["optimised"] <= row["optimised"] < cells["G", 6]["optimised"]
    ceiling = rows[0]["figures"]["ground-truth renders (ceiling)"]
    assert 0.5 < ceiling["edge_f1"] <= 1
    assert rows[0]["figures"]["chance (colours swapped at random)"] == {"bound": 0.5}

    # again, with one more arm: only that one is run
    assert run("--arms=ABCG") == 0
    assert len(run.rows()) == len(rows) + 2
    said = capsys.readouterr().out
    assert "2 of 6 cells to run" in said and "efficiency: " in said and "multi-condition: not measured" in said
    assert (tmp_path / "results_curve.png").exists()

    # rows of other settings are never mixed
    with pytest.raises(SystemExit):
        run("--arms=A", f"--judge={_other_judge(tmp_path)}")
    assert "rows of other settings (judge)" in capsys.readouterr().err


def _other_judge(folder):
    DioramaJudge((8, 8, 16)).save_pretrained(folder / "other")
    return folder / "other"


def test_quick_needs_its_own_places(script, capsys):
    with pytest.raises(SystemExit):
        script("flexecontrol_micro").main(["--quick"])
    assert "--quick needs --work and --out" in capsys.readouterr().err


def test_cells_come_seed_by_seed(script):
    cells = script("flexecontrol_micro").cells_of("ABCDEFG", 5, [128, 256, 512])
    assert len(cells) == 55 and len(set(cells)) == 55
    assert [seed for _, seed, _ in cells] == sorted(seed for _, seed, _ in cells)
