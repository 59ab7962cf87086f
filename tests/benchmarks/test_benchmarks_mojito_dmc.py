"""The script about directional motion control: its paths, its batches, and its report and verdict on rows made up."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def dmc(script):
    return script("mojito_dmc")


def test_paths_lie_in_the_picture_and_repeat(dmc):
    cases = [dmc.case("test", i) for i in range(50)]
    boxes = np.array([boxes for *_, boxes in cases])
    assert boxes.min() >= 0 and boxes.max() <= 1 and (boxes[..., 2:] - boxes[..., :2]).min() >= 0.17
    assert not any("moving" in prompt for prompt, *_ in cases) and cases == [dmc.case("test", i) for i in range(50)]
    assert cases != [dmc.case("validation", i) for i in range(50)]


def test_every_arm_has_its_prompts_and_seeds(dmc):
    rows = {}
    for arm, _, seed, prompts in dmc.cells(8, 2):
        rows.setdefault(arm, []).extend((seed, p) for p in prompts)
    assert set(rows) == set(dmc.ARMS) and all(len(set(cells)) == len(cells) for cells in rows.values())
    assert len(rows["none"]) == 8 * 2 * dmc.DRAWS and len(rows["control"]) == 16 and len(rows["FreeTraj-style"]) == 4


@pytest.mark.parametrize("gain", [0.4, 0.0])
def test_report_and_verdict(dmc, tmp_path, capsys, gain):
    rng, out = np.random.default_rng(0), tmp_path / "rows.jsonl"
    rows = []
    for arm, _, seed, prompts in dmc.cells(8, 2):
        for prompt in prompts:
            iou = rng.uniform(0, 0.05) + gain * (arm == "control")
            figures = {"centroid": 0.2, "in_box": 0.5, "seen": 1.0, "flow": 0.3, "over": 0.001}
            rows.append({"arm": arm, "prompt": prompt, "seed": seed, "iou": iou, "updates": 12, **figures})
            rows[-1] |= dmc.made_by(None)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert dmc.main(["--out", str(out), "--prompts=8", "--draws=50", "--report"]) == 0
    found = [json.loads(line) for line in (tmp_path / "rows_verdicts.jsonl").read_text().splitlines()]
    assert [row["holds"] for row in found if row["kind"] == "verdict"] == [gain > 0]
    assert len(found[-1]["evaluation"]) == 3
    assert {row["arm"] for row in found if row["kind"] == "arm"} == {*dmc.ARMS, "best of 3"}
    assert ("HOLDS" in capsys.readouterr().out) == (gain > 0)


@pytest.mark.parametrize("some", [False, True])
def test_where_clips_are_missing_nothing_is_claimed(dmc, tmp_path, some):
    figures = {"iou": 0.5, "centroid": 0.2, "in_box": 0.5, "seen": 1.0, "flow": 0.3, "over": 0.001, "updates": 3}
    rows = [{"arm": arm, "seed": 0, "prompt": p, **figures, **dmc.made_by(None)} for arm in dmc.ARMS for p in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if some))
    dmc.main(["--out", str(tmp_path / "rows.jsonl"), "--report", "--draws=50"])
    found = [json.loads(line) for line in (tmp_path / "rows_verdicts.jsonl").read_text().splitlines()]
    assert [row["holds"] for row in found if row["kind"] == "verdict"] == [None]


def test_a_guided_update_is_timed_against_the_whole_pass(script, tmp_path):

    timed = script("mojito_guided_time")
    timed.main(["--repeats=2", "--out", str(tmp_path / "rows.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["taps"] for row in rows] == list(timed.TAPS) and all(0 < row["ratio"] < 1.5 for row in rows)
    assert rows[0]["ratio"] < rows[2]["ratio"]
