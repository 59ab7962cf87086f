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


_homes = _load("wm_comfy_homes", Path(__file__).parent / "comfy_homes.py")
HOMES = _homes.homes(os.environ)


@pytest.fixture(scope="module", params=HOMES or [None], ids=lambda home: home.path.name if home else "none")
def comfyui(request):
    """Each ComfyUI that the environment names, one after the other."""
    if request.param is None:
        pytest.skip(_homes.NONE)
    return request.param


def _stage_id(stage):
    home, frontend = stage or (None, None)
    return f"{home.path.name}-{frontend.name if frontend else 'own'}" if home else "none"


@pytest.fixture(scope="module", params=_homes.stages(os.environ) or [None], ids=_stage_id)
def stage(request, browsing):
    """Each ComfyUI with each front end to open in a browser: `(home, folder or None)`."""
    if request.param is None:
        pytest.skip(_homes.NONE)
    reason = browsing.missing()
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.fixture(scope="session")
def browsing():
    """The module `comfy_browser.py`."""
    return _load("wm_comfy_browser", Path(__file__).parent / "comfy_browser.py")


@pytest.fixture(scope="session")
def server_module():
    """The module `comfy_server.py`."""
    return _load("wm_comfy_server", Path(__file__).parent / "comfy_server.py")


@pytest.fixture(scope="session")
def tiny_videos():
    """The makers of small bases that Mojito's own tests use, name -> (function, size of its clips)."""
    return _load("wm_tiny_videos", ROOT / "tests" / "wm_pipelines" / "mojito" / "conftest.py").BASES


@pytest.fixture(scope="session")
def homes():
    """The function of `comfy_homes.py`."""
    return _homes.homes


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
