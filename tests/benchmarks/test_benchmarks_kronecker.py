"""The speed benchmark of the Kronecker adapter at tiny size, and its verdicts on made-up times."""

import json

import pytest


def test_measures_records_and_resumes(script, tmp_path, capsys):
    speed, out = script("kronecker_speed"), tmp_path / "speed.jsonl"
    speed.main(["--quick", "--out", str(out), "--threads", "1"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["shape"] for row in rows} == {"8x64", "16x128", "gpu"}
    both = [r for r in rows if r["shape"] == "8x64" and r.get("mode") == "forward and backward" and "variant" in r]
    assert {"base", "ours", "ours, dense A", "PEFT LoKr", "PEFT LoRA"} <= {row["variant"] for row in both}
    assert [row["mode"] for row in rows if row.get("variant") == "ours, augmented"] == ["forward"] * 2
    assert all(row["ratio"] > 0 and row["pairs"] == 3 and row["commit"] for row in both)
    assert sum("bar" in row for row in rows) == 6
    before = out.read_text()
    capsys.readouterr()
    assert speed.main(["--quick", "--out", str(out)]) == 0  # everything is there
    assert out.read_text() == before and capsys.readouterr().out == ""


def test_verdicts(script):
    speed = script("kronecker_speed")
    times = {"base": [1.0] * 9, "ours": [1.3] * 9, "PEFT LoKr": [2.3] * 9, "PEFT LoRA": [1.25] * 9}
    rows = {row["figure"]: row for row in speed.verdicts(768, times)}
    assert rows["ours / base"]["holds"] and not rows["ours / base"]["goal_holds"]
    assert rows["PEFT LoKr / ours"]["holds"] and not rows["PEFT LoKr / ours"]["goal_holds"]
    assert not rows["ours / PEFT LoRA of equal rank"]["holds"]
    assert not speed.verdicts(4096, times)[0]["holds"]


def test_without_a_gpu_the_goals_are_unmeasured(script, monkeypatch):
    speed = script("kronecker_speed")
    monkeypatch.setattr(speed.torch.cuda, "is_available", lambda: False)
    assert [(row["status"], row["reason"]) for row in speed.gpu(3)] == [("unmeasured", "no GPU")]


@pytest.mark.parametrize("argv", [["--shape", "12by7"], ["--shape", "4x33"], ["--repeats", "3"]])
def test_bad_arguments(script, argv):
    with pytest.raises((SystemExit, Exception), match="TOKENSxWIDTH|2"):
        script("kronecker_speed").main(argv)
