"""World and dynamics models in a real ComfyUI: the examples, other people's pictures ranked, what is refused.

Runs in each ComfyUI that COMFYUI_PATH names; see `comfy_homes.py`.
"""

import copy
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui

HERE = Path(__file__).parent


def _module(name, path):
    spec = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def comfy(comfyui, tmp_path_factory):
    """A ComfyUI with an untrained world model and an untrained dynamics model of the same codes in its models."""
    from wm_pipelines import DynamicsModelPipeline, WMConfig, WorldModelPipeline

    parts = _module("wm_token_models", HERE.parent / "wm_pipelines" / "dynamics" / "token_models.py")
    base = tmp_path_factory.mktemp("comfyui")
    for method, kind in (("world-model", WorldModelPipeline), ("dynamics", DynamicsModelPipeline)):
        pipe = kind(**parts.make_parts("plain"))
        pipe.wm_config = WMConfig(method=method, pipeline=kind.__name__, method_config={"tuning": "full"})
        pipe.save_pretrained(base / "models" / "wm_pipelines" / f"tiny-{method}")
    server = _module("wm_comfy_server", HERE / "comfy_server.py").Comfy(base, comfyui)
    yield server
    server.close()


@pytest.fixture
def example(workflows):
    """An example in API form, with the small checkpoints and pictures of their size."""

    def make(name):
        prompt = copy.deepcopy(workflows[name][1])
        for node in prompt.values():
            if node["class_type"] == "WM_LoadPipeline":
                node["inputs"]["model"] = node["inputs"]["model"].replace("embedded/", "tiny-")
            if node["class_type"] == "WM_DioramaScene":
                node["inputs"]["size"] = 16
            if node["class_type"] == "EmptyImage":
                node["inputs"].update({"width": 16, "height": 16})
        return prompt

    return make


def only(prompt, kind):
    return next(key for key, node in prompt.items() if node["class_type"] == kind)


def texts(entry, prompt):
    return [entry["outputs"][key]["text"][0] for key, node in prompt.items() if node["class_type"] == "PreviewAny"]


def failure(entry):
    assert entry["status"]["status_str"] == "error"
    return next(data for kind, data in entry["status"]["messages"] if kind == "execution_error")


def succeeded(comfy, entry):
    assert entry["status"]["status_str"] == "success", (entry["status"], comfy.tail())
    return entry


def test_candidates_are_drawn_ranked_verified_and_described(comfy, example):
    prompt = example("wm_world_model")
    entry = succeeded(comfy, comfy.run(prompt))
    pictures = [entry["outputs"][k]["images"] for k, node in prompt.items() if node["class_type"] == "PreviewImage"]
    assert [len(some) for some in pictures] == [4, 4]
    assert all(len(comfy.picture(picture)) > 50 for some in pictures for picture in some)
    scores, said, steps = texts(entry, prompt)
    lines = scores.splitlines()
    assert len(lines) == 5 and lines[-1] in ("accepted", "not accepted: no candidate passes")
    form = re.compile(r"\d: candidate \d, score -?\d+\.\d{3}, margin over the copy [+-]")
    assert all(form.match(line) for line in lines[:4])
    assert sorted(line.split("candidate ")[1][0] for line in lines[:4]) == ["1", "2", "3", "4"]
    assert isinstance(said, str) and steps.startswith("move the red cube to the left: ")
    assert texts(succeeded(comfy, comfy.run(example("wm_world_model"))), prompt) == [scores, said, steps]


def test_three_actions_follow_one_another(comfy, example):
    prompt = example("wm_act_three_times")
    entry = succeeded(comfy, comfy.run(prompt))
    pictures = [entry["outputs"][k]["images"] for k, node in prompt.items() if node["class_type"] == "SaveImage"]
    assert [len(some) for some in pictures] == [3]
    steps, there = texts(entry, prompt)
    assert there == "a small red cube to the left of a small plain shiny green cylinder"
    verdicts = ("accepted", "no candidate passes")
    actions = prompt[only(prompt, "WM_WorldRollout")]["inputs"]["actions"].splitlines()
    for action, line in zip(actions, steps.splitlines(), strict=True):
        said, verdict = line.rsplit(": ", 1)
        assert said == action and verdict in verdicts


def test_an_edit_is_scored(comfy, example):
    """Half of the way from a grey picture to a red one, then all of it, then none."""
    found = {}
    for name, colour in (("part", 13369344), ("whole", 14483456), ("none", 7763060)):
        prompt = example("wm_edit_score")
        prompt["2"]["inputs"]["color"] = colour
        entry = succeeded(comfy, comfy.run(prompt))
        found[name] = [float(text) for text in texts(entry, prompt)]
        table, source = (entry["outputs"][key]["images"] for key in ("5", "6"))
        assert len(table) == len(source) == 1 and len(comfy.picture(table[0])) > 1000
    assert found["whole"] == [1.0, 1.0] and found["none"][0] == 0.0
    assert found["none"][0] < found["part"][0] <= found["whole"][0]


@pytest.mark.parametrize(
    ("name", "kind", "inputs", "message"),
    [
        ("wm_world_model", "WM_WorldStep", {"action": " "}, "`action` is empty"),
        ("wm_world_model", "WM_WorldStep", {"verifier": ["1", 0]}, "load a dynamics model"),
        ("wm_world_model", "WM_VerifyEdit", {"pipeline": ["1", 0]}, "load a dynamics model"),
        ("wm_world_model", "WM_InferAction", {"target": ["13", 0]}, "have different sizes (16x16, 24x16)"),
        ("wm_edit_score", "WM_EditScore", {"edited": ["13", 0]}, "24x16"),
        ("wm_edit_score", "WM_EditScore", {"truth": ["1", 0]}, "truth is the source itself"),
    ],
)
def test_bad_input_is_one_clear_error_at_its_node(comfy, example, name, kind, inputs, message):
    prompt = example(name)
    prompt["13"] = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 24, "batch_size": 1, "color": 0}}
    prompt[only(prompt, kind)]["inputs"].update(inputs)
    error = failure(comfy.run(prompt))
    assert error["node_id"] == only(prompt, kind) and message in error["exception_message"], error["exception_message"]
