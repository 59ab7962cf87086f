"""What ComfyUI, its Manager and its front end rely on, checked without ComfyUI on the files made from a real one.

`test_nodes_comfyui.py` compares those files with a live ComfyUI.
"""

import ast
import copy
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

NODES = Path(__file__).parents[2] / "nodes"
IDS = list(json.loads((Path(__file__).parent / "schema_snapshot.json").read_text(encoding="utf-8")))


def inputs_of(info):
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def declared(path):
    """Names in the `NODES` of a module of nodes, and class name -> `node_id` of the nodes that it defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (names,) = [s.value for s in tree.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == "NODES"]
    found = {}
    for defined in (statement for statement in tree.body if isinstance(statement, ast.ClassDef)):
        for given in (node for node in ast.walk(defined) if isinstance(node, ast.keyword) and node.arg == "node_id"):
            found[defined.name] = ast.literal_eval(given.value)
    return [name.id for name in names.elts], found


def test_the_modules_declare_the_nodes_of_the_snapshot_each_by_its_id():
    ids = []
    for path in sorted(NODES.rglob("*.py")):
        if not any(part.startswith("_") for part in path.relative_to(NODES).parts):
            names, found = declared(path)
            assert names == list(found) == list(found.values()), path
            ids += names
    assert sorted(ids) == sorted(IDS)


def test_every_input_and_output_has_a_tooltip(snapshot):
    for node_id, info in snapshot.items():
        assert info["description"].endswith("."), node_id
        for name, (_, options) in inputs_of(info).items():
            assert len(options.get("tooltip", "")) > 15, f"{node_id}.{name}"
        assert all(info["output_tooltips"]), node_id


@pytest.mark.parametrize("node_id", IDS)
def test_help_page_names_every_input_and_output(repo, snapshot, node_id):
    page = (repo / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {snapshot[node_id]['display_name']}\n")
    bold = set(re.findall(r"\*\*([^*]+)\*\*", page))
    if node_id == "WM_StackConditions":
        bold |= {f"conditions_{index}" for index in range(2, 6)}  # the page says "conditions_1 to conditions_6"
    missing = {*inputs_of(snapshot[node_id]), *snapshot[node_id]["output_name"]} - bold
    assert not missing


def test_the_table_of_nodes_is_that_of_the_nodes(repo, snapshot):
    done = subprocess.run(
        [sys.executable, repo / "tests" / "nodes" / "comfy_table.py"], capture_output=True, text=True
    )
    kept = (repo / "docs" / "comfyui" / "nodes.md").read_text(encoding="utf-8")
    assert done.stdout == kept, "run python tests/nodes/comfy_table.py --write"
    rows = [line.split(" | ") for line in kept.splitlines() if line.startswith("| [")]
    assert len(rows) == len(snapshot)
    for name, tooltips, _, alias, *_ in rows:
        assert len(set(tooltips.split(" of "))) == 1 and alias, name


def test_no_help_page_without_a_node(repo):
    assert {path.stem for path in (repo / "web" / "docs").iterdir()} == set(IDS)


def test_list_for_the_manager_and_english_texts_follow_the_schemas(repo, contract, snapshot):
    listed = json.loads((repo / "node_list.json").read_text(encoding="utf-8"))
    assert listed == {node_id: info["description"] for node_id, info in snapshot.items()}
    assert list(listed) == list(snapshot)  # in which order the menus show them
    texts = json.loads((repo / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert texts == contract.locale_of(snapshot)
    main = json.loads((repo / "locales" / "en" / "main.json").read_text(encoding="utf-8"))
    assert {part for info in snapshot.values() for part in info["category"].split("/")} == set(main["nodeCategories"])


def test_choices_are_those_of_the_library(snapshot):
    from wm_pipelines.flexecontrol.conditions.resizing import FITS
    from wm_pipelines.media.conditions import TYPES
    from wm_pipelines.mojito.trajectories import EASINGS
    from wm_pipelines.mojito.trajectories.editing import ABOUT
    from wm_pipelines.mojito.trajectories.formats.boxes import BOX_ORDERS
    from wm_pipelines.mojito.trajectories.reading import FORMATS

    def choices(node_id, name):
        return inputs_of(snapshot[node_id])[name][1]["options"]

    assert choices("WM_Condition", "type") == list(TYPES)
    assert choices("WM_Condition", "fit") == list(FITS)
    assert set(choices("WM_ExtractCondition", "type")) < set(TYPES)
    # TRACKS come through a socket and ATI's files are no text.
    assert set(choices("WM_Trajectory", "format")) == set(FORMATS) - {"tracks", "ati"}
    assert choices("WM_TrajectoryFromTracks", "box_format") == ["named", *BOX_ORDERS]
    assert choices("WM_TrajectoryEdit", "easing") == list(EASINGS)
    assert choices("WM_TrajectoryEdit", "about") == list(ABOUT)


@pytest.mark.parametrize(
    "change",
    ["order", "lost input", "lost choice", "lost output", "lost node", "kind", "now required", "new required"],
)
def test_a_change_that_breaks_saved_workflows_is_found(contract, snapshot, change):
    new = copy.deepcopy(snapshot)
    condition = new["WM_Condition"]
    if change == "order":
        condition["input_order"]["required"].reverse()
    elif change == "lost input":
        del condition["input"]["required"]["strength"]
    elif change == "lost choice":
        condition["input"]["required"]["fit"][1]["options"].remove("crop")
    elif change == "lost output":
        condition["output"] = []
    elif change == "lost node":
        del new["WM_Doctor"]
    elif change == "now required":
        condition["input_order"]["required"].append(condition["input_order"]["optional"].pop(0))
    elif change == "new required":
        condition["input_order"]["required"].append("later")
    else:
        condition["input"]["required"]["strength"][0] = "INT"
    assert contract.breaking_changes(snapshot, new)


def test_appending_an_input_breaks_nothing(contract, snapshot):
    new = copy.deepcopy(snapshot)
    new["WM_Condition"]["input"]["optional"]["later"] = ["INT", {"default": 0}]
    new["WM_Condition"]["input_order"]["optional"].append("later")
    assert contract.breaking_changes(snapshot, new) == []


def test_what_was_required_may_become_optional_in_its_place(contract, snapshot):
    new = copy.deepcopy(snapshot)
    order, inputs = new["WM_Condition"]["input_order"], new["WM_Condition"]["input"]
    last = order["required"].pop()
    order["optional"].insert(0, last)
    inputs["optional"] = {last: inputs["required"].pop(last), **inputs["optional"]}
    assert contract.breaking_changes(snapshot, new) == []
    order["optional"].append(order["optional"].pop(0))  # at another place, its saved value would be another's
    assert contract.breaking_changes(snapshot, new)


def test_a_newer_core_may_say_more_but_nothing_else(contract, snapshot):
    live = copy.deepcopy(snapshot)
    condition = live["WM_Condition"]
    condition["search_aliases"] = ["controlnet"]
    condition["input"]["required"]["strength"][1]["advanced"] = False
    assert contract.differences(snapshot, live) == []
    condition["input"]["required"]["strength"][1]["max"] = 3.0
    del condition["description"]
    live["WM_Doctor"]["output"].append("IMAGE")
    found = contract.differences(snapshot, live)
    assert [line.split(" ")[0] for line in found] == [
        ".WM_Condition.description", ".WM_Condition.input.required.strength[1].max", ".WM_Doctor.output",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "pythons", "found"),
    [
        ("", "", []),
        ("/a", "/p", [("/a", "/p")]),
        ("/a:/b", "/p", [("/a", "/p"), ("/b", "/p")]),
        ("/a:/b", "/p:/q", [("/a", "/p"), ("/b", "/q")]),
        ("/a:/b", "", [("/a", sys.executable), ("/b", sys.executable)]),
        ("/a:/b:/c", "/p:/q", "2 Pythons for 3 folders"),
    ],
)
def test_several_comfyuis_are_named_by_one_variable(homes, paths, pythons, found):
    environment = {"COMFYUI_PATH": paths, "COMFYUI_PYTHON": pythons}
    if isinstance(found, str):
        with pytest.raises(ValueError, match=found):
            homes(environment)
    else:
        assert [(str(home.path), home.python) for home in homes(environment)] == found


def test_a_script_answers_in_json_whatever_else_is_printed(homes, tmp_path):
    """Log lines before and after, from Python and from below it."""
    for name, text in (("comfy/cli_args.py", "args = type('Args', (), {})()\nprint('from the core')"),
                       ("comfy_api/latest.py", "")):  # fmt: skip
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    script = """
import atexit, os, sys
sys.path.insert(0, sys.argv[1])
atexit.register(print, "later")
from comfy_start import start
with start() as answer:
    os.write(1, b"from below")
    answer.write('{"found": 1}')
"""
    (home,) = homes({"COMFYUI_PATH": str(tmp_path), "COMFYUI_PYTHON": sys.executable})
    assert home.answer("-c", script, Path(__file__).parent) == {"found": 1}


def test_nodes_import_nothing_heavy_and_move_nothing_themselves(repo):
    """Only ComfyUI's memory manager moves weights; no node runs code, shells out or opens the network."""
    paths = sorted((repo / "nodes").rglob("*.py"))
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") < 250, path
        tree = ast.parse(text)
        for statement in tree.body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) and not statement.level else []
            heavy = {"diffusers", "transformers", "peft", "cv2", "kornia", "wm_pipelines"}
            assert not heavy & {name.split(".")[0] for name in names}, path
        called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {func.id for func in called if isinstance(func, ast.Name)}
        attributes = {func.attr for func in called if isinstance(func, ast.Attribute)}
        assert not names & {"eval", "exec", "compile", "open", "__import__"}, path
        assert not attributes & {"cuda", "to", "system", "popen", "urlopen", "run"}, path
        assert not {name for name in attributes if name.startswith("enable_")}, path
        assert "inference_mode" not in attributes or path.name == "guards.py", path
    assert len(paths) >= 8


def test_no_call_passes_more_than_four_arguments_by_position():
    """Lists of values without names get mixed up when one is added."""
    long = [
        f"{path.relative_to(NODES)}:{call.lineno} {ast.unparse(call)}"
        for path in sorted(NODES.rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and len(call.args) > 4
    ]
    assert not long


def test_advice_that_no_node_can_follow_is_reworded(wm_nodes):
    from importlib import import_module

    from wm_pipelines.media.boxes import inside_crop, read_boxes
    from wm_pipelines.mojito.trajectories.objects import MotionObject

    reworded = import_module(f"{wm_nodes.__name__}._shared.wording").reworded
    for call, words in (
        (lambda: read_boxes({"cube": [[0, 0, 0.5, 1]]}, (64, 64)), "here boxes are in pixels of the picture"),
        (lambda: inside_crop((60, 0, 64, 9), (32, 64)), "that fit='crop' keeps; crop the picture to a square"),
        (lambda: MotionObject("a", [(0, 0, 1, 1)] * 16).frame_boxes(3), "set num_frames to their number"),
    ):
        with pytest.raises(ValueError) as refused:
            call()
        said = reworded(str(refused.value))
        assert words in said and "pass " not in said
    assert reworded("phrase 'a' occurs 2 times; pass span=(start,end)").endswith("pass span=(start,end)")


def test_requirements_are_ours_and_leave_torch_alone(repo):
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (repo / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert set(wanted) <= set(project["dependencies"])
    assert not [line for line in wanted if re.match(r"torch|triton|nvidia", line)]


def test_entry_is_short_and_inert_outside_comfyui(repo):
    text = (repo / "__init__.py").read_text(encoding="utf-8")
    assert text.count("\n") < 30
    names = {"__package__": "", "__name__": "__init__"}
    exec(compile(text, "__init__.py", "exec"), names)
    assert "comfy_entrypoint" not in names


def test_entry_makes_the_library_importable_without_touching_the_path(repo):
    """In a Python with no site-packages, so that the library can only come from beside the entry."""
    script = f"""
import sys
from importlib.util import module_from_spec, spec_from_file_location
before = list(sys.path)
spec = spec_from_file_location("custom_nodes_x_wm", {str(repo / "__init__.py")!r})
module = module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
import wm_pipelines
assert wm_pipelines.__file__ == {str(repo / "wm_pipelines" / "__init__.py")!r}, wm_pipelines.__file__
assert sys.path == before
assert "nodes" not in sys.modules
assert callable(module.comfy_entrypoint) and module.WEB_DIRECTORY == "./web"
assert not {{"torch", "diffusers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_installed_version_is_named(wm_nodes, monkeypatch):
    import wm_pipelines

    assert wm_nodes.version_mismatch() is None
    monkeypatch.setattr(wm_pipelines, "__version__", "0.0.1")
    assert "0.0.1" in wm_nodes.version_mismatch()
