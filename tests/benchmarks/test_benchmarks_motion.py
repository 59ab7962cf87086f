"""The speed benchmark of motion attention at tiny size: all ways agree, and its verdicts on made-up times."""

import json

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture
def speed(script):
    return script("motion_attention_speed")


def test_all_ways_compute_the_same(speed, monkeypatch):
    """Output, sums and dQ of each way, FlexAttention's uncompiled forward pass included."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(speed, "flex", lambda: flex_attention)
    case = speed.Case("2x2x12x9x8", "cpu", torch.float32)
    named = speed.ways(case, "cpu")
    results = {}
    for name, way in named.items():
        out, sums = way()
        if name != speed.PLAIN:
            speed.runner(case, way, True)()
            results[name] = (out, sums, case.q.grad)
    for name, found in results.items():
        for mine, expected in zip(found, results[speed.EXPLICIT], strict=True):
            torch.testing.assert_close(mine, expected, msg=lambda m, n=name: f"{n}: {m}")
    with torch.no_grad():
        for mine, expected in zip(case.flex(), results[speed.EXPLICIT], strict=False):
            torch.testing.assert_close(mine, expected)


def test_measures_records_and_resumes(speed, tmp_path, capsys):
    out = tmp_path / "speed.jsonl"
    speed.main(["--quick", "--out", str(out), "--threads", "1"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["shape"] for row in rows} == set(speed.QUICK)
    timed = [row for row in rows if "median_s" in row]
    assert len(timed) == 2 * 2 * 6 and all(row["median_s"] > 0 and row["peak_bytes"] > 0 for row in timed)
    assert [row["figure"] for row in rows if "bar" in row] == [
        "ours / best of three",
        "memory, low / indicator columns",
    ] * 2
    capsys.readouterr()
    assert speed.main(["--quick", "--out", str(out)]) == 0 and capsys.readouterr().out == ""


def test_memory_is_the_peak_not_the_sum(speed):
    def run():
        for _ in range(3):
            torch.zeros(1000, 250).add_(1)

    assert 10**6 <= speed.peak_memory(run, "cpu") < 2 * 10**6


def test_verdicts(speed):
    times = {speed.OURS: [1.0] * 9, speed.COLUMNS: [0.95] * 9, speed.DENSE: [2.0] * 9, speed.EXPLICIT: [1.5] * 9}
    rows = speed.verdicts(times, {speed.LOW: 5, speed.COLUMNS: 4})
    assert rows[0]["best"] == speed.COLUMNS and rows[0]["holds"] and not rows[1]["holds"]
    assert not speed.verdicts(times | {speed.EXPLICIT: [0.8] * 9}, {speed.LOW: 1, speed.COLUMNS: 4})[0]["holds"]


@pytest.mark.parametrize("argv", [["--shape", "1x2x3"], ["--shape", "1x1x4x3x8"], ["--repeats", "3"]])
def test_bad_arguments(speed, argv):
    with pytest.raises((SystemExit, Exception), match="FRAMESxHEADSxCELLSxKEYSxWIDTH|2"):
        speed.main(argv)
