"""`wm run mojito` on a small untrained pipeline: what it leaves, and how it refuses."""

import copy
import json

import numpy as np
import pytest
import torch

from wm_pipelines import cli
from wm_pipelines.mojito.trajectories.reading import load_trajectory, parse_object

OBJECT = "red cube=0.1,0.3,0.5,0.8>0.5,0.3,0.9,0.8"
FILES = ["boxes.gif", "frames.png", "report.json", "trajectory.json", "video.gif", "video.mp4"]


@pytest.fixture(scope="module")
def checkpoint(tiny_sd, tmp_path_factory):
    """A folder of a whole Mojito pipeline."""
    from diffusers import MotionAdapter

    from wm_pipelines import MojitoPipeline, WMConfig

    motion = MotionAdapter(
        block_out_channels=(8, 16, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
        motion_max_seq_length=16,
    )
    pipeline = MojitoPipeline(**copy.deepcopy(tiny_sd), motion_adapter=motion)
    pipeline.wm_config = WMConfig(method="mojito", pipeline="MojitoPipeline")
    folder = tmp_path_factory.mktemp("mojito") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


def call(monkeypatch, *arguments):
    """Exit status of `wm run mojito ARGUMENTS`."""
    monkeypatch.setattr("sys.argv", ["wm", "run", "mojito", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def test_objects_and_paths_become_a_video_with_its_report(monkeypatch, checkpoint, tmp_path, capsys):
    (tmp_path / "path.txt").write_text("64, 64\n192, 64\n")
    out = tmp_path / "out"
    code = call(
        monkeypatch, "--prompt", "a red cube and a blue sphere", "--object", OBJECT,
        "--trajectory", tmp_path / "path.txt", "--format", "tora", "--phrase", "blue sphere", "--box", "0.4,0.4",
        "--model", checkpoint, "--frames", 4, "--steps", 3, "--iterations", 1, "--fraction", 0.5, "--out", out,
        "--trailing", 2,
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "warning: trailing_tokens=2: the same text positions" in printed.err
    assert sorted(path.name for path in out.iterdir()) == FILES
    report = json.loads((out / "report.json").read_text())
    assert report["phrases"] == ["blue sphere", "red cube"] and report["iterations"] == 2
    assert torch.tensor(report["in_box"]).shape == (2, 4) and len(report["flow"]) == 3
    assert "red cube: " in printed.out and "2 updates in 2 steps" in printed.out
    again = load_trajectory(out / "trajectory.json")
    assert torch.allclose(again[1].frame_boxes(4), parse_object(OBJECT, 4).frame_boxes(4))
    assert torch.allclose(again[0].frame_boxes(4)[3], torch.tensor([0.55, 0.05, 0.95, 0.45]))


def test_frames_without_a_target_are_told(monkeypatch, checkpoint, tmp_path, capsys):
    # ATI's point k is at k / 120 of the clip, so the path ends in the middle of four frames
    (tmp_path / "path.json").write_text(str([{"x": 128 + k, "y": 128} for k in range(61)]))
    out = tmp_path / "out"
    code = call(
        monkeypatch, "--prompt", "a red cube", "--trajectory", tmp_path / "path.json", "--format", "ati",
        "--phrase", "red cube", "--canvas", "256,256", "--box", "0.4,0.4", "--outside", "clip",
        "--model", checkpoint, "--frames", 4, "--steps", 1, "--iterations", 1, "--fraction", 1, "--out", out,
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    line = 'objects[0] ("red cube") has no target in frames 2 to 3'
    assert f"warning: {line}" in printed.err
    assert json.loads((out / "report.json").read_text())["warnings"][0].startswith(line)
    assert load_trajectory(out / "trajectory.json")[0].hidden == [2, 3]


def test_a_freetraj_box_goes_on_through_the_clip(monkeypatch, checkpoint, tmp_path, capsys):
    (tmp_path / "path.txt").write_text("0, 0.1, 0.5, 0, 0.4\n1, 0.1, 0.5, 0.2, 0.6\n")
    arguments = [
        "--prompt", "a red cube", "--trajectory", tmp_path / "path.txt", "--format", "freetraj", "--phrase",
        "red cube", "--model", checkpoint, "--steps", 1, "--iterations", 1, "--fraction", 1,
    ]  # fmt: skip
    assert call(monkeypatch, *arguments, "--frames", 4, "--out", tmp_path / "out") == 0
    boxes = load_trajectory(tmp_path / "out" / "trajectory.json")[0].frame_boxes(4)
    assert boxes[:, 0].tolist() == pytest.approx([0, 0.2, 0.4, 0.6])
    assert call(monkeypatch, *arguments, "--frames", 6, "--out", tmp_path / "more") == 2
    assert "(frame 4) has x1=1.20, outside [0, 1]" in capsys.readouterr().err


def test_numbers_of_numpy_and_torch_are_numbers(checkpoint, tmp_path):
    from wm_pipelines.mojito.run import run

    options = {"num_inference_steps": 1, "guidance_iterations": 1, "guidance_fraction": 1.0}
    report = run(
        "a red cube", objects=["red cube=0,0,0.5,1"], out=tmp_path, model=str(checkpoint), seed=np.int64(0),
        num_frames=torch.tensor(2), fps=np.float32(8), **options,
    )  # fmt: skip
    assert report["num_frames"] == 2 and report["seed"] == 0


def test_without_objects_it_is_the_plain_model(monkeypatch, checkpoint, tmp_path):
    out = tmp_path / "out"
    assert (
        call(monkeypatch, "--prompt", "a red cube", "--model", checkpoint, "--frames", 2, "--steps", 1, "--out", out)
        == 0
    )
    assert sorted(path.name for path in out.iterdir()) == [name for name in FILES if name != "trajectory.json"]
    assert json.loads((out / "report.json").read_text())["energy"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--object", "red cube"], "object 'red cube' must be PHRASE=x0,y0,x1,y1"),
        (["--object", "red cube=0.5,0,0.1,1"], "boxes has x1<=x0 (0.10<=0.50)"),
        (["--object", "green cone=0,0,1,1"], "phrase 'green cone'"),
        (["--trajectory", "absent.json"], "absent.json"),
        (["--box", "0.4"], "--box '0.4' must be two numbers"),
        (["--seed", "-1"], "seed=-1"),
        (["--fps", "99"], "fps=99.0"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--model", "diorama-judge"], "diorama-judge"),
        (["--intensity", "5"], "no MIM weights"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(monkeypatch, checkpoint, tmp_path, capsys, arguments, words):
    out = tmp_path / "out"
    arguments = arguments if "--model" in arguments else [*arguments, "--model", checkpoint]
    assert call(monkeypatch, "--prompt", "a red cube", "--steps", 1, "--frames", 2, "--out", out, *arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and words in line
    assert not out.exists()


def test_objects_of_the_command_line():
    held = parse_object("sky=0,0,1,0.4", 5)
    assert torch.equal(held.frame_boxes(5)[4], torch.tensor([0, 0, 1, 0.4]))
    path = parse_object("red cube = 0,0,0.2,0.2>0.4,0,0.6,0.2>0,0,0.2,0.2", 5)
    assert path.phrase == "red cube" and path.keyframes == [0, 2, 4]
    assert path.frame_boxes(5)[:, 0].tolist() == pytest.approx([0, 0.2, 0.4, 0.2, 0])
