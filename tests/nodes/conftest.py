"""Shared by the node tests: the pack as a package, the files made from a real ComfyUI, and the workflows."""

import json
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if item.get_closest_marker("comfyui") and not os.environ.get("COMFYUI_PATH"):
        pytest.skip("COMFYUI_PATH is not set: no ComfyUI to run the nodes in")


def _load(name, path, folder=None):
    spec = spec_from_file_location(name, path, submodule_search_locations=[str(folder)] if folder else None)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def repo():
    return ROOT


@pytest.fixture(scope="session")
def wm_nodes():
    """Our `nodes` package under another name, as ComfyUI loads it; its node modules need ComfyUI, the rest doesn't."""
    return _load("wm_nodes_under_test", ROOT / "nodes" / "__init__.py", ROOT / "nodes")


@pytest.fixture(scope="session")
def contract():
    """The script `comfy_contract.py` as a module."""
    return _load("wm_comfy_contract", ROOT / "tests" / "nodes" / "comfy_contract.py")


@pytest.fixture(scope="session")
def snapshot(contract):
    """Node id -> schema, as the ComfyUI that the snapshot was taken with describes it."""
    return json.loads(contract.SNAPSHOT.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def workflows():
    """Name -> (workflow as the front end saves it, its twin as the API takes it)."""
    pairs = {}
    for path in sorted((ROOT / "example_workflows").glob("*.json")):
        twin = ROOT / "tests" / "nodes" / "workflows" / path.name
        pairs[path.stem] = tuple(json.loads(p.read_text(encoding="utf-8")) for p in (path, twin))
    return pairs
