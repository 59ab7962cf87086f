"""`wm_config.json`: what is accepted, what is refused and with which words, and its exported schema."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

import wm_pipelines
from wm_pipelines.config import CONFIG_NAME, BaseModelRef, EvaluationRecord, WMConfig, json_schema
from wm_pipelines.diorama.method import DioramaSDConfig
from wm_pipelines.flexecontrol.method import FlexEControlConfig
from wm_pipelines.methods import methods

SCHEMA_FILE = Path(wm_pipelines.__file__).parent / "hub" / "wm_config.schema.json"


def full_config() -> WMConfig:
    return WMConfig(
        method="flexecontrol",
        pipeline="FlexEControlPipeline",
        base_model={"repo_id": "org/base", "revision": "a" * 40, "licence": "apache-2.0"},
        method_config={"image_size": 64, "binding": "none"},
        training={"recipe": {"lr": 1e-3, "options": {"r": 1}}, "seed": 3, "steps": 500, "wall_time_s": 12.5},
        evaluation=[{"task": "edges", "dataset": "diorama", "metric": "F1", "value": 0.5, "ci95": [0.4, 0.6], "n": 8}],
        files={"sub/model.safetensors": "0" * 64},
        vocabulary=["a", "red"],
        paper="arXiv:2405.04834",
    )


def test_record_survives_saving_and_loading(tmp_path):
    config = full_config()
    path = config.save(tmp_path / "new")
    assert path == tmp_path / "new" / CONFIG_NAME
    assert WMConfig.load(path.parent) == config
    assert isinstance(config.method_config, FlexEControlConfig)
    assert config.method_config.binding == "none"
    assert [item.name for item in path.parent.iterdir()] == [CONFIG_NAME]


def test_record_can_not_be_changed_in_place():
    config = full_config()
    with pytest.raises(ValidationError, match="frozen"):
        config.method = "diorama-sd"
    with pytest.raises(ValidationError, match="frozen"):
        config.method_config.image_size = 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": "2.0"}, "schema_version '2.0' is not readable"),
        ({"schema_version": "2.0", "news": 1}, "schema_version '2.0' is not readable"),
        ({"schema_version": "one"}, "schema_version 'one' is not readable"),
        ({"metod": "x"}, "unknown field 'metod' in WMConfig; the nearest known one is 'method'"),
        ({"method": "flexcontrol"}, "method: 'flexcontrol' is no method .*; did you mean 'flexecontrol'"),
        ({"method_config": {"imagesize": 8}}, "unknown field 'imagesize' in FlexEControlConfig; .* 'image_size'"),
        ({"method_config": {"image_size": "big"}}, "method_config.image_size: .*integer"),
        ({"method_config": {"binding": "tight"}}, "method_config.binding: .*'attention' or 'none'.*'tight'"),
        ({"base_model": {"repo_id": "a/b", "embedded": "c"}}, "exactly one of `repo_id` and `embedded`"),
        ({"base_model": {}}, "exactly one of `repo_id` and `embedded`"),
        ({"files": {"../weights": "0" * 64}}, "relative paths inside the folder, got '../weights'"),
        ({"files": {"/etc/passwd": "0" * 64}}, "relative paths inside the folder"),
        ({"files": {"C:/weights": "0" * 64}}, "relative paths inside the folder"),
        ({"files": {"weights": "abc"}}, "files.weights: .*pattern"),
        ({"training": {"recipe": {}, "seed": 1}}, "training.steps: Field required"),
        ({"training": {"recipe": {}, "seed": 1, "steps": -1}}, "training.steps: .*greater than or equal to 0"),
    ],
)
def test_bad_record_is_refused_with_the_file_and_the_field(tmp_path, change, words):
    data = full_config().model_dump(mode="json") | change
    (tmp_path / CONFIG_NAME).write_text(json.dumps(data))
    with pytest.raises(ValueError, match=words) as caught:
        WMConfig.load(tmp_path)
    assert str(tmp_path / CONFIG_NAME) in str(caught.value)
    assert "pydantic.dev" not in str(caught.value)


def test_newer_minor_version_is_read():
    assert WMConfig.model_validate(full_config().model_dump(mode="json") | {"schema_version": "1.7"})


@pytest.mark.parametrize(("text", "words"), [("{", "not valid JSON"), ("[1]", "must hold a JSON object, got list")])
def test_file_that_is_no_record_is_refused(tmp_path, text, words):
    (tmp_path / CONFIG_NAME).write_text(text)
    with pytest.raises(ValueError, match=words):
        WMConfig.load(tmp_path)


def test_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no wm_config.json"):
        WMConfig.load(tmp_path)


def test_method_config_of_another_method_is_refused():
    with pytest.raises(ValueError, match="DioramaSDConfig, but method 'flexecontrol' needs FlexEControlConfig"):
        WMConfig(method="flexecontrol", method_config=DioramaSDConfig())


def test_figures_must_be_finite_and_intervals_ordered(tmp_path):
    with pytest.raises(ValidationError, match="finite"):
        EvaluationRecord(task="t", dataset="d", metric="m", value=float("nan"))
    with pytest.raises(ValidationError, match="low, high"):
        EvaluationRecord(task="t", dataset="d", metric="m", value=0.5, ci95=(0.6, 0.4))
    with pytest.raises(ValueError, match="JSON compliant"):
        bad = full_config().training.model_copy(update={"recipe": {"lr": float("nan")}})
        full_config().model_copy(update={"training": bad}).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_base_has_the_name_that_resolve_takes():
    assert BaseModelRef(repo_id="a/b").name == "a/b"
    assert BaseModelRef(embedded="diorama-sd").name == "diorama-sd"


def test_failed_save_leaves_the_old_record(tmp_path, monkeypatch):
    full_config().save(tmp_path)
    before = (tmp_path / CONFIG_NAME).read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        full_config().model_copy(update={"licence": "mit"}).save(tmp_path)
    assert (tmp_path / CONFIG_NAME).read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [CONFIG_NAME]


def test_exported_schema_is_current():
    text = json.dumps(json_schema(), indent=2) + "\n"
    assert SCHEMA_FILE.read_text() == text, f"write it again: `wm schema` > {SCHEMA_FILE.name}"


def test_exported_schema_names_every_method_and_refuses_unknown_fields():
    schema = json_schema()
    assert {branch["if"]["properties"]["method"]["const"] for branch in schema["allOf"]} == set(methods())
    assert set(schema["properties"]["method"]["enum"]) == set(methods())
    assert schema["additionalProperties"] is False
    for branch in schema["allOf"]:
        name = branch["then"]["properties"]["method_config"]["$ref"].removeprefix("#/$defs/")
        assert schema["$defs"][name]["additionalProperties"] is False
    assert not any("$defs" in definition for definition in schema["$defs"].values())


def test_config_and_hub_import_neither_torch_nor_diffusers():
    import subprocess
    import sys

    code = (
        "import sys, wm_pipelines.config, wm_pipelines.hub, wm_pipelines.hub.cards, wm_pipelines.hub.publishing\n"
        "assert not {'torch', 'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("field", ["pipeline", "paper", "licence", "method"])
def test_names_are_short_so_that_messages_are(field):
    with pytest.raises(ValueError, match=field) as error:
        WMConfig.model_validate({"method": "cpl", field: "x" * 10**6})
    assert len(str(error.value)) < 4000
