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
    from wm_pipelines.media.pictures import load_image, save_image

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


@pytest.fixture
def refused(monkeypatch, checkpoint, square, tmp_path, capsys):
    """`refused(*arguments, base=.., control=..)`: the one line that `wm run` on tiny parts gives, and nothing else."""
    from diffusers import UNet2DConditionModel

    from wm_pipelines.media.pictures import save_image

    def never(*args, **kwargs):
        raise AssertionError("the UNet ran")

    monkeypatch.setattr(UNet2DConditionModel, "forward", never)
    save_image(square(), tmp_path / "map.png")
    save_image(square()[:, :48], tmp_path / "small.png")
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "map.png").read_bytes()[:60])

    def check(*arguments, base=checkpoint[0], control=checkpoint[1]):
        out = tmp_path / "out"
        arguments = [str(a).replace("DIR", str(tmp_path)) for a in arguments]
        places = ["--base", base, "--control", control, "--out", out]
        code = call(monkeypatch, "run", "flexecontrol", "--prompt", "a red cube", *places, *arguments)
        error = capsys.readouterr().err
        assert code == 2 and not out.exists()
        return next(line for line in error.splitlines() if line.startswith("error: "))

    return check


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--condition", "canny=DIR/small.png"], "condition 'canny' #1 is 48x64; height and width must be multiples"),
        (["--condition", "canny=DIR/corrupt.png"], "is a corrupt or unsafe picture"),
        (["--condition", "canny=DIR/map.png,phrase=red car"], "phrase 'red car' not found in prompt"),
        (["--condition", "canny=DIR/map.png,region=DIR/absent.png"], "region of condition 'canny': there is no file"),
        (["--condition", "canny=DIR/map.png,start=0.6,end=0.2"], "must satisfy 0 <= start < end <= 1"),
        (["--condition", "canny=DIR/map.png,strength=3"], "strength=3.0; it must lie in [0, 2]"),
        (["--condition", "depth=DIR/map.png,from=photo"], "this package downloads nothing"),
        (["--prompt", "cube " * 80, "--condition", "canny=DIR/map.png"], "has 82 tokens, the text encoder takes 77"),
        (["--prompt", "", "--condition", "canny=DIR/map.png,phrase=red cube"], "the prompt is empty"),
        (["--height", "60", "--condition", "canny=DIR/map.png"], "output is 60x64; height and width must be positive"),
        (["--binding", "glue"], "binding='glue'; choose from attention, none"),
        (["--seed", str(2**63)], "seed=9223372036854775808; it must be an integer"),
        (["--scene-graph", "DIR/map.png"], "map.png': "),
    ],
)
def test_run_refuses_before_any_sampling(refused, arguments, words):
    assert words in refused(*arguments)


def test_run_refuses_broken_checkpoints_before_any_tensor_is_read(refused, checkpoint, tmp_path):
    weights = tmp_path / "control" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    assert "diffusion_pytorch_model.safetensors is truncated" in refused()
    weights.write_bytes(whole)
    assert "control " in (line := refused(control=checkpoint[0])) and line.endswith("has no config.json")
    assert "base " in (line := refused(base=checkpoint[1])) and line.endswith("has no model_index.json")

    from wm_pipelines import hub
    from wm_pipelines.config import WMConfig

    config = WMConfig(method="flexecontrol", pipeline="FlexEControlPipeline", base_model={"embedded": "diorama-sd"})
    hub.seal(tmp_path / "control", config)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "differs from its record" in refused()


def test_run_refuses_an_adapter_for_another_base(refused, tiny_sd, tmp_path):
    from diffusers import UNet2DConditionModel

    from wm_pipelines.flexecontrol.modeling import FlexEControlModel

    shape = {k: v for k, v in tiny_sd["unet"].config.items() if not k.startswith("_")}
    other = UNet2DConditionModel(**{**shape, "cross_attention_dim": 32})
    sizes = {"condition_stride": 4, "feature_channels": (8, 8, 8), "pre_channels": (8, 8)}
    FlexEControlModel.from_unet(other, **sizes).save_pretrained(tmp_path / "other")
    assert "this adapter is for another base" in refused(control=str(tmp_path / "other"))


def test_run_takes_a_slim_adapter_its_copy_from_the_base(monkeypatch, checkpoint, tiny_control, tmp_path):
    tiny_control.save_pretrained(tmp_path / "slim", slim=True)
    places = ["--base", checkpoint[0], "--control", tmp_path / "slim", "--out", tmp_path / "out"]
    assert call(monkeypatch, "run", "flexecontrol", "--prompt", "a red cube", "--steps", 1, *places) == 0
    assert (tmp_path / "out" / "picture_0.png").is_file()


def test_run_that_can_not_save_leaves_no_part_of_its_results(monkeypatch, checkpoint, tmp_path, capsys):
    from wm_pipelines.runtime import reports as module

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    places = ["--base", checkpoint[0], "--control", checkpoint[1]]
    arguments = ["run", "flexecontrol", "--prompt", "a red cube", "--steps", 1, *places]
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        assert call(monkeypatch, *arguments, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.endswith("error: No space left on device\n")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    (tmp_path / "file").write_text("")
    assert call(monkeypatch, *arguments, "--out", tmp_path / "file") == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_extract_writes_a_map(monkeypatch, square, tmp_path):
    from wm_pipelines.media.pictures import load_image, save_image

    save_image(square(), tmp_path / "photo.png")
    assert call(monkeypatch, "extract", "canny", tmp_path / "photo.png", tmp_path / "edges.png") == 0
    assert load_image(tmp_path / "edges.png").convert("L").getextrema() == (0, 255)


def test_extract_refuses_what_needs_a_model(monkeypatch, square, tmp_path, capsys):
    from wm_pipelines.media.pictures import save_image

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


def test_diorama_leaves_a_sheet_of_pairs(monkeypatch, tmp_path):
    assert call(monkeypatch, "diorama", "--pair", "--seed", 7, "--size", 16, "--out", tmp_path / "d") == 0
    assert {p.name for p in (tmp_path / "d").iterdir()} == {"pairs.json", "pairs.png", "pairs.gif"}


def test_every_command_has_help():
    runner = CliRunner()
    listed = runner.invoke(cli.app, ["--help"]).output
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")
        assert name in listed
        assert runner.invoke(cli.app, [name, "--help"]).exit_code == 0
