"""From a run folder to a checkpoint, by function and by command."""

import json

import pytest

from wm_pipelines import cli, hub
from wm_pipelines.config import WMConfig
from wm_pipelines.hub.publishing import validate
from wm_pipelines.hub.sealing import seal_run


@pytest.fixture
def finished(tmp_path):
    """`finished(task, **options)`: what `wm train` leaves, with the weights of a tiny judge."""
    from wm_pipelines.diorama.judge import DioramaJudge
    from wm_pipelines.hub.weights import save_half

    def make(task="diorama-judge", **options):
        run = tmp_path / f"run-{task}"
        save_half(DioramaJudge((8, 8, 8)), run / "export")
        recipe = {"task": task, "seed": 3, "options": {"cache": "somewhere/pictures.safetensors", **options}}
        record = {"recipe": recipe, "seed": 3, "steps": 5, "wall_time_s": 2.5, "stages": [{"event": "started"}]}
        (run / "record.json").write_text(json.dumps(record))
        (run / "log.jsonl").write_text('{"step": 5, "loss": 0.5}\n')
        return run

    return make


@pytest.fixture
def base(tmp_path, monkeypatch):
    """An embedded root of our own, with a base called diorama-sd."""
    folder = tmp_path / "embedded" / "diorama-sd"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr("wm_pipelines.hub.store.EMBEDDED_ROOT", folder.parent)
    return hub.seal(folder, WMConfig(method="diorama-sd"))


def test_a_sealed_run_is_ready_to_publish_and_its_page_repeats_it(finished, tmp_path):
    rows = tmp_path / "rows.jsonl"
    entry = {"task": "t", "dataset": "Diorama", "metric": "m", "value": 0.5}
    rows.write_text(json.dumps({"note": "no entry"}) + "\n" + json.dumps({"evaluation": [entry]}) + "\n")
    out, page = tmp_path / "judge", tmp_path / "page"
    config = seal_run(finished(), out, [rows], page=page)
    assert validate(out) == [] and WMConfig.load(out) == config
    assert config.training.seed == 3 and config.evaluation[0].value == 0.5
    assert "cache" not in config.training.recipe["options"]  # a place on somebody's disk
    assert {p.name for p in page.iterdir()} == {"README.md", "wm_config.json", "recipe.yaml", "log.jsonl"}
    assert (page / "README.md").read_text() == (out / "README.md").read_text()
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_says_nothing_of_the_folders_of_who_trained_it(finished, tmp_path):
    run, out = finished(), tmp_path / "judge"
    config = json.loads((run / "export" / "config.json").read_text())
    (run / "export" / "config.json").write_text(json.dumps(config | {"_name_or_path": "/home/somebody/runs/1"}))
    seal_run(run, out)
    assert json.loads((out / "config.json").read_text()) == config and validate(out) == []


def test_sealing_again_replaces_the_checkpoint(finished, tmp_path):
    run, out = finished(), tmp_path / "judge"
    seal_run(run, out)
    (out / "left_over.safetensors").write_bytes(b"")
    seal_run(run, out)
    assert validate(out) == [] and not (out / "left_over.safetensors").exists()


def test_an_earlier_run_becomes_a_stage_also_when_it_was_stopped(finished, tmp_path):
    stopped = tmp_path / "stopped"
    state = {"step": 7, "recipe": {"task": "diorama-vae", "options": {}}, "wall_time_s": 1.0, "stages": []}
    for step in (3, 7):
        (stopped / "state" / f"step-{step:08d}").mkdir(parents=True)
        (stopped / "state" / f"step-{step:08d}" / "state.json").write_text(json.dumps({**state, "step": step}))
    stages = seal_run(finished(), tmp_path / "judge", earlier=[stopped]).training.stages
    assert [s["event"] for s in stages] == ["earlier run", "started"] and stages[0]["stopped_at"] == 7


@pytest.mark.parametrize("options", [{}, {"base": "diorama-sd"}])
def test_an_adapter_names_its_base_also_when_the_recipe_left_it_out(finished, base, tmp_path, options):
    config = seal_run(finished("flexecontrol", **options), tmp_path / "adapter")
    assert config.pipeline == "FlexEControlPipeline" and config.base_model.embedded == "diorama-sd"
    assert config.base_model.fingerprint == hub.fingerprint(base)


def test_an_adapter_trained_on_a_folder_has_the_size_of_its_pictures(finished, base, tmp_path):
    config = seal_run(finished("flexecontrol-folder", base="diorama-sd", size=128), tmp_path / "adapter")
    assert config.method == "flexecontrol" and config.method_config.image_size == 128


def test_what_can_not_be_sealed_leaves_nothing(finished, base, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="let `wm train` finish first"):
        seal_run(tmp_path, out)
    with pytest.raises(ValueError, match="trained 'wave'; checkpoints are made of diorama-sd"):
        seal_run(finished("wave"), out)
    with pytest.raises(ValueError, match="a base must be an embedded name or a Hub id"):
        seal_run(finished("flexecontrol", base=str(tmp_path / "embedded" / "diorama-sd")), out)
    run = finished()
    with pytest.raises(ValueError, match="neither record.json nor a saved state"):
        seal_run(run, out, earlier=[tmp_path / "nowhere"])
    assert not out.exists()


def test_commands_from_run_to_dry_publication(finished, base, monkeypatch, tmp_path, capsys):
    def wm(*arguments):
        monkeypatch.setattr("sys.argv", ["wm", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, capsys.readouterr()

    out = tmp_path / "judge"
    assert wm("seal", finished(), out)[0] == 0
    code, printed = wm("validate", out)
    assert code == 0 and "ready to publish" in printed.out
    code, printed = wm("publish", out, "org/judge")
    assert code == 0 and "diffusion_pytorch_model.safetensors" in printed.out and "dry run" in printed.out
    (out / "README.md").write_text("another card")
    code, printed = wm("validate", out)
    assert code == 1 and "does not match wm_config.json" in printed.err
    assert wm("card", out)[0] == 0 and wm("validate", out)[0] == 0
    code, printed = wm("publish", out, "no-owner")
    assert code == 2 and printed.err == "error: repo_id must have the form owner/name, got 'no-owner'\n"
    assert wm("list")[1].out == "diorama-sd: module\n"
