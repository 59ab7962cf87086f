"""`wm` in a shell's terms: what it prints, what it leaves, and how it refuses."""

import json

import pytest
from typer.testing import CliRunner

from wm_pipelines import cli


@pytest.fixture
def checkpoint(tiny_sd, tiny_control, tmp_path):
    """(base folder, adapter folder) of tiny parts, as folders a user could have."""
    from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline

    pipe = FlexEControlPipeline(**tiny_sd, control=tiny_control)
    for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler"):
        getattr(pipe, name).save_pretrained(tmp_path / "base" / name)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(index))
    tiny_control.save_pretrained(tmp_path / "control")
    return str(tmp_path / "base"), str(tmp_path / "control")


def call(monkeypatch, *arguments):
    """Exit status of `wm ARGUMENTS`, through the entry point that turns errors into one line."""
    monkeypatch.setattr("sys.argv", ["wm", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def test_run_leaves_pictures_maps_overlays_and_a_report(monkeypatch, checkpoint, square, tmp_path, capsys):
    from wm_pipelines.media import load_image, save_image

    save_image(square(), tmp_path / "map.png")
    big = square()[:, ::1].repeat_interleave(2, 1).repeat_interleave(3, 2)
    save_image(big, tmp_path / "photo.jpg")
    save_image(square(), tmp_path / "region.png")
    out = tmp_path / "out"
    code = call(
        monkeypatch, "run", "flexecontrol", "--prompt", "a red cube left of a blue sphere",
        "--condition", f"canny={tmp_path}/photo.jpg,from=photo,fit=crop",
        "--condition", f"seg={tmp_path}/map.png,phrase=red cube,strength=0.7,region={tmp_path}/region.png,end=0.8",
        "--base", checkpoint[0], "--control", checkpoint[1], "--steps", 2, "--images", 2, "--out", out,
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    names = {p.name for p in out.iterdir()}
    assert {"picture_0.png", "picture_1.png", "condition_0_canny.png", "condition_1_seg.png", "report.json"} <= names
    assert sum(name.startswith("attention_") for name in names) == 2
    assert load_image(out / "picture_0.png").size == (64, 64)
    report = json.loads((out / "report.json").read_text())
    conditions = report["prompts"][0]["conditions"]
    assert [c["type"] for c in conditions] == ["canny", "seg"] and conditions[1]["strength"] == 0.7
    assert conditions[1]["active_steps"] == [0]  # the second of two steps ends after 0.8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--condition", "canny=absent.png"], ["absent.png"]),
        (["--condition", "hedge=absent.png"], ["hedge", "known"]),
        (["--control", "no-such-adapter"], ["no-such-adapter"]),
        (["--scene-graph", "absent.json"], ["absent.json"]),
        (["--seed", "-1"], ["seed"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(monkeypatch, tmp_path, capsys, arguments, words):
    out = tmp_path / "out"
    code = call(monkeypatch, "run", "flexecontrol", "--prompt", "a red cube", "--out", out, *arguments)
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not out.exists()


def test_extract_writes_a_map(monkeypatch, square, tmp_path):
    from wm_pipelines.media import load_image, save_image

    save_image(square(), tmp_path / "photo.png")
    assert call(monkeypatch, "extract", "canny", tmp_path / "photo.png", tmp_path / "edges.png") == 0
    assert load_image(tmp_path / "edges.png").convert("L").getextrema() == (0, 255)


def test_extract_refuses_what_needs_a_model(monkeypatch, square, tmp_path, capsys):
    from wm_pipelines.media import save_image

    save_image(square(), tmp_path / "photo.png")
    assert call(monkeypatch, "extract", "depth", tmp_path / "photo.png", tmp_path / "depth.png") == 2
    assert "downloads nothing" in capsys.readouterr().err
    assert not (tmp_path / "depth.png").exists()


def test_schema_is_json(monkeypatch, capsys):
    assert call(monkeypatch, "schema") == 0
    assert json.loads(capsys.readouterr().out)["properties"]["method"]


def test_diorama_leaves_a_sheet(monkeypatch, tmp_path):
    assert call(monkeypatch, "diorama", "--seed", 7, "--size", 16, "--out", tmp_path / "d") == 0
    assert {p.name for p in (tmp_path / "d").iterdir()} == {"scene.json", "sheet.png", "scene.gif"}


def test_every_command_has_help():
    runner = CliRunner()
    listed = runner.invoke(cli.app, ["--help"]).output
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")
        assert name in listed
        assert runner.invoke(cli.app, [name, "--help"]).exit_code == 0
