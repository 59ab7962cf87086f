"""The extras: what they bring can be imported, all of it is developed with, and what is said where it is missing."""

import re
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MODULES = {"mujoco-core": "mujoco", "fourdgs": "fourdgs", "zstandard": "zstandard", "ray": "ray.data",
           "pyarrow": "pyarrow.parquet"}  # fmt: skip
OURS = {"dev", "browser"}  # the second for node tests that are skipped where there is no ComfyUI either
USERS = [(extra, Requirement(line)) for extra, lines in EXTRAS.items() if extra not in OURS for line in lines]


@pytest.mark.parametrize(("extra", "need"), USERS, ids=lambda value: str(value))
def test_what_an_extra_brings_can_be_imported(extra, need):
    assert need.specifier.contains(version(need.name), prereleases=True)
    import_module(MODULES[need.name])


def test_who_develops_has_all_of_them():
    (own,) = (Requirement(line) for line in EXTRAS["dev"] if line.startswith("wm-pipelines["))
    assert own.extras == set(EXTRAS) - OURS


def physics(tmp_path):
    from wm_pipelines.diorama.physics_sheet import write_physics_sheet

    write_physics_sheet(tmp_path, seed=0, size=16, family="topple")


def four_dgs(tmp_path):
    from wm_pipelines.morpho4d.formats.container import read_4dgs

    (tmp_path / "a.4dgs").write_bytes(b"x" * 64)
    read_4dgs(tmp_path / "a.4dgs")


def spz(tmp_path):
    from wm_pipelines.morpho4d.formats.spz import unpack_zstd

    unpack_zstd(b"x", 1)


def ray(tmp_path):
    from wm_pipelines.runtime.ray import imported

    imported()


def parquet(tmp_path):
    from wm_pipelines.runtime.shards.rows import arrow_schema

    arrow_schema({"a": "int64"})


@pytest.mark.parametrize(
    ("use", "module", "extra"),
    [(physics, "mujoco", "physics"), (four_dgs, "fourdgs", "4d"), (spz, "zstandard", "4d"), (ray, "ray", "scale"),
     (parquet, "pyarrow", "scale")],
)  # fmt: skip
def test_where_one_is_missing_the_message_says_what_to_install(use, module, extra, tmp_path, monkeypatch):
    assert extra in EXTRAS
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises((ImportError, ValueError), match=re.escape(f'pip install "wm-pipelines[{extra}]"')):
        use(tmp_path)
