"""The small world of the bootstrap experiment, and a smoke run of it: resumed, with its verdicts."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture
def world(script):
    return script("bootstrap_world")


def test_the_simulator_the_renders_and_the_reader_agree(world):
    pairs = world.sample_pairs(0, "test", 120)
    assert (world.read_states(pairs.before) == pairs.states).all()
    assert (world.read_states(pairs.after) == pairs.next_states).all()
    kinds = [words.split()[0] for words in pairs.actions]
    assert set(kinds) == set(world.ACTIONS)
    for state, words, after in zip(pairs.states, pairs.actions, pairs.next_states, strict=True):
        assert (world.act(state, words) == after).all() and (state != after).sum() in (1, 2)
        assert all(word in world.WORDS for word in words.split())
    again = world.sample_pairs(0, "test", 120)
    assert torch.equal(again.before, pairs.before) and again.actions == pairs.actions
    assert world.sample_pairs(1, "test", 120).actions != pairs.actions
    assert world.copied(pairs.states, pairs.states) == 1.0 and world.copied(pairs.next_states, pairs.states) == 0.0


def test_an_action_is_the_only_one_that_leads_there(world):
    for n in range(60):
        state, words, after = world.sample_pair(0, n)
        there = []
        for kind in world.ACTIONS:
            for colour in world.NAMES:
                if (state == 1 + world.NAMES.index(colour)).any():
                    rest = {"move": list(world.STEPS), "recolour": world.NAMES, "remove": [""]}[kind]
                    said = [f"{kind} {colour} {word}".strip() for word in rest]
                    there += [s for s in said if (r := world.act(state, s)) is not None and (r == after).all()]
        assert there == [words]


def test_a_smoke_run_ends_resumes_and_reports(script, tmp_path, capsys):
    micro, read = script("bootstrap_micro"), script("records").read
    out = tmp_path / "rows.jsonl"
    words = ["--smoke", "--seeds=1", f"--work={tmp_path / 'work'}", f"--out={out}"]
    assert micro.main([*words, "--arms=dynamics,labelled,synthetic-0.8"]) == 0
    said = capsys.readouterr().out
    assert "3 of 3 cells to run" in said and "actions are learned before states" in said
    rows = {row["arm"]: row for row in read(out) if row["kind"] == "cell"}
    assert rows["dynamics"]["reader"]["renders"] == 1.0 and 0 <= rows["dynamics"]["exact_action"] <= 1
    row = rows["synthetic-0.8"]
    assert {"exact", "edit", "preserved", "copied", "labels_right"} <= set(row)
    for values in row["picks"].values():
        assert list(values) == ["1", "2", "4", "8"]
    assert row["picks"]["dynamics"]["1"] == row["picks"]["likelihood"]["1"] == row["picks"]["oracle"]["1"]
    oracle = list(row["picks"]["oracle"].values())
    assert oracle == sorted(oracle)
    assert micro.main([*words, "--arms=dynamics,labelled,synthetic-0.8"]) == 0
    assert "0 of 3 cells to run" in capsys.readouterr().out


def test_a_stage_that_was_killed_is_made_again(script, tmp_path, monkeypatch):
    micro = script("bootstrap_micro")
    pairs = micro.sample_pairs(0, "unlabelled", 8)
    with monkeypatch.context() as patch:
        patch.setattr(micro.VQModel, "save_pretrained", lambda self, folder: (folder / "config.json").touch() or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            micro.make_tokens(pairs, 0, 1, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
    made = micro.make_tokens(pairs, 0, 1, tmp_path / "tokens")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()}
    again = micro.make_tokens(pairs, 0, 1, tmp_path / "tokens")
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()}
    assert torch.equal(made.codebook, again.codebook)
    other = {**micro.QUICK, "tokens": 1}
    folders = {micro.Seed(0, sizes, tmp_path).work.name for sizes in (micro.QUICK, other)}
    assert len(folders) == 2  # what was made by other settings is not taken up


def test_verdicts_follow_the_figures(script):
    micro = script("bootstrap_micro")

    def row(arm, **figures):
        return {"kind": "cell", "seed": 0, "arm": arm, **figures}

    picks = {"dynamics": {"1": 0.5, "4": 0.7}, "likelihood": {"1": 0.5, "4": 0.6}}
    rows = [
        row("dynamics", exact_action=0.6),
        row("labelled", exact=0.3),
        row("synthetic", exact=0.5, edit=0.6, copied=0.1),
        row("synthetic-0.8", edit=0.7, copied=0.1, picks=picks),
    ]
    assert [v["holds"] for v in micro.verdicts(rows, 1)] == [True] * 4
    rows[1]["exact"], rows[3]["copied"], picks["likelihood"]["4"] = 0.45, 0.2, 0.75
    assert [v["holds"] for v in micro.verdicts(rows, 1)] == [False] * 4
    assert [v["holds"] for v in micro.verdicts(rows[:1], 1)] == [None] * 4
    assert not np.isnan([v["seeds"] for v in micro.verdicts(rows, 1)]).any()
