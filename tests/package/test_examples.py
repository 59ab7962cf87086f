"""The example of every public class and function runs as it stands in its docstring.

What an example calls its own (a photo, a folder that `wm train` made, a checkpoint of the Hub, a data set) is put
under that name into the folder where it runs: real classes at the smallest size.
"""

import doctest
import importlib.util
import inspect
import json
import re
import runpy
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import wm_pipelines
from wm_pipelines import DynamicsModelPipeline, WorldModelPipeline
from wm_pipelines.config import WMConfig
from wm_pipelines.media.video import write_video

TESTS = Path(__file__).parents[1]
SLOW = {"MojitoPipeline"}  # a guided clip of sixteen frames
CODE = re.compile(r"```py\n(.*?)```", re.DOTALL)


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photo():
    pixels = np.full((80, 100, 3), 200, np.uint8)
    pixels[20:60, 10:40] = (200, 30, 30)
    Image.fromarray(pixels).save("photo.png")


def trained():
    """What `wm train dynamics` and `wm train world-model` make, with random weights."""
    token_models = module_of(TESTS / "wm_pipelines" / "dynamics" / "token_models.py")
    for folder, kind, method in (
        ("my-dynamics", DynamicsModelPipeline, "dynamics"),
        ("my-world-model", WorldModelPipeline, "world-model"),
    ):
        parts = token_models.make_parts("plain", context=1024)
        pipe = kind(**parts | {"layout": parts["layout"].model_copy(update={"size": (64, 64)})})
        pipe.wm_config = WMConfig(method=method, method_config={"tuning": "full"})
        pipe.save_pretrained(folder)


def vilt(tiny_vilt):
    for part in tiny_vilt.values():
        part.save_pretrained("dandelin/vilt-b32-finetuned-vqa")


def clip(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video([np.full((32, 32, 3), 20 * t, np.uint8) for t in range(8)], path)


def vlm4d():
    for subset, place in (("real", "videos_real/davis"), ("synthetic", "videos_synthetic")):
        clip(Path("VLM4D", place, "a.mp4"))
        choices = {"A": "left", "B": "right", "C": "up", "D": "no motion"}
        record = {"id": "validation_1", "video": f"https://hub/resolve/main/{place}/a.mp4", "answer": "right",
                  "question_type": "multiple-choice", "question": "Which way?", "choices": choices}  # fmt: skip
        Path("VLM4D", "QA").mkdir(exist_ok=True)
        Path("VLM4D", "QA", f"{subset}_mc.json").write_text(json.dumps([record]))


def mmworld():
    clip(Path("videos", "v.mp4"))
    question = {"type": "Explanation", "question": "What happens?", "question_only": False,
                "options": {"a": "this", "b": "that"}, "answer": "this", "correct_answer_label": "a",
                "requires_domain_knowledge": False, "requires_audio": False, "requires_visual": True}  # fmt: skip
    video = {"video_id": "v", "video_url": "https://y/x", "discipline": "Game", "subdiscipline": "s", "captions": [],
             "questions": [question]}  # fmt: skip
    Path("mmworld.json").write_text(json.dumps([video]))


@pytest.fixture
def place(tmp_path, monkeypatch, request):
    """`place(name)`: an empty working folder with what the example of that name needs, and no way to the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def make(name):
        if name == "FlexEControlPipeline":
            photo()
        elif name in ("DynamicsModelPipeline", "WorldModelPipeline"):
            trained()
        elif name == "GraphTransformerPipeline":
            vilt(request.getfixturevalue("tiny_vilt"))
        elif name in ("VLM4DPipeline", "MMWorldPipeline"):
            model = {"VLM4DPipeline": "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
                     "MMWorldPipeline": "Qwen/Qwen2.5-VL-3B-Instruct"}[name]  # fmt: skip
            shutil.copytree(request.getfixturevalue("tiny_vlm"), model)
            {"VLM4DPipeline": vlm4d, "MMWorldPipeline": mmworld}[name]()

    return make


@pytest.mark.filterwarnings("ignore:no box for:UserWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in wm_pipelines.__all__]
)
def test_the_example_runs(name, place, capsys):
    doc = inspect.cleandoc(getattr(wm_pipelines, name).__doc__)
    assert "\nExample:\n" in doc, f"{name} has no example"
    example = doc.partition("\nExample:\n")[2]
    place(name)
    codes = CODE.findall(example)
    for code in codes:
        Path("example.py").write_text(textwrap.dedent(code))
        runpy.run_path("example.py")
    names = {known: getattr(wm_pipelines, known) for known in wm_pipelines.__all__} | {"torch": torch}
    test = doctest.DocTestParser().get_doctest("" if codes else example, names, name, None, 0)
    assert codes or test.examples, f"the example of {name} is neither"
    said = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert result.failed == 0, "".join(said)
