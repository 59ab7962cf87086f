"""Shards: the rows of one process byte for byte, under Ray and after a worker was killed."""

import os
from pathlib import Path

import pytest

from wm_pipelines.evaluation.mcq import scaling
from wm_pipelines.evaluation.mcq.loading import Call, model_call, named_function
from wm_pipelines.evaluation.mcq.models import FunctionModel
from wm_pipelines.evaluation.mcq.rows import read_rows
from wm_pipelines.evaluation.mcq.runner import evaluate
from wm_pipelines.evaluation.mcq.scaling import evaluate_in_shards

pytestmark = pytest.mark.slow

CONTROLS = ("shuffle", "circular")
NAME = "shards_model"
ITEMS = Call(f"{NAME}.items", {"count": 5})
MODEL = """
import hashlib, os, signal
from functools import partial
from pathlib import Path

import numpy as np

from wm_pipelines.evaluation.mcq.items import Item

def clip(seed):
    return np.random.default_rng(seed).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)

def items(count):
    options = {"A": "left", "B": "right", "C": "up"}
    asked = (("own", "s", str(n), f"Which way ({n})?", options, "ABC"[n % 3]) for n in range(count))
    return [Item(*given, video=partial(clip, n)) for n, given in enumerate(asked)]

def letter(frames, prompt, options):
    return list(options)[hashlib.sha256(prompt.encode() + frames.tobytes()).digest()[0] % len(options)]

def dies_once(frames, prompt, options):
    mark = Path(os.environ["WM_TEST_MARK"])
    with open(mark, "a") as file:
        file.write("x")
    if mark.stat().st_size == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return letter(frames, prompt, options)
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """A module of the user's own beside the run, with functions as models."""
    (tmp_path / f"{NAME}.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WM_TEST_MARK", str(tmp_path / "mark"))
    root = str(Path(scaling.__file__).parents[3])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


@pytest.fixture
def expected(functions):
    made = model_call(f"python:{NAME}.letter")
    found = evaluate(ITEMS(), made(), out=functions / "one", controls=CONTROLS)
    return (functions / "one" / "rows.jsonl").read_bytes(), found.report


@pytest.mark.parametrize(("executor", "workers"), [("here", 1), ("ray", 2)])
def test_workers_give_the_bytes_of_one_process(functions, expected, monkeypatch, executor, workers):
    if executor == "ray":
        pytest.importorskip("ray.data")
    monkeypatch.setattr(scaling, "SHARD", 2)
    done = []
    found = evaluate_in_shards(ITEMS, model_call(f"python:{NAME}.letter"), out=functions / executor, executor=executor,
                               workers=workers, controls=CONTROLS, on_shard=lambda *n: done.append(n))  # fmt: skip
    data, report = expected
    assert (functions / executor / "rows.jsonl").read_bytes() == data and done[-1] == (3, 3)
    assert found.report == report and (functions / executor / "index.html").is_file()
    again = evaluate_in_shards(ITEMS, model_call(f"python:{NAME}.letter"), out=functions / executor, controls=CONTROLS,
                               executor="here")  # fmt: skip
    assert again.rows == found.rows


def test_a_killed_worker_loses_nothing(functions, expected, monkeypatch):
    monkeypatch.setattr(scaling, "SHARD", 1)
    found = evaluate_in_shards(ITEMS, model_call(f"python:{NAME}.dies_once"), out=functions / "killed",
                               executor="processes", workers=2, controls=CONTROLS)  # fmt: skip
    assert (functions / "mark").stat().st_size > len(found.rows)  # what died in hand was asked again
    rows = [row.to_dict() | {"model": "", "key": ""} for row in read_rows(functions / "killed" / "rows.jsonl")]
    whole = [row.to_dict() | {"model": "", "key": ""} for row in read_rows(functions / "one" / "rows.jsonl")]
    assert rows == whole


def test_bad_videos_in_shards(toy, functions, monkeypatch):
    (functions / "broken.mp4").write_bytes(b"nothing")
    made = {"items": lambda: items, "model": lambda: FunctionModel(toy.says_a)}
    monkeypatch.setattr(Call, "__call__", lambda self: made[self.function]())
    items = [toy.item_of(0), toy.item_of(1, video=functions / "broken.mp4")]
    with pytest.raises(ValueError, match=r"toy/square/1: .*broken.mp4.*`on_missing='skip'`"):
        evaluate_in_shards(Call("items"), Call("model"), out=functions / "a", executor="here", controls=())
    found = evaluate_in_shards(Call("items"), Call("model"), out=functions / "b", executor="here", controls=(),
                               on_missing="skip")  # fmt: skip
    assert list(found.report["skipped"]) == ["toy/square/1"] and len(found.rows) == 1
    with pytest.raises(ValueError, match="`timings`"):
        evaluate_in_shards(Call("items"), Call("model"), out=functions / "c", timings=True)


def test_models_by_name(functions):
    assert named_function(f"{NAME}.letter").name == f"{NAME}.letter"
    for wrong in (f"{NAME}.nothing", "no_such_module.f", "word"):
        with pytest.raises(ValueError, match="can't be imported"):
            named_function(wrong)
    endpoint = model_call("m", endpoint="http://localhost:1/v1", layout="grid")()
    assert endpoint.name == "m at http://localhost:1/v1, grid"
    with pytest.raises(ValueError, match="`endpoint`"):
        model_call("m", endpoint="http://localhost:1/v1", dtype="float32")
    with pytest.raises(ValueError, match="with a function"):
        model_call("python:a.b", layout="grid")
