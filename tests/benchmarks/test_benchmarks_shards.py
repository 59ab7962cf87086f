"""The model of workers that share a folder, against what can be said without it; and one small real run."""

import json
import sys

import pytest

pytestmark = pytest.mark.slow

FREE = dict.fromkeys(("start", "read_plan", "claim", "commit", "make", "look"), 0.0)


@pytest.fixture
def shards(script):
    yield script("shards")
    sys.modules.pop("shards", None)


@pytest.mark.parametrize(("workers", "shards_", "expected"), [(1, 7, 14), (7, 7, 2), (2, 7, 8), (3, 7, 6), (9, 7, 2)])
def test_workers_that_cost_nothing(shards, workers, shards_, expected):
    assert shards.simulate(workers, shards_, 2.0, FREE, spread=0.0) == pytest.approx(expected)


def test_each_cost_counts_where_it_arises(shards):
    def seconds(workers, **cost):
        return shards.simulate(workers, 8, 10.0, FREE | cost, spread=0.0)

    assert seconds(1, start=3) == pytest.approx(83) and seconds(4, start=3) == pytest.approx(23)
    assert seconds(4, read_plan=0.5) == pytest.approx(24)
    assert seconds(1, make=1) == pytest.approx(88)
    assert seconds(1, claim=1, commit=2) == pytest.approx(8 * 13)
    assert seconds(1, look=1) == pytest.approx(80) and seconds(2, look=1) == pytest.approx(44)
    # one at a time: the last of eight waits for seven claims before it starts
    assert seconds(8, claim=1) == pytest.approx(18)


def test_many_workers_are_held_up_by_the_folder(shards):
    cost = FREE | {"claim": 0.1, "commit": 0.1}
    few, many = (shards.simulate(w, 2000, 1.0, cost) for w in (2, 200))
    assert few == pytest.approx(2000 * 1.2 / 2, rel=0.1)
    assert many == pytest.approx(2000 * 0.2, rel=0.05)


def test_a_small_run(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shards, "PARTS", 4)
    monkeypatch.setattr(shards, "PLANS", (100,))
    shards.main(["--shards", "4", "--work-s", "0.05", "--repeats", "1", "--out", str(tmp_path / "rows.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"measured", "simulated", "claim"}
    runs = [(r["stage"], r["executor"], r["workers"]) for r in rows if "stage" in r]
    assert len(runs) == len(set(runs)) == 6
    assert all(row["cores"] for row in rows if row["kind"] != "simulated")
    assert len([row for row in rows if row["kind"] == "claim"]) == 3
