"""What leaves the repository: one version everywhere, workflows that call what is here, addresses, the wheel."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

import wm_pipelines

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PROJECT["project"]["version"]


def load(path):
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def addresses():
    return load(ROOT / ".ci" / "addresses.py")


def test_the_version_is_one():
    assert wm_pipelines.__version__ == VERSION
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == VERSION
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert next(h for h in headings if h != "Unreleased").split()[0] == VERSION


def test_the_icon_is_what_its_script_draws_and_small_enough_for_the_registry():
    path = ROOT / PROJECT["tool"]["comfy"]["Icon"]
    assert path.read_text(encoding="utf-8") == load(ROOT / "docs" / "icon.py").icon()
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    assert root.get("width") == root.get("height") and int(root.get("width")) <= 400


def test_workflows_run_what_is_here():
    steps = []
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert set(found) == {"name", True, "permissions", "jobs"} | ({"concurrency"} & set(found))  # "on" is true
        for job in found["jobs"].values():
            assert job["timeout-minutes"] <= 360, path.name
            steps += job["steps"]
    run = "\n".join(step["run"] for step in steps if "run" in step)
    named = set(re.findall(r"\.ci/[\w.]+", run))
    assert named == {".ci/run", ".ci/smoke", ".ci/addresses.py"}
    for name in named:
        assert (ROOT / name).is_file() and (name.endswith(".py") or os.access(ROOT / name, os.X_OK)), name
    pythons = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    said = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert pythons["python"] == said  # a Python is named where the tests run on it


def test_a_node_pack_goes_without_what_only_developers_need_and_with_all_else():
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()[1:]
    assert all(re.fullmatch(r"/[\w.]+/?", line) and (ROOT / line.strip("/")).exists() for line in lines), lines
    gone = {line.strip("/") for line in lines}
    needed = {"__init__.py", "nodes", "web", "locales", "wm_pipelines", "custom_kernels", "example_workflows",
              "subgraphs", "node_list.json", "requirements.txt", "pyproject.toml", "LICENSE", "README.md"}  # fmt: skip
    assert not gone & needed


def test_the_hooks_are_the_environments_own_ruff():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repo["repo"] == "local" and [hook["id"] for hook in repo["hooks"]] == ["ruff", "ruff-format"]
    assert all(hook["entry"].startswith(".venv/bin/ruff ") for hook in repo["hooks"])


def test_the_issue_form_asks_for_the_doctor():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text(encoding="utf-8"))
    fields = {field["id"]: field for field in form["body"]}
    assert fields["doctor"]["attributes"]["label"] == "wm doctor --json"
    assert fields["doctor"]["validations"]["required"]
    assert all(field["attributes"]["label"] for field in fields.values())


def test_what_is_published_names_its_address(addresses, tmp_path):
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    addresses.main("owner/name", f"v{VERSION}", tmp_path)
    made = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))
    assert made["tool"]["comfy"]["Icon"] == f"https://raw.githubusercontent.com/owner/name/v{VERSION}/docs/icon.svg"
    assert made["project"]["urls"]["Repository"] == "https://github.com/owner/name"
    del made["project"]["urls"], made["tool"]["comfy"]["Icon"]
    before = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    del before["tool"]["comfy"]["Icon"]
    assert made == before
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"\]\((?!https?://|#)", text)
    assert not re.search(r'(?:src|srcset|href)="(?!https?://|#)', text)


def test_links_become_pages_and_pictures_files(addresses):
    text = "[a](docs/a.md#b) ![p](x/p.png) [![q](q.svg)](LICENSE) [h](#here) [w](https://w.org) `[x](y)`"
    pages, files = "https://github.com/o/n/blob/v1/", "https://raw.githubusercontent.com/o/n/v1/"
    made = addresses.absolute(text, "o/n", "v1")
    assert made.startswith(
        f"[a]({pages}docs/a.md#b) ![p]({files}x/p.png) [![q]({files}q.svg)]({pages}LICENSE) [h](#here)"
    )
    assert "[w](https://w.org)" in made
    made = addresses.absolute('<a href="d.md"><img alt="" src="a.png"></a><source srcset="b.png">', "o/n", "v1")
    assert made == f'<a href="{pages}d.md"><img alt="" src="{files}a.png"></a><source srcset="{files}b.png">'


@pytest.mark.parametrize(
    ("repository", "tag", "message"),
    [("owner", f"v{VERSION}", "no repository"), ("owner/name", "v9.9.9", f"is not v{re.escape(VERSION)}")],
)
def test_another_tag_than_the_version_is_not_published(addresses, tmp_path, repository, tag, message):
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    with pytest.raises(ValueError, match=message):
        addresses.main(repository, tag, tmp_path)
    assert (tmp_path / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the tree, built from a copy so that nothing is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("wm_pipelines", "custom_kernels"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    done = subprocess.run([*command, folder / "source"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    assert wheel.name == f"wm_pipelines-{VERSION}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {
        "wm_pipelines", "custom_kernels", f"wm_pipelines-{VERSION}.dist-info",
    }  # fmt: skip
    for package in ("wm_pipelines", "custom_kernels"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*") if path.is_file()}
        files = {name for name in files if "__pycache__" not in name}
        assert {name for name in names if name.startswith(f"{package}/")} == files


@pytest.mark.slow
def test_the_wheel_works_outside_the_repository(wheel, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--quiet", "--target"]
    done = subprocess.run([*command, tmp_path / "site", wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}

    def python(*words):
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, cwd=tmp_path / "elsewhere", env=environment
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    code = (
        "from wm_pipelines import AutoWMPipeline, WMConfig, embedded\n"
        "from wm_pipelines.hub import embedded_names\n"
        "import json, wm_pipelines\n"
        "records = {name: WMConfig.load(embedded(name)) for name in embedded_names()}\n"
        "made = {n: type(AutoWMPipeline.from_pretrained(n)).__name__ for n, r in records.items() if r.pipeline}\n"
        "print(json.dumps([wm_pipelines.__file__, {n: r.pipeline for n, r in records.items() if r.pipeline}, made]))\n"
    )
    where, wanted, made = json.loads(python("-c", code).splitlines()[-1])
    assert Path(where).is_relative_to(tmp_path / "site")
    assert made == wanted and len(made) >= 6
    assert "Usage:" in python("-m", "wm_pipelines.cli", "demo", "--help")
    names = [line.split(":")[0] for line in python("-m", "wm_pipelines.cli", "list").splitlines()]
    assert names == sorted(path.name for path in (ROOT / "wm_pipelines" / "embedded").iterdir())
    report = json.loads(python("-m", "wm_pipelines.cli", "doctor", "--json"))
    assert report["package"] == VERSION and set(report["embedded"].values()) == {"ok"}
    assert list((tmp_path / "elsewhere").iterdir()) == []
