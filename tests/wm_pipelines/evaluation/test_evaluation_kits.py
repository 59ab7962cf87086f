"""Our tasks in others' kits: what is asked, how it is scored, twins of videos; and a run in each kit that is there."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from wm_pipelines.evaluation.kits.documents import documents, score, video_of, with_files
from wm_pipelines.evaluation.kits.lm_eval import write_blind_tasks
from wm_pipelines.evaluation.kits.lmms_eval import (
    accuracy,
    all_orders,
    doc_to_messages,
    process_circular,
    process_results,
    write_tasks,
)
from wm_pipelines.evaluation.kits.vlmevalkit import COLUMNS, write_tables
from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.logs import lmms_eval_rows, vlmevalkit_rows
from wm_pipelines.evaluation.mcq.sheets import read_sheet
from wm_pipelines.evaluation.mcq.summary import summarise
from wm_pipelines.media.video import read_video, write_video

REPOSITORY = Path(__file__).parents[3]
SIDES = {"A": "left", "B": "right", "C": "not moving"}
SWAP = {"left": "right", "right": "left", "not moving": "not moving"}

# answers by the frames: where the bright square of the last frame is against that of the first
BY_FRAMES = """\
import numpy as np

def answer(frames, prompt, options):
    lines = dict(line.split(". ")[::-1] for line in prompt.splitlines() if line[1:3] == ". ")
    if frames is None:
        return "I see nothing at all."
    first, last = (frame[..., 0].astype(float).mean(0) @ np.arange(frame.shape[1]) / frame[..., 0].mean() for frame in
                   (frames[0], frames[-1]))
    return "The answer is: " + lines["right" if last > first else "left"]
"""


def clip(right):
    frames = torch.zeros(8, 3, 32, 48, dtype=torch.uint8)
    for t in range(8):
        x = 4 * t + 4 if right else 40 - 4 * t
        frames[t, :, 12:20, x - 4 : x + 4] = 255
    return frames


@pytest.fixture
def items(tmp_path):
    found = []
    for i, right in enumerate((True, False, True)):
        path = write_video(clip(right), tmp_path / "videos" / f"{i}.mp4")
        found.append(
            Item(
                source="toy",
                subset="set",
                id=str(i),
                question="Where does it go?",
                options=SIDES,
                answer="B" if right else "A",
                video=path,
                cluster=f"v{i // 2}",
                transforms={"mirror": SWAP, "reverse": SWAP} if i else {},
            )
        )
    return found


@pytest.fixture(autouse=True)
def _videos(tmp_path):
    (tmp_path / "videos").mkdir()


def test_documents_of_each_control(items):
    assert [d["target"] for d in documents(items)] == ["B", "A", "B"]
    assert all(d["video"] == "" for d in documents(items, "blind"))
    mirrored = documents(items, "mirror")
    assert [d["uid"] for d in mirrored] == ["toy/set/1", "toy/set/2"] and [d["target"] for d in mirrored] == ["B", "A"]
    circular = documents(items, "circular")
    assert len(circular) == 9
    assert [d["target"] for d in circular[:3]] == ["B", "C", "A"]
    assert len({tuple((name, type(value)) for name, value in d.items()) for d in circular + mirrored}) == 1
    for arguments, said in ((("shuffle",), "`control`"), (("full", "loglik"), "`protocol`")):
        with pytest.raises(ValueError, match=said):
            documents(items, *arguments)


@pytest.mark.parametrize("control", ["full", "circular", "mirror", "reverse"])
def test_the_right_reply_scores_one_and_any_other_none(items, control):
    for document in documents(items, control):
        shown = json.loads(document["record"])["shown"]
        for letter, text in shown.items():
            for reply in (letter, f"Therefore, the final answer is: {letter}", f"It is {text}."):
                assert score(document, reply)["score"] == (letter == document["target"])
        assert score(document, "Who knows?")["format_failure"] == 1


def test_twins_of_videos(items, tmp_path):
    for control, axis in (("mirror", -1), ("reverse", 0)):
        document = documents(items, control)[0] | {"twins": str(tmp_path / "twins")}
        path = video_of(document)
        twin, original = read_video(path)[0].float(), read_video(items[1].video)[0].float().flip(axis)
        assert twin.shape == original.shape and (twin - original).abs().mean() < 8
        written = path.stat().st_mtime_ns
        assert video_of(document) == path and path.stat().st_mtime_ns == written
    items[1].video.unlink()
    with pytest.raises(ValueError, match="toy/set/1: .*1.mp4 not found"):
        video_of(documents(items)[1])


def test_frames_become_files(tmp_path):
    frames = clip(True).permute(0, 2, 3, 1).numpy()
    item = Item(source="s", subset="t", id="1", question="?", options=SIDES, answer="A", video=lambda: frames)
    with pytest.raises(ValueError, match="`video`"):
        documents([item])
    (made,) = with_files([item], tmp_path / "videos")
    found = read_video(made.video)[0].permute(0, 2, 3, 1).numpy().astype(float)
    assert found.shape == frames.shape and np.abs(found - frames).mean() < 8


def test_tasks_of_lmms_eval(items, tmp_path):
    names = write_tasks(tmp_path / "t", {"toy": items, "one!": items[:1]}, {"all": ["toy_direct", "nothing"]})
    assert {"toy_direct", "toy_cot", "toy_blind", "toy_circular", "toy_mirror", "toy_reverse", "one"} <= set(names)
    assert "one_mirror" not in names
    functions = []

    class Loader(yaml.SafeLoader):
        """Keeps the names of functions."""

    Loader.add_constructor("!function", lambda loader, node: functions.append(node.value))
    for name in names:
        task = yaml.load((tmp_path / "t" / f"{name}.yaml").read_text(), Loader)
        assert task["task"] == name and task["cluster_key"] == "video_id" and task["score_key"] == "score"
        assert (tmp_path / "t" / task["dataset_kwargs"]["data_files"]["test"]).is_file()
    for dotted in set(functions):
        module, _, name = dotted.rpartition(".")
        assert callable(getattr(sys.modules[module], name))
    assert yaml.safe_load((tmp_path / "t" / "all.yaml").read_text())["task"] == ["toy_direct"]


def test_what_a_task_calls(items):
    document = documents(items)[0]
    (turn,) = doc_to_messages(document)
    assert turn["content"][0] == {"type": "video", "url": str(items[0].video)}
    assert turn["content"][1]["text"].startswith("Where does it go?\nA. left\nB. right")
    assert [part["type"] for part in doc_to_messages(documents(items, "blind")[0])[0]["content"]] == ["text"]
    found = process_results(document, ["B"])
    assert found["wm_accuracy"]["score"] == 1 and found["wm_accuracy"]["video_id"] == "v0"
    orders = [process_circular(d, ["B"])["wm_all_orders"] for d in documents(items[:1], "circular")]
    assert accuracy(orders) == pytest.approx(1 / 3) and all_orders(orders) == 0


def test_samples_of_our_tasks_are_rescored(items, tmp_path):
    lines = []
    for control in ("circular", "mirror", "blind"):
        for i, document in enumerate(documents(items, control)):
            reply = document["target"] if control != "blind" else "?"
            lines.append({"doc_id": i, "filtered_resps": [reply], **process_results(document, [reply])})
    path = tmp_path / "m" / "d_samples_toy.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = summarise(lmms_eval_rows(path))
    assert report["controls"]["full"]["score"] == 1 and report["circular"]["score"] == 1
    assert report["pairs"]["mirror"]["score"] == 1 and report["controls"]["blind"]["format_failures"] == 3


def test_tables_of_vlmevalkit_and_tasks_of_lm_eval(items, tmp_path):
    assert write_tables(tmp_path / "v", {"toy": items}) == ["WM_toy"]
    rows = read_sheet(tmp_path / "v" / "WM_toy.tsv")
    assert tuple(rows[0]) == COLUMNS and [row["answer"] for row in rows] == ["B", "A", "B"]
    assert rows[0]["D"] == "" and "\n" in rows[0]["prompt"]
    assert write_blind_tasks(tmp_path / "l", {"toy": items}) == ["toy_blind"]
    task = yaml.safe_load((tmp_path / "l" / "toy_blind.yaml").read_text())
    lines = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    assert [json.loads(line)["gold"] for line in lines] == [1, 0, 1]


def test_the_entry_point_names_our_class():
    from wm_pipelines.evaluation.kits import lmms_eval

    named = _entry_points()["lmms_eval.models"]["wm_pipelines"]
    assert named == f"{lmms_eval.__name__}:manifest" and callable(lmms_eval.manifest)


def _entry_points():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"]


@pytest.mark.skipif(
    not os.environ.get("LMMS_EVAL_PYTHON"), reason="LMMS_EVAL_PYTHON names no Python with lmms-eval 0.7 installed"
)
def test_a_run_of_lmms_eval(items, tmp_path):
    """The real program finds our class by its entry point, shows it videos, and clusters errors by video."""
    write_tasks(tmp_path / "tasks", {"toy": items})
    installed = tmp_path / "wm_pipelines-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: wm-pipelines\nVersion: 0.1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in _entry_points()["lmms_eval.models"].items())
    (installed / "entry_points.txt").write_text(f"[lmms_eval.models]\n{lines}")
    (tmp_path / "by_frames.py").write_text(BY_FRAMES)
    asked = ["toy_direct", "toy_blind", "toy_mirror", "toy_reverse"]
    done = _run(
        os.environ["LMMS_EVAL_PYTHON"],
        [
            *("-m", "lmms_eval", "--model", "wm_pipelines", "--include_path", "tasks", "--tasks", ",".join(asked)),
            *("--model_args", "pretrained=python:by_frames.answer,num_frames=4", "--log_samples"),
            *("--output_path", "out"),
        ],
        tmp_path,
    )
    files = {path.stem.partition("_samples_")[2]: path for path in (tmp_path / "out").rglob("*_samples_*.jsonl")}
    assert sorted(files) == sorted(asked), done
    rows = [row for path in files.values() for row in lmms_eval_rows(path, model="by frames")]
    report = summarise(rows)
    assert report["controls"]["full"]["score"] == 1 and report["controls"]["blind"]["score"] == 0
    assert report["pairs"]["mirror"]["score"] == report["pairs"]["reverse"]["score"] == 1
    results = json.loads(next((tmp_path / "out").rglob("*_results.json")).read_text())["results"]["toy_direct"]
    assert results["wm_accuracy,none"] == 1 and results["wm_accuracy_stderr_clustered,none"] == 0


@pytest.mark.skipif(
    not (os.environ.get("VLMEVALKIT_PATH") and os.environ.get("VLMEVALKIT_PYTHON")),
    reason="VLMEVALKIT_PATH names no clone of VLMEvalKit, or VLMEVALKIT_PYTHON no Python with what it needs",
)
def test_a_data_set_of_vlmevalkit(items, tmp_path):
    write_tables(tmp_path / "data", {"toy": items})
    code = (
        "from wm_pipelines.evaluation.kits.vlmevalkit import register\n"
        "import json, pathlib; kit = register(); assert register() is kit\n"
        "import vlmeval.dataset as d; from vlmeval.smp import dump\n"
        "s = d.build_dataset('WM_toy', nframe=4)\n"
        "asked = [s.build_prompt(0, False), s.build_prompt(1, True)]\n"
        "t = s.data.copy(); t['prediction'] = ['B', 'I say A', 'Failed to obtain answer via API.']\n"
        "dump(t, 'tiny_WM_toy.xlsx'); scores = s.evaluate('tiny_WM_toy.xlsx')\n"
        "pathlib.Path('found.json').write_text(json.dumps([asked, scores, d.DATASET_TYPE('WM_toy')]))\n"
    )
    more = {"LMUData": str(tmp_path / "data"), "PYTHONPATH": os.environ["VLMEVALKIT_PATH"]}
    done = _run(os.environ["VLMEVALKIT_PYTHON"], ["-c", code], tmp_path, more)
    assert (tmp_path / "found.json").exists(), done
    (pictures, video), scores, kind = json.loads((tmp_path / "found.json").read_text())
    assert [part["type"] for part in pictures] == ["image"] * 4 + ["text"] and kind == "Video-MCQ"
    assert video[0] == {"type": "video", "value": str(items[1].video)}
    assert scores["n"] == 2 and scores["Overall"] == 1
    rows = vlmevalkit_rows(tmp_path / "tiny_WM_toy.xlsx", items)
    assert [row.correct for row in rows] == [True, True, False] and not rows[2].answered


@pytest.mark.skipif(not os.environ.get("LM_EVAL_PYTHON"), reason="LM_EVAL_PYTHON names no Python with lm-eval")
def test_a_run_of_lm_eval(items, tmp_path):
    write_blind_tasks(tmp_path / "tasks", {"toy": items})
    arguments = ["-m", "lm_eval", "--model", "dummy", "--include_path", "tasks", "--tasks", "toy_blind"]
    done = _run(os.environ["LM_EVAL_PYTHON"], [*arguments, "--output_path", "out"], tmp_path)
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text())
    assert results["n-samples"]["toy_blind"]["effective"] == 3, done
    assert 0 <= results["results"]["toy_blind"]["acc,none"] <= 1


def _run(python, arguments, folder, more=None):
    """Runs it offline; what it printed last."""
    more = dict(more or {})
    paths = [str(folder), str(REPOSITORY), *filter(None, [more.pop("PYTHONPATH", "")])]
    offline = {
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    environment = {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(paths), **more}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    return (done.stdout + done.stderr)[-3000:]
