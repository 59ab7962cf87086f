"""What the package promises as a package: light import, no torch forced on anyone, the layout that ComfyUI needs."""

import glob
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_importing_the_package_imports_neither_torch_nor_diffusers():
    heavy = ("torch", "diffusers", "transformers", "peft")
    code = f"import sys, wm_pipelines; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_every_public_name_resolves():
    import wm_pipelines

    for name in wm_pipelines.__all__:
        assert getattr(wm_pipelines, name).__name__ == name
    assert set(wm_pipelines.__all__) <= set(dir(wm_pipelines))


def test_versions_have_lower_bounds_only():
    for requirement in PROJECT["project"]["dependencies"]:
        spec = requirement.split(";")[0]
        assert re.fullmatch(r"[A-Za-z0-9_.-]+>=[0-9.]+ *", spec), requirement
    names = {re.split(r"[>=<\[; ]", r)[0] for r in PROJECT["project"]["dependencies"]}
    assert not names & {"torchvision", "torchaudio"}


def test_comfyui_requirements_never_name_torch():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = {re.split(r"[>=<\[; ]", line)[0].lower() for line in lines if line and not line.startswith("#")}
    assert names and not names & {"torch", "torchvision", "torchaudio"}


def test_only_library_packages_are_installed():
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["wm_pipelines*", "custom_kernels*"]


def test_nothing_in_the_library_runs_downloaded_code():
    forbidden = re.compile(
        r"trust_remote_code\s*=\s*True|\bpickle\.load|(?<![.\w])(?:eval|exec)\(|torch\.load\((?!.*weights_only=True)"
    )
    for folder in ("wm_pipelines", "custom_kernels", "nodes"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text().splitlines():
                assert not forbidden.search(line.split("#")[0]), f"{path}: {line}"


def test_every_data_file_of_the_package_is_installed():
    """What lies beside the code (recipes, templates, checkpoints, the schema) is matched by the package data."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["wm_pipelines"]
    package = ROOT / "wm_pipelines"
    # as setuptools matches: `*` takes no hidden name
    found = (glob.glob(str(package / pattern), recursive=True) for pattern in patterns)
    matched = {Path(name) for names in found for name in names}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {p for p in files if p.suffix != ".py"} <= matched
    for folder in {path.parent for path in files if path.suffix == ".py"}:
        assert (folder / "__init__.py").is_file(), folder


def test_what_editors_are_told_is_what_there_is():
    """The names under TYPE_CHECKING and `_PUBLIC` are the same, from the same modules."""
    import ast

    tree = ast.parse((ROOT / "wm_pipelines" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in block.body for alias in node.names}
    given = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    assert told == ast.literal_eval(given["_PUBLIC"])


def test_file_names_of_tests_are_unique():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_a_first_run_says_nothing_about_other_libraries():
    code = (
        "from wm_pipelines import AutoWMPipeline\n"
        "for name in ('flexecontrol', 'cpl', 'diorama-video'):\n"
        "    AutoWMPipeline.from_pretrained(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = re.split(r"[\r\n]+|\x1b\[A", done.stdout + done.stderr)
    assert [line for line in lines if line.strip() and not line.lstrip().startswith("Loading")] == []
