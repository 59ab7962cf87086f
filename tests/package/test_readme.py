"""What the README promises is there: commands, options, names, files."""

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def test_every_import_of_its_examples_exists():
    examples = [code for language, code in BLOCKS if language == "python"]
    assert examples
    for code in examples:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)


def test_every_command_and_option_exists():
    from wm_pipelines.cli import app

    shell = "\n".join(code for language, code in BLOCKS if language == "bash").replace("\\\n", " ")
    inline = [text for text in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))]
    commands = [line for line in [*shell.splitlines(), *inline] if line.startswith("wm ")]
    assert len(commands) >= 5
    for line in commands:
        command, words = get_command(app), shlex.split(line, comments=True)[1:]
        while words and hasattr(command, "list_commands"):
            command = command.get_command(None, words.pop(0))
            assert command is not None, line
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, line
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", shell, re.MULTILINE)) <= targets


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_every_link_leads_somewhere(link):
    assert (ROOT / link).exists()


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"^[A-Z]{4,}$|TODO|\|\s*\|\s*$", README, re.MULTILINE)
