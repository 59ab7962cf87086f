"""Cells are run once, in order, a share of them where asked, and never beside rows of other settings."""

import pytest


@pytest.fixture
def cells(script):
    return script("cells")


def test_cells_are_run_once_and_a_run_that_breaks_off_goes_on(cells, script, tmp_path, capsys):
    out, ran, broken = tmp_path / "rows.jsonl", [], [("b", 1)]

    def run(cell):
        if cell in broken:
            broken.remove(cell)
            raise KeyboardInterrupt
        ran.append(cell)
        return {"kind": "cell", "arm": cell[0], "seed": cell[1]}

    def found():
        return [(row["arm"], row["seed"]) for row in script("records").read(out)]

    every = [(arm, seed) for seed in (0, 1) for arm in "ab"]
    with pytest.raises(KeyboardInterrupt):
        cells.run_cells(every, set(), run, out, lambda cell, row: f"{row['arm']} done")
    assert found() == every[:3]
    cells.run_cells(every, set(found()), run, out, lambda cell, row: f"{row['arm']} done")
    assert found() == every == ran
    said = capsys.readouterr().out
    assert "4 of 4 cells to run" in said and "1 of 4 cells to run" in said and "cell 1/1: b done; about 0 min" in said


def test_shards_take_every_nth_seed_and_together_all(cells):
    every = [("a", seed) for seed in range(5)]
    shards = [cells.of_shard(every, 1, f"{i}/2") for i in range(2)]
    assert [[seed for _, seed in shard] for shard in shards] == [[0, 2, 4], [1, 3]]
    assert cells.of_shard(every, 1, "0/1") == every


def test_rows_of_other_settings_end_the_program(cells, script, tmp_path, capsys):
    parser, out = cells.make_parser("doc", "some_micro", "work", 3), tmp_path / "rows.jsonl"
    for row in ({"kind": "base"}, {"kind": "cell", "settings": {"steps": 2, "batch": 4}}):
        script("records").append(out, row)
    assert len(cells.same_settings(parser, out, {"steps": 2, "batch": 4}, kinds=("base",))) == 2
    with pytest.raises(SystemExit):
        cells.same_settings(parser, out, {"steps": 3, "batch": 4}, kinds=("base",))
    assert "rows of other settings (steps); name another --out" in capsys.readouterr().err


def test_arguments(cells, tmp_path, capsys):
    parser = cells.make_parser("doc", "some_micro", "work", 3, {"a": 1, "b": 2}, "seed")
    args = cells.parse(parser, [], {"a": 1, "b": 2})
    assert args.arms == ["a", "b"] and args.seeds == 3 and args.shard == "0/1" and args.out is None
    for argv, message in (
        (["--quick", f"--out={tmp_path}"], "--quick needs --work and --out"),
        (["--arms=a,c"], "--arms: unknown 'c'; there are a, b"),
    ):
        with pytest.raises(SystemExit):
            cells.parse(parser, argv, {"a": 1, "b": 2})
        assert message in capsys.readouterr().err
