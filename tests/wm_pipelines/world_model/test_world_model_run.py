"""`wm run dynamics` and `wm run world-model`, from tiny checkpoints with records."""

import json

import pytest
from typer.testing import CliRunner

from wm_pipelines import DynamicsModelPipeline, WorldModelPipeline
from wm_pipelines.cli import app
from wm_pipelines.config import WMConfig
from wm_pipelines.media.pictures import save_image


@pytest.fixture(scope="module")
def models(token_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
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
