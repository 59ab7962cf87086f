"""`wm run dynamics` and `wm run world-model`, from tiny checkpoints with records."""

import json

import pytest
from typer.testing import CliRunner

from wm_pipelines import DynamicsModelPipeline, WorldModelPipeline
from wm_pipelines.cli import app
from wm_pipelines.config import WMConfig
from wm_pipelines.media.pictures import save_image


@pytest.fixture(scope="module")
def models(token_models, tiny_editor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_editor.make().save_pretrained(folder / "editor")
    tiny_editor.make("StableDiffusionPipeline").save_pretrained(folder / "other")
    kinds = (("world", WorldModelPipeline, "world-model"), ("judge", DynamicsModelPipeline, "dynamics"))
    for name, kind, method in kinds:
        pipe = kind(**token_models.make_parts("plain"))
        pipe.wm_config = WMConfig(method=method, method_config={"tuning": "full"})
        pipe.save_pretrained(folder / name)
    for n, picture in enumerate(token_models.pictures(2)):
        save_image(picture, folder / f"{n}.png")
    return folder


def wm(*words):
    return CliRunner().invoke(app, ["run", *map(str, words)])


def test_dynamics_says_and_scores(models, tmp_path):
    pair = ("--source", models / "0.png", "--target", models / "1.png", "--model", models / "judge")
    out = wm("dynamics", *pair, "--out", tmp_path / "said", "--max-new-tokens", 3)
    assert out.exit_code == 0, out.output
    (row,) = json.loads((tmp_path / "said" / "report.json").read_text())["pairs"]
    assert row["action"] in out.output and row["score"] < 0
    out = wm("dynamics", *pair, "--out", tmp_path / "scored", "--action", "move the cube")
    (row,) = json.loads((tmp_path / "scored" / "report.json").read_text())["pairs"]
    assert row["action"] == "move the cube" and row["score"] < 0


def test_world_model_writes_every_candidate(models, tmp_path):
    words = ("world-model", "--source", models / "0.png", "--model", models / "world", "--out", tmp_path / "out")
    words += ("--verifier", models / "judge", "--action", "move the cube", "--action", "turn it")
    out = wm(*words, "--candidates", 3)
    assert out.exit_code == 0, out.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [step["action"] for step in report["steps"]] == ["move the cube", "turn it"]
    for step in report["steps"]:
        files = [candidate["file"] for candidate in step["candidates"]]
        assert step["chosen"] in files and all((tmp_path / "out" / file).is_file() for file in files)
        assert all(candidate["score"] < 0 for candidate in step["candidates"])


def test_an_editor_of_diffusers_in_its_place(models, tmp_path, monkeypatch):
    from wm_pipelines.world_model import editors

    quick = {**editors.EDITORS, "StableDiffusionInstructPix2PixPipeline": editors.Capability(
        settings={"num_inference_steps": 2})}  # fmt: skip
    monkeypatch.setattr(editors, "EDITORS", quick)
    words = ("world-model", "--source", models / "0.png", "--model", models / "editor", "--out", tmp_path / "out")
    out = wm(*words, "--verifier", models / "judge", "--action", "move the cube", "--action", "turn it",
             "--candidates", 2)  # fmt: skip
    assert out.exit_code == 0, out.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for number, step in enumerate(report["steps"], 1):
        assert [row["file"] for row in step["candidates"]] == [f"step_{number}_candidate_{n}.png" for n in (1, 2)]
        assert all(row["score"] < 0 and row["logprob"] is None for row in step["candidates"])
    for change, message in (
        (("--history", 1), "`history` is 1; StableDiffusionInstructPix2PixPipeline has none"),
        (("--temperature", 0.5), "`temperature` is 0.5"), (("--resize", "pad"), "`resize` is 'pad'"),
        (("--verifier", "likelihood"), "'likelihood' needs a token model; an editor has no likelihood"),
        (("--model", models / "other"), "is a StableDiffusionPipeline; known are WorldModelPipeline, Stable"),
    ):  # fmt: skip
        bad = wm(*words[:-1], tmp_path / "bad", "--verifier", "none", "--action", "move", *change)
        assert bad.exit_code != 0 and message in (bad.output + str(bad.exception))
        assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--action", ""), "`action` is empty"),
        (("--action", "move", "--candidates", "0"), "`num_candidates` is 0"),
        (("--action", "move", "--verifier", "world"), "it must be a dynamics model"),
    ],
)
def test_bad_words_write_nothing(models, tmp_path, change, message):
    change = [models / word if word == "world" else word for word in change]
    words = ("world-model", "--source", models / "0.png", "--model", models / "world", "--out", tmp_path / "out")
    out = wm(*words, "--verifier", "none", *change)
    assert out.exit_code != 0 and message in (out.output + str(out.exception))
    assert not (tmp_path / "out").exists()
