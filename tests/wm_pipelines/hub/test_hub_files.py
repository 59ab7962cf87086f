"""Local trust: hashes, sealing, truncated files, embedded names, resolving, validating, the card."""

import json

import numpy
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from safetensors.numpy import save_file

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME, BaseModelRef, WMConfig
from wm_pipelines.methods import methods


@pytest.fixture
def shipped(checkpoint, monkeypatch):
    """The checkpoint as an embedded one, named `judge`."""
    monkeypatch.setattr("wm_pipelines.hub.store.EMBEDDED_ROOT", checkpoint.parent)
    return checkpoint


def test_hashes_cover_what_loading_reads_and_nothing_else(checkpoint):
    (checkpoint / "picture.png").write_bytes(b"x")
    (checkpoint / "recipe.yaml").write_text("a: 1")
    (checkpoint / ".cache").mkdir()
    (checkpoint / ".cache" / "state.json").write_text("{}")
    assert sorted(hub.hash_files(checkpoint)) == ["config.json", "head/model.safetensors", "model.safetensors"]
    assert hub.verify(checkpoint).files == hub.hash_files(checkpoint)


def test_altered_file_is_named(checkpoint):
    path = checkpoint / "head" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="head/model.safetensors differs from its record") as caught:
        hub.verify(checkpoint)
    assert "\n" not in str(caught.value)


def test_truncated_file_is_named_before_its_hash_is_compared(checkpoint):
    path = checkpoint / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"model.safetensors is truncated: {size - 100} bytes.*promises {size}"):
        hub.verify(checkpoint)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated or not a safetensors file"),
        (b"\x10\0\0\0\0\0\0\0{}", "truncated or not a safetensors file"),
        (b"\xff" * 32, "truncated or not a safetensors file"),
        (b"\x04\0\0\0\0\0\0\0nope", "corrupt safetensors header"),
        (b'\x08\0\0\0\0\0\0\0{"a": 1}', "corrupt safetensors header"),
        (b"\x02\0\0\0\0\0\0\0[]", "corrupt safetensors header"),
        (b"\x02\0\0\0\0\0\0\0{}tail", "longer than its header says"),
    ],
)
def test_broken_safetensors_is_refused(tmp_path, content, words):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        hub.check_safetensors(path)


def test_sound_safetensors_passes_with_and_without_tensors(tmp_path):
    save_file({}, tmp_path / "empty.safetensors", metadata={"format": "np"})
    save_file({"a": numpy.zeros((0, 3)), "b": numpy.ones(3)}, tmp_path / "two.safetensors")
    hub.check_safetensors(tmp_path / "empty.safetensors")
    hub.check_safetensors(tmp_path / "two.safetensors")


def test_missing_and_unlisted_files_are_named(checkpoint):
    (checkpoint / "extra.json").write_text("{}")
    with pytest.raises(ValueError, match="extra.json is not listed"):
        hub.verify(checkpoint)
    (checkpoint / "extra.json").rename(checkpoint / "extra.md")
    (checkpoint / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json is missing"):
        hub.verify(checkpoint)


def test_embedded_gives_a_verified_folder(shipped):
    assert hub.embedded("judge") == shipped
    (shipped / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json differs"):
        hub.embedded("judge")
    assert hub.embedded("judge", check=False) == shipped


@pytest.mark.parametrize("name", ["judges", "../judge", "", "/etc"])
def test_unknown_embedded_name_lists_what_there_is(shipped, name):
    with pytest.raises(ValueError, match="there are judge") as caught:
        hub.embedded(name)
    assert ("did you mean 'judge'" in str(caught.value)) == (name in ("judges", "../judge"))


def test_resolve_takes_an_embedded_name_then_a_folder(shipped, tmp_path, monkeypatch):
    assert hub.resolve("judge") == shipped
    assert hub.resolve(shipped) == shipped
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("judge/head").name == "head"
    with pytest.raises(ValueError, match="revision='v1' needs a Hub id"):
        hub.resolve("judge", revision="v1")


@pytest.mark.parametrize("source", ["nothing", "a/b/c", "/no/such/folder", "../x", "owner/na me"])
def test_resolve_refuses_what_is_neither(shipped, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no folder has any of these names
    with pytest.raises(ValueError, match="not an embedded checkpoint .*judge.* not a folder"):
        hub.resolve(source)


def test_base_ref_names_an_embedded_base_by_its_fingerprint(shipped, tmp_path):
    reference = hub.base_ref("judge")
    record = WMConfig.load(shipped)
    assert reference == BaseModelRef(embedded="judge", fingerprint=hub.fingerprint(record), licence="apache-2.0")
    (shipped / "config.json").write_text('{"width": 5}')
    assert hub.fingerprint(hub.seal(shipped, record)) != reference.fingerprint
    with pytest.raises(ValueError, match="embedded name or a Hub id"):
        hub.base_ref(shipped)


def test_sound_folder_validates_and_a_dry_run_lists_what_would_go(checkpoint):
    assert hub.validate(checkpoint) == []
    (checkpoint / "notes.log").write_text("not sent")
    plan = hub.publish(checkpoint, "org/judge")
    assert plan.commit is None
    assert plan.files == {
        name: (checkpoint / name).stat().st_size
        for name in (
            ".eval_results/diorama-held-out.yaml",
            "README.md",
            "config.json",
            "head/model.safetensors",
            "model.safetensors",
            CONFIG_NAME,
        )
    }


def test_publish_refuses_a_bad_name_and_lists_every_problem(checkpoint):
    with pytest.raises(ValueError, match="owner/name, got 'judge'"):
        hub.publish(checkpoint, "judge")
    (checkpoint / "model.bin").write_bytes(b"pickle")
    (checkpoint / "pipeline.py").write_text("")
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "README.md").unlink()
    with pytest.raises(ValueError, match="can't be published") as caught:
        hub.publish(checkpoint, "org/judge")
    for words in ("model.bin is a pickle", "pipeline.py is code", "config.json differs", "README.md is missing"):
        assert words in str(caught.value)


def test_validate_wants_classes_that_agree_and_float32_parts(checkpoint):
    record = WMConfig.load(checkpoint).model_copy(update={"pipeline": "FlexEControlPipeline"})
    hub.seal(checkpoint, record)
    hub.write_card(checkpoint)
    (problem,) = hub.validate(checkpoint)
    assert "model_index.json is missing" in problem
    (checkpoint / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (checkpoint / "head" / "config.json").write_text('{"transformers_version": "5.0", "dtype": "float16"}')
    hub.seal(checkpoint, record)
    hub.write_card(checkpoint)
    index, dtype = hub.validate(checkpoint)
    assert "names 'StableDiffusionPipeline', but wm_config.json names 'FlexEControlPipeline'" in index
    assert "head/config.json has dtype 'float16', needs 'float32'" in dtype


@pytest.mark.parametrize("name", ["judge.safetensors", "head/model.fp16.safetensors"])
def test_validate_refuses_weights_that_plain_loading_passes_by(checkpoint, name):
    save_file({"a": numpy.ones(3)}, checkpoint / name)
    hub.seal(checkpoint, WMConfig.load(checkpoint))
    (problem,) = hub.validate(checkpoint)
    assert f"{name} has a name that plain loading doesn't read" in problem


def test_validate_reports_a_record_that_can_not_be_read(checkpoint):
    (checkpoint / CONFIG_NAME).write_text("{")
    (problem,) = hub.validate(checkpoint)
    assert "not valid JSON" in problem


def test_card_says_what_the_record_says_and_the_hub_can_read_it(checkpoint):
    (checkpoint / "pictures").mkdir()
    (checkpoint / "pictures" / "one.png").write_bytes(b"x")
    text = hub.render_card(checkpoint)
    data = ModelCard(text).data
    assert data.library_name == "wm-pipelines" and data.pipeline_tag == "image-segmentation"
    assert data.license == "apache-2.0" and "arxiv:2405.04834" in data.tags
    (result,) = data.eval_results
    assert (result.metric_value, result.metric_name, result.dataset_name) == (
        0.987,
        "colour accuracy",
        "diorama held-out",
    )
    assert "| 0.987 | 0.98 to 0.99 | 500 | 0 | 0.125 |" in text
    assert "`python benchmarks/judge.py`" in text and "![one](pictures/one.png)" in text
    assert all(digest in text for digest in hub.hash_files(checkpoint).values())
    results = (checkpoint / ".eval_results" / "diorama-held-out.yaml").read_text()
    entries = parse_eval_result_entries(yaml.safe_load(results))
    assert [(entry.value, entry.task_id) for entry in entries] == [(0.987, "per-pixel-classes-colour-accuracy")]
    assert "synthetic data" in entries[0].notes


def test_card_leads_to_a_gallery_that_is_there_and_an_upload_takes_it(checkpoint):
    assert "gallery.md" not in hub.render_card(checkpoint)
    (checkpoint / "gallery.md").write_text("![one](gallery/one.png)\n")
    (checkpoint / "gallery").mkdir()
    (checkpoint / "gallery" / "one.png").write_bytes(b"x")
    hub.write_card(checkpoint)
    assert "](gallery.md)" in (checkpoint / "README.md").read_text()
    assert {"gallery.md", "gallery/one.png"} <= set(hub.publish(checkpoint, "org/judge").files)


@pytest.mark.parametrize("method", methods())
def test_every_method_has_a_card(checkpoint, method):
    settings = {"colours": ["red"], "shapes": ["cube"]} if method == "diorama-judge" else {}
    hub.seal(checkpoint, WMConfig(method=method, method_config=settings, vocabulary=["a", "red"]))
    hub.write_card(checkpoint)
    assert hub.validate(checkpoint) == []
    text = (checkpoint / "README.md").read_text()
    assert "knows 2 words and no others" in text and "No training is on record" in text


def test_card_of_a_stock_pipeline_shows_stock_code(checkpoint):
    hub.seal(checkpoint, WMConfig(method="diorama-sd", pipeline="StableDiffusionPipeline"))
    text = hub.render_card(checkpoint)
    assert ModelCard(text).data.library_name == "diffusers"
    assert "StableDiffusionPipeline.from_pretrained" in text


def test_card_names_the_base_of_an_adapter_as_the_hub_wants_it(checkpoint):
    base = {"repo_id": "org/base", "revision": "a" * 40}
    record = WMConfig(method="flexecontrol", pipeline="FlexEControlPipeline", base_model=base)
    hub.seal(checkpoint, record)
    data = ModelCard(hub.render_card(checkpoint)).data.to_dict()
    assert data["base_model"] == "org/base" and data["base_model_relation"] == "adapter"
    assert "model-index" not in data
    assert "No evaluation is on record" in hub.render_card(checkpoint)


def test_outdated_card_and_left_over_results_are_reported(checkpoint):
    record = WMConfig.load(checkpoint)
    better = [record.evaluation[0].model_copy(update={"value": 0.99, "dataset": "other"})]
    record.model_copy(update={"evaluation": better}).save(checkpoint)
    problems = "\n".join(hub.validate(checkpoint))
    assert "README.md does not match" in problems
    assert "other.yaml is missing" in problems and "diorama-held-out.yaml is not in the record" in problems
    hub.write_card(checkpoint)
    assert hub.validate(checkpoint) == []


def test_card_is_the_same_twice_and_ends_in_one_newline(checkpoint):
    text = hub.render_card(checkpoint)
    assert text == hub.render_card(checkpoint)
    assert text.endswith("\n") and not text.endswith("\n\n") and "\n\n\n" not in text
    assert json.loads((checkpoint / CONFIG_NAME).read_text())["paper"] in text
