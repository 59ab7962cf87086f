"""A run that was killed, at any moment, ends with the same bits as one that was not."""

import json
import re

import pytest

pytestmark = pytest.mark.slow


def contents(folder):
    """All bytes that a run leaves which must not depend on interruptions."""
    state = folder / "state"
    files = {str(path.relative_to(folder)): path.read_bytes() for path in state.rglob("*.safetensors")}
    files["export"] = (folder / "export" / "model.safetensors").read_bytes()
    files["log"] = re.sub(r'"time": [^,]*, ', "", (folder / "log.jsonl").read_text())
    return files


def leftovers(folder):
    return [str(path) for path in folder.rglob("*.tmp")]


def test_twenty_random_kills(run_script, tmp_path):
    told = json.loads(run_script("kill_driver.py", "random", tmp_path).stdout)
    assert told["kills"] == 20 and told["status"] == 0
    for number in range(1, told["runs"] + 1):
        folder = tmp_path / f"killed-{number}"
        assert contents(folder) == contents(tmp_path / "whole")
        assert leftovers(folder) == []
        record = json.loads((folder / "record.json").read_text())
        assert record["steps"] == 100


def test_kill_before_every_change_of_the_disk(run_script, tmp_path):
    told = json.loads(run_script("kill_driver.py", "every", tmp_path).stdout)
    assert told["kills"] > 30, "two saves change the disk more often than that"
    assert set(told["statuses"]) == {0}
    whole = contents(tmp_path / "whole")
    for number in range(1, told["kills"] + 1):
        folder = tmp_path / f"killed-{number}"
        assert contents(folder) == whole, f"killed before change {number}"
        assert leftovers(folder) == []


@pytest.mark.parametrize("options", [{}, {"length": 13}])
def test_stop_and_extend_equals_one_run(wave, tmp_path, options):
    for steps in (5, 9):
        recipe = wave.recipe(steps=steps, options=options)
        wave.train(wave.WaveTask(recipe), recipe, tmp_path / "two")
    recipe = wave.recipe(steps=9, save_every=5, options=options)
    wave.train(wave.WaveTask(recipe), recipe, tmp_path / "one")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
