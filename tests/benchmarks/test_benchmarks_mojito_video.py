"""The script about diorama-video: its cases, its rank correlation, and its report and verdicts on rows made up."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def video(script):
    return script("mojito_video")


def test_cases_name_the_four_ways_equally_and_repeat(video):
    cases = [video.case("direction", i) for i in range(8)]
    assert [way for *_, way in cases] == list(video.WAYS) * 2 and cases == [
        video.case("direction", i) for i in range(8)
    ]
    assert cases[2][0].endswith("moving towards the camera") and cases[1][0].endswith("moving right")
    assert video.case("dial", 0) == video.case("no level", 0)


def test_spearman(video):
    levels = np.array([1.0, 1, 2, 2, 3, 3])
    assert video.spearman(levels, levels**3) == pytest.approx(1)
    assert video.spearman(levels, -levels) == pytest.approx(-1)
    assert video.spearman(np.array([1.0, 2, 3, 4]), np.array([1.0, np.nan, 9, 4])) == pytest.approx(0.5)
    assert np.isnan(video.spearman(levels[:2], levels[:2]))


@pytest.mark.parametrize("good", [True, False])
def test_report_and_verdicts(video, tmp_path, capsys, good):
    rng, out = np.random.default_rng(0), tmp_path / "rows.jsonl"
    rows = []
    for part, level, seed, prompts in video.cells(8, 8, 2, twin=True):
        for prompt in prompts:
            flow = (level or 5) * good + rng.uniform(0, 0.5)
            flow *= 2 if part == "twin" and not good else 1
            figures = {"right": float(good), "seen": 1.0, "broken": 0.0, "flow": flow, "speed": 1.0}
            figures |= {"acceleration": 0.1, "over": 0.0}
            figures |= {"promised": level, "went": "left" if level == 9 else "right"}
            figures["checkpoint"] = video.made_by(None)["checkpoint"]
            rows.append({"part": part, "level": level, "seed": seed, "prompt": prompt, **figures})
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert video.main(["--out", str(out), "--directions=8", "--prompts=8", "--draws=50", "--report"]) == 0
    found = [json.loads(line) for line in (tmp_path / "rows_verdicts.jsonl").read_text().splitlines()]
    assert [row["holds"] for row in found if row["kind"] == "verdict"] == [good, good, good]
    assert {e["metric"] for e in found[-1]["evaluation"]} == {
        "direction accuracy", "persistence", "Spearman of level and flow",
    }  # fmt: skip
    beside = {(row["part"], row["figure"]): row["value"] for row in found if row["kind"] == "beside the twin"}
    assert beside["direction", "right"] == 0 and (beside["no level", "flow"] < -0.1) == (not good)
    kept = next(row for row in found if row["kind"] == "direction kept")
    assert kept["value"] == pytest.approx(0.75)
    assert (tmp_path / "rows.png").stat().st_size > 1000
    assert ("HOLDS" in capsys.readouterr().out) == good


@pytest.mark.parametrize("some", [False, True])
def test_where_clips_are_missing_nothing_is_claimed(video, tmp_path, some):
    rows = [{"part": "direction", "level": None, "seed": 0, "prompt": p, "right": 1.0, "seen": 1.0} for p in range(5)]
    rest = {
        "broken": 0.0,
        "flow": 1.0,
        "speed": 1.0,
        "acceleration": 0.0,
        "over": 0.0,
        "checkpoint": video.made_by(None)["checkpoint"],
    }
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row | rest) + "\n" for row in rows if some))
    video.main(["--out", str(tmp_path / "rows.jsonl"), "--report", "--draws=50"])
    found = [json.loads(line) for line in (tmp_path / "rows_verdicts.jsonl").read_text().splitlines()]
    assert [row["holds"] for row in found if row["kind"] == "verdict"] == [None] * 3


def test_shards_share_the_batches_and_the_twin_is_asked_for(video):
    whole = video.cells(8, 8, 2, twin=True)
    assert sorted(map(str, video.every_nth(whole, "0/2") + video.every_nth(whole, "1/2"))) == sorted(map(str, whole))
    parts = [part for part, *_ in whole]
    assert parts.count("twin direction") == 2 and parts.count("twin") == 4
    assert whole[: len(whole) - 6] == video.cells(8, 8, 2)


def test_rows_of_another_checkpoint_are_refused(video, tmp_path):
    row = {"part": "direction", "level": None, "seed": 0, "prompt": 0, "checkpoint": "another"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit, match="holds rows of another checkpoint; name another --out"):
        video.main(["--out", str(tmp_path / "rows.jsonl"), "--report"])
