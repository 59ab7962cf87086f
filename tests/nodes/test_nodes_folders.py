"""The loader's list: what it offers, and that no name leaves its folder."""

import json

import pytest


@pytest.fixture
def folders(wm_nodes):
    from importlib import import_module

    return import_module(f"{wm_nodes.__name__}._shared.folders")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "models" / "wm_pipelines"
    for name in ("plain", "owner/nested", ".hidden"):
        (root / name).mkdir(parents=True)
        (root / name / "model_index.json").write_text("{}")
    (root / "adapter").mkdir()
    (root / "adapter" / "wm_config.json").write_text(json.dumps({"pipeline": "FlexEControlPipeline"}))
    (root / "judge").mkdir()
    (root / "judge" / "wm_config.json").write_text(json.dumps({"pipeline": None}))
    (root / "broken").mkdir()
    (root / "broken" / "wm_config.json").write_text("{")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "model_index.json").write_text("{}")
    return root


def test_lists_whole_pipelines_and_adapters_only(folders, root):
    local = [name for name in folders.list_models([root]) if not name.startswith("embedded/")]
    assert local == ["adapter", "owner/nested", "plain"]


def test_lists_and_resolves_kronecker_adapters(folders, root, tmp_path):
    for name, text in (
        ("style", '{"peft_type": "KRONECKER"}'),
        ("owner/subject", '{"peft_type": "KRONECKER"}'),
        ("lora", '{"peft_type": "LORA"}'),
        ("cut", '{"peft_type"'),
    ):
        (root / name).mkdir(parents=True)
        (root / name / "adapter_config.json").write_text(text)
    assert folders.list_adapters([root]) == ["embedded/diorama-stripes", "owner/subject", "style"]
    assert folders.resolve_adapter("owner/subject", [tmp_path, root]) == root / "owner" / "subject"
    for name, message in (
        ("lora", "is not there; found: embedded/diorama-stripes, owner/subject, style"),
        ("../style", "refused"),
    ):
        with pytest.raises(ValueError, match=f"adapter '{name}' .*{message}"):
            folders.resolve_adapter(name, [root])


def test_resolves_what_it_lists_first_root_first(folders, root, tmp_path):
    second = tmp_path / "more"
    (second / "plain").mkdir(parents=True)
    (second / "plain" / "model_index.json").write_text("{}")
    assert folders.resolve_model("plain", [root, second]) == root / "plain"
    assert folders.resolve_model("plain", [second, root]) == second / "plain"
    assert folders.resolve_model("owner/nested", [root]) == root / "owner" / "nested"


@pytest.mark.parametrize(
    "name",
    [
        "../../secret",
        "plain/../../../secret",
        "/etc",
        "~/x",
        "C:/windows",
        "C:x",
        "..\\secret",
        "embedded/../../secret",
        "",
        " ",
        "plain\n",
        "a\0b",
    ],
)
def test_path_traversal_is_refused(folders, root, name):
    with pytest.raises(ValueError, match="refused"):
        folders.resolve_model(name, [root])


def test_absolute_path_of_a_real_checkpoint_is_refused(folders, root, tmp_path):
    with pytest.raises(ValueError, match="refused"):
        folders.resolve_model(str(tmp_path / "secret"), [root])


@pytest.mark.parametrize("name", ["nothing", "judge", ".hidden", "embedded/nothing", "owner"])
def test_a_name_that_is_not_offered_is_an_error_that_lists_the_offer(folders, root, name):
    with pytest.raises(ValueError, match="is not there; found: .*plain"):
        folders.resolve_model(name, [root])


def test_fingerprint_follows_the_files(folders, root):
    before = folders.fingerprint(root / "plain")
    assert folders.fingerprint(root / "plain") == before
    (root / "plain" / "model_index.json").write_text('{"a": 1}')
    assert folders.fingerprint(root / "plain") != before


def test_missing_root_is_empty(folders, tmp_path):
    assert [name for name in folders.list_models([tmp_path / "none"]) if not name.startswith("embedded/")] == []


@pytest.fixture
def comfy_paths(monkeypatch, tmp_path):
    """A stand-in for ComfyUI's own list of folders, with two files in `loras`."""
    import sys
    import types

    (tmp_path / "loras").mkdir()
    for name in ("style.safetensors", "old.pt"):
        (tmp_path / "loras" / name).write_bytes(b"")
    known = {"loras": ([str(tmp_path / "loras")], {".safetensors", ".pt"})}
    module = types.SimpleNamespace(
        folder_names_and_paths=known,
        models_dir=str(tmp_path / "models"),
        get_output_directory=lambda: str(tmp_path / "output"),
        get_filename_list=lambda kind: sorted(path.name for path in (tmp_path / kind).iterdir()),
        get_full_path_or_raise=lambda kind, name: str(tmp_path / kind / name),
    )
    monkeypatch.setitem(sys.modules, "folder_paths", module)
    return module


def test_what_a_graph_saves_is_offered_last(folders, comfy_paths, tmp_path):
    folders.register()
    folders.register()
    paths, _ = comfy_paths.folder_names_and_paths["wm_pipelines"]
    assert paths == [str(tmp_path / "models" / "wm_pipelines"), str(tmp_path / "output" / "wm_pipelines")]


def test_files_of_the_user_are_safetensors_from_comfyuis_own_folders(folders, comfy_paths, tmp_path):
    assert folders.list_files("loras") == ["style.safetensors"] and folders.list_files("animatediff_models") == []
    assert folders.resolve_file("lora", "loras", "style.safetensors") == tmp_path / "loras" / "style.safetensors"
    for name in ("old.pt", "../loras/style.safetensors", "/etc/passwd", ""):
        with pytest.raises(ValueError, match="is not there; found: style.safetensors"):
            folders.resolve_file("lora", "loras", name)


def test_motion_adapters_are_folders_of_diffusers(folders, comfy_paths, root):
    (root / "motion").mkdir()
    (root / "motion" / "config.json").write_text('{"_class_name": "MotionAdapter"}')
    assert folders.list_motion_adapters([root]) == ["embedded/diorama-video", "motion"]
    assert folders.resolve_motion_adapter("motion", [root]) == root / "motion"
    assert (folders.resolve_motion_adapter("embedded/diorama-video", [root]) / "config.json").is_file()
    with pytest.raises(ValueError, match="refused"):
        folders.resolve_motion_adapter("../motion", [root])


def test_kronecker_adapters_to_export_are_embedded_ones_too(folders, root):
    assert folders.list_kronecker([root]) == ["embedded/diorama-stripes", "embedded/kadaptation"]
    assert (folders.resolve_kronecker("embedded/kadaptation", [root]) / "adapter_config.json").is_file()
