"""What README and docs promise is there: commands, options, names, files; and the guide's own folder trains."""

import ast
import builtins
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.words import VOCABULARY
from wm_pipelines.media.pictures import save_image, to_pil

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "benchmarks/README.md",
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """As GitHub names headings."""
    texts = [
        re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    ]
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in texts}


@each_page
def test_every_import_of_its_examples_exists(page):
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)


@each_page
def test_every_command_and_option_exists(page):
    from wm_pipelines.cli import app

    shell = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    inline = re.findall(r"`([^`\n]+)`", prose(page))
    lines = [part.strip() for line in [*shell.splitlines(), *inline] for part in line.split("&&")]
    for line in (line for line in lines if line.startswith("wm ")):
        command, words = get_command(app), shlex.split(line, comments=True)[1:]
        while words and not words[0].startswith("-") and hasattr(command, "list_commands"):
            command = command.get_command(None, words.pop(0))
            assert command is not None, line
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}, line
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", shell, re.MULTILINE)) <= targets


@each_page
def test_every_link_leads_somewhere(page):
    missing = []
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    assert not missing


@each_page
def test_nothing_is_left_to_fill_in(page):
    assert not re.search(r"^[A-Z]{4,}$|TODO", prose(page), re.MULTILINE)


def test_the_readmes_snippets_use_only_names_that_they_make_or_that_it_explains():
    explained = re.search(r"^Below, .*?\n\n", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S).group()
    known = set(dir(builtins)) | set(re.findall(r"`(\w+)`", explained))
    for code in blocks(ROOT / "README.md", "python"):
        names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name | ast.alias)]
        made = {node.asname or node.name for node in names if isinstance(node, ast.alias)}
        made |= {node.id for node in names if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        used = {node.id for node in names if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assert used <= known | made, code


OFFLINE = ("FlexEControl", "Mojito", "KAdaptation", "CPL", "ComCLIP", "Discffusion", "Morpho4D")


@pytest.mark.slow
@pytest.mark.parametrize("method", OFFLINE)
def test_the_readmes_snippets_run_without_a_network(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = re.search(rf"^## {method}.*?(?=^## )", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    cubes, cones = pictures_of("cube"), pictures_of("cone")
    save_image(cubes[0], "photo.png")
    names = {"picture": cubes[0], "a_cube": cubes[0], "a_cone": cones[0], "more_pictures": [cubes[2], cones[2]]}
    exec(FENCE.search(section.group()).group(2), names | {"pictures": [cubes[0], cones[0], cubes[1], cones[1]]})


def pictures_of(shape: str) -> list:
    data = DioramaDataset(split="train", length=100, num_objects=1, name="readme")
    return [to_pil(data[n]["rgb"]) for n in range(100) if data.scene(n).objects[0].shape == shape][:3]


def test_the_page_of_the_miniature_world_has_all_its_words():
    said = (ROOT / "docs/diorama.md").read_text(encoding="utf-8").partition("refuse others:")[2].partition(".")[0]
    assert [word.strip() for word in said.split(",")] == list(VOCABULARY)


@pytest.mark.slow
def test_the_guides_own_folder_trains(tmp_path):
    page = ROOT / "docs/guides/own-data.md"
    (script,), command = blocks(page, "python"), blocks(page, "bash")[0]
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert "steps=20" in command
    command = command.replace("wm train", f"{sys.executable} -m wm_pipelines.cli train").replace("steps=20", "steps=2")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs/mine/export").is_dir()
