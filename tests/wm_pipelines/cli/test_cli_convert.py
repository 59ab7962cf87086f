"""`wm convert` as a whole, and `wm --help`; each conversion is tried beside its method."""

import re

import pytest

from wm_pipelines import cli
from wm_pipelines.cli.convert import Conversions
from wm_pipelines.cli.house import TASKS
from wm_pipelines.methods import folders

WRITES = re.compile(r" -> (a|our|JSON)\b.*\.$")


def test_help_says_of_every_name_what_it_reads_and_writes():
    group = Conversions()
    names = group.list_commands(None)
    assert len(names) >= 10 and names == sorted(names)
    for name in names:
        command = group.get_command(None, name)
        assert WRITES.search(command.help), (name, command.help)
        assert all(parameter.help for parameter in command.params if parameter.name != "help"), name


def test_every_converter_is_reached_by_wm_and_by_no_other_door():
    with_file = {name: path for name, path in folders("__init__.py").items() if (path / "convert.py").exists()}
    del with_file["cli"]
    assert set(folders("convert_command.py")) == set(with_file)
    for name, path in with_file.items():
        assert "__main__" not in (path / "convert.py").read_text(encoding="utf-8"), name


@pytest.mark.parametrize("name", ["flexecontrol", "nothing"])
def test_a_name_that_is_none_is_one_line(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["wm", "convert", name, "a", "b"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and f"No such command '{name}'" in capsys.readouterr().err


def test_help_lists_the_commands_by_task(wm):
    said = wm("--help")
    places = [said.index(f"─ {task} ─") for task in TASKS]
    assert places == sorted(places) and "─ Commands ─" not in said
    said = wm("run", "--help")
    places = [said.index(f"─ {group} ─") for group in ("Make", "Judge", "Adapt")]
    assert places == sorted(places) and "─ Commands ─" not in said
    assert said.index(" flexecontrol ") < said.index("─ Judge ─") < said.index(" comclip ") < said.index("─ Adapt ─")
