"""Recipes: what is read, what is refused and how, and the learning rate they describe."""

import math

import pytest

from wm_pipelines.training import Recipe, build, learning_rate, load_recipe, train_main
from wm_pipelines.training.recipe import changed_fields

TEXT = "task: wave\nsteps: 100\nbatch_size: 8\nlr: 1e-3\noptions: {size: 64, inner: {depth: 2}}\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "wave.yaml"
    path.write_text(TEXT)
    return path


def test_read_with_overrides(path):
    recipe = load_recipe(path, ["steps=7", "lr=2e-4", "options.size=32", "options.inner.depth=3", "options.new=[1]"])
    assert (recipe.steps, recipe.lr, recipe.batch_size) == (7, 2e-4, 8)
    assert recipe.options == {"size": 32, "inner": {"depth": 3}, "new": [1]}
    assert load_recipe(path).lr == 1e-3, "an exponent without a point is a number, whatever YAML 1.1 says"
    assert load_recipe(path, {"ema": 0.5}).ema == 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stepz=3"], "unknown 'stepz', did you mean 'steps'"),
        (["steps"], "must have the form key=value"),
        (["steps=0"], "steps: Input should be greater than or equal to 1"),
        (["lr=fast"], "lr: "),
        (["lr=[1"], "not YAML"),
        (["lr.x=1"], "only 'options' has keys of its own"),
        (["options.size.x=1"], "'size' is not a mapping"),
        (["schedule=linear"], "schedule: .*'constant' or 'cosine'"),
        (["ema=1"], "ema: "),
        (["schedule=cosine", "warmup=100"], "warmup .100. must be below steps .100."),
        (["betas=[0.9, 1.0]"], "betas must lie in"),
    ],
)
def test_bad_values_are_named(path, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(path, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT + "bach_size: 3\n", "unknown field 'bach_size'.*'batch_size'"),
        ("- 1\n", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("task: wave\nsteps: 3\n", "batch_size: Field required"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_missing_file_and_unknown_task(tmp_path, path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="unknown 'wave'; allowed: .*diorama-sd"):
        build(load_recipe(path))
    with pytest.raises(ValueError, match="did you mean 'diorama-sd'"):
        train_main("diorama-sb", path, tmp_path / "out")
    with pytest.raises(ValueError, match="recipe is for task 'wave', but 'diorama-sd' was asked for"):
        train_main("diorama-sd", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_main_trains_what_a_door_names(wave, tmp_path, path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wave_task", wave)
    monkeypatch.setattr("wm_pipelines.training.tasks", lambda: {"wave": "wave_task.WaveTask"})
    record = train_main("wave", path, tmp_path / "out", ["steps=2", "options={}"])
    assert record.steps == 2 and (tmp_path / "out" / "export" / "model.safetensors").is_file()


def test_constant_and_cosine_learning_rate():
    recipe = Recipe(task="wave", steps=110, batch_size=1, lr=0.5, warmup=10)
    assert [learning_rate(step, recipe) for step in (0, 4, 9, 10, 109)] == [0.05, 0.25, 0.5, 0.5, 0.5]
    cosine = recipe.model_copy(update={"schedule": "cosine"})
    assert [learning_rate(step, cosine) for step in (0, 4, 9, 10)] == [0.05, 0.25, 0.5, 0.5]
    assert learning_rate(60, cosine) == pytest.approx(0.25)
    assert learning_rate(35, cosine) == pytest.approx(0.25 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(109, cosine) < 2e-4


def test_what_a_state_lets_change():
    before = Recipe(task="wave", steps=10, batch_size=1).model_dump()
    assert changed_fields(before, before | {"steps": 20, "log_every": 1, "save_every": 2}) == []
    assert changed_fields(before, before | {"lr": 0.1, "options": {"a": 1}}) == ["lr", "options"]
    cosine = before | {"schedule": "cosine"}
    assert changed_fields(cosine, cosine | {"steps": 20}) == ["steps"]
