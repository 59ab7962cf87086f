"""A node is there because its file is there: files put into a copy of the pack, without ComfyUI and in a real one."""

import logging
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest

MADE_UP = """
class WM_MadeUp:
    node_id="WM_MadeUp"

NODES = (WM_MadeUp,)
"""
REAL = """
from comfy_api.latest import io
from ._shared.types import CATEGORY

class WM_MadeUp(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="WM_MadeUp", display_name="WM Made Up", category=CATEGORY, description="It is.")

    @classmethod
    def execute(cls):
        return io.NodeOutput()

NODES = (WM_MadeUp,)
"""
BROKEN = """
node_id="WM_Broken"
raise RuntimeError("boom")
"""
FOLDER = """
from .._shared.loading import collect

NODES = collect(__name__, __path__)
"""


@pytest.fixture
def pack(repo, tmp_path):
    """A copy of what ComfyUI loads, to put files into; the library beside it is the real one."""
    pack = tmp_path / "wm-pipelines"
    for folder in ("nodes", "tests/nodes"):
        shutil.copytree(repo / folder, pack / folder, ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    for file in ("__init__.py", "node_list.json"):
        shutil.copy(repo / file, pack)
    for library in ("wm_pipelines", "custom_kernels"):
        (pack / library).symlink_to(repo / library, target_is_directory=True)
    return pack


@pytest.fixture
def load(pack, monkeypatch):
    """`load()`: (node classes, id -> reason of the failed ones) of the copy where no node of ours can be imported."""
    monkeypatch.setitem(sys.modules, "comfy_api", None)

    def load():
        name = str(pack).replace(".", "_x_")  # as ComfyUI does
        spec = spec_from_file_location(name, pack / "__init__.py")
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return sys.modules[f"{name}.nodes"].load_nodes(), sys.modules[f"{name}.nodes._shared.loading"].FAILED

    return load


def test_a_module_or_folder_of_nodes_is_found_with_no_other_file_touched(pack, load, snapshot):
    (pack / "nodes" / "made_up.py").write_text(MADE_UP)
    (pack / "nodes" / "method" / "_inner").mkdir(parents=True)
    (pack / "nodes" / "method" / "__init__.py").write_text(FOLDER)
    (pack / "nodes" / "method" / "sample.py").write_text(MADE_UP.replace("MadeUp", "Sample"))
    (pack / "nodes" / "method" / "_inner" / "__init__.py").write_text(BROKEN)
    nodes, failed = load()
    assert [node.__name__ for node in nodes] == ["WM_MadeUp", "WM_Sample"]
    # Those that need ComfyUI, one by one by their ids, and nothing that begins with _.
    assert set(failed) == set(snapshot) and all("comfy_api" in reason for reason in failed.values())


def test_nodes_come_in_the_order_of_the_list_and_new_ones_last(pack, load):
    for name in "ABC":
        (pack / "nodes" / f"made_up_{name}.py").write_text(MADE_UP.replace("MadeUp", name))
    (pack / "node_list.json").write_text('{"WM_C": "", "WM_Gone": "", "WM_B": ""}')
    assert [node.__name__ for node in load()[0]] == ["WM_C", "WM_B", "WM_A"]


@pytest.mark.parametrize(
    ("text", "node_id", "reason"),
    [
        (BROKEN, "WM_Broken", "RuntimeError: boom"),
        (BROKEN + ")", "WM_Broken", "SyntaxError: unmatched ')' (broken.py, line 4)"),
        ("", "mojito.broken", "has no attribute 'NODES'"),
        ("NODES = None", "broken", "TypeError: 'NoneType' object is not iterable"),
    ],
    ids=["raises", "is no Python", "declares nothing", "declares no list"],
)
def test_a_module_that_fails_is_named_with_the_reason_and_the_rest_stays(pack, load, caplog, text, node_id, reason):
    (pack / "nodes" / "made_up.py").write_text(MADE_UP)
    for folder in (pack / "nodes", pack / "nodes" / "mojito"):
        (folder / "broken.py").write_text(text)
    with caplog.at_level(logging.ERROR):
        nodes, failed = load()
    assert [node.__name__ for node in nodes] == ["WM_MadeUp"]
    assert reason in failed[node_id] and "WM_MojitoApply" in failed and "WM_MojitoSample" in failed
    assert f"{node_id}: not available" in caplog.text


@pytest.mark.comfyui
def test_in_comfyui_a_new_file_is_a_node_and_the_doctor_names_a_broken_one(comfyui, pack, snapshot):
    (pack / "nodes" / "made_up.py").write_text(REAL)
    (pack / "nodes" / "mojito" / "broken.py").write_text(BROKEN)
    script = """
import json, sys
sys.path.insert(0, "tests/nodes")
from comfy_start import start
answer = start()
import comfy_contract
found = comfy_contract.describe()
nodes = sys.modules["custom_nodes_x_wm.nodes"].load_nodes()
doctor = next(node for node in nodes if node.__name__ == "WM_Doctor")
answer.write(json.dumps([found, doctor.execute(False).args[0]]))
answer.close()
"""
    found, report = comfyui.answer("-c", script, cwd=pack)
    assert list(found["nodes"]) == [*snapshot, "WM_MadeUp"]
    assert found["is_ours"] and found["failed"] == {"WM_Broken": "RuntimeError: boom"}
    assert found["nodes"]["WM_MadeUp"]["display_name"] == "WM Made Up"
    assert "PROBLEM node WM_Broken: RuntimeError: boom" in report
    count = len(snapshot) + 1
    assert f"nodes: {count} of {count + 1} available" in report
