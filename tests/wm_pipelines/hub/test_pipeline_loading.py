"""WMPipeline and AutoWMPipeline: saving with the record, refusals, and loading by Hub id in a fresh process."""

import copy
import json
import re
import shutil

import pytest
import torch

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME, BaseModelRef, WMConfig
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline
from wm_pipelines.methods import load, pipelines
from wm_pipelines.pipeline import AutoWMPipeline, WMPipeline

PLAIN = {"HF_HUB_DISABLE_XET": "1"}


@pytest.fixture(scope="module")
def control(tiny_sd):
    return FlexEControlModel.from_unet(
        copy.deepcopy(tiny_sd["unet"]),
        r=1,
        condition_stride=4,
        feature_channels=(4, 4, 4),
        pre_channels=(4, 4),
        map_stride=2,
        types=("canny", "seg"),
    )


@pytest.fixture(scope="module")
def saved(tiny_sd, control, tmp_path_factory):
    """`base`: a whole stock pipeline. `adapter`: for that base, by fingerprint. `whole`: both in one. All sealed."""
    from diffusers import StableDiffusionPipeline

    root = tmp_path_factory.mktemp("saved")
    parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**tiny_sd, **parts).save_pretrained(root / "base")
    record = WMConfig(
        method="diorama-sd",
        pipeline="StableDiffusionPipeline",
        method_config={"num_inference_steps": 2},
        vocabulary=["a", "red", "cube"],
    )
    fingerprint = hub.fingerprint(hub.seal(root / "base", record))
    control.save_pretrained(root / "adapter")
    reference = {"repo_id": "org/base", "fingerprint": fingerprint}
    record = WMConfig(method="flexecontrol", pipeline="FlexEControlPipeline", base_model=reference)
    hub.seal(root / "adapter", record)
    AutoWMPipeline.from_pretrained(root / "adapter", base=root / "base").save_pretrained(root / "whole")
    return root


@pytest.fixture
def base(saved, tmp_path):
    return shutil.copytree(saved / "base", tmp_path / "base")


@pytest.fixture
def adapter(saved, tmp_path):
    return shutil.copytree(saved / "adapter", tmp_path / "adapter")


@pytest.fixture
def whole(saved, tmp_path):
    return shutil.copytree(saved / "whole", tmp_path / "whole")


def test_adapter_folder_loads_with_its_base_and_both_records(adapter, base):
    pipe = AutoWMPipeline.from_pretrained(adapter, base=base)
    assert type(pipe) is FlexEControlPipeline
    assert pipe.source_folder == base and pipe.source_revisions == {}
    assert pipe.wm_config.method == "flexecontrol"
    assert pipe.wm_config.vocabulary == ["a", "red", "cube"]
    prompt = pipe("a red cube", num_inference_steps=1, output_type="np", height=64, width=64)
    assert prompt.images.shape == (1, 64, 64, 3)


def test_saved_pipeline_is_sealed_and_loads_by_its_record_alone(whole, adapter, base):
    record = hub.verify(whole)
    assert (record.method, record.pipeline) == ("flexecontrol", "FlexEControlPipeline")
    assert {name for name in record.files if name.endswith(".safetensors")} >= {
        "control/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert not list(whole.rglob("*.bin"))
    again, first = AutoWMPipeline.from_pretrained(whole), AutoWMPipeline.from_pretrained(adapter, base=base)
    assert type(again) is FlexEControlPipeline and again.wm_config == record
    for name in ("unet", "control", "vae", "text_encoder"):
        mine, theirs = getattr(again, name).state_dict(), getattr(first, name).state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in mine.items()), name


def test_stock_pipeline_loads_by_its_record(base):
    pipe = AutoWMPipeline.from_pretrained(base)
    assert type(pipe).__name__ == "StableDiffusionPipeline" and not isinstance(pipe, WMPipeline)


def test_slim_adapter_takes_its_copy_from_the_base(control, adapter, base, tmp_path):
    folder = tmp_path / "slim"
    control.save_pretrained(folder, slim=True)
    hub.seal(folder, WMConfig.load(adapter))
    pipe = AutoWMPipeline.from_pretrained(folder, base=base)
    assert (folder / "diffusion_pytorch_model.safetensors").stat().st_size < (
        adapter / "diffusion_pytorch_model.safetensors"
    ).stat().st_size
    for key, tensor in control.state_dict().items():
        assert torch.equal(pipe.control.state_dict()[key], tensor), key


def test_another_base_is_refused_by_name(adapter, base, tmp_path):
    record = WMConfig.load(base)
    other = tmp_path / "other"
    base.rename(other)
    (other / "scheduler" / "note.txt").write_text("changed")
    hub.seal(other, record)
    with pytest.raises(ValueError, match=f"adapter for 'org/base' .*but the base is '{other}' .*diorama-sd"):
        AutoWMPipeline.from_pretrained(adapter, base=other)


def test_base_without_a_record_is_refused_where_one_is_expected(adapter, base):
    (base / CONFIG_NAME).unlink()
    with pytest.raises(ValueError, match="without a record, no fingerprint"):
        AutoWMPipeline.from_pretrained(adapter, base=base)


def test_local_copy_of_a_stock_base_passes(adapter, base):
    record = WMConfig.load(adapter).model_copy(update={"base_model": BaseModelRef(repo_id="org/stock")})
    hub.seal(adapter, record)
    with pytest.raises(ValueError, match="adapter for 'org/stock'"):
        AutoWMPipeline.from_pretrained(adapter, base=base)
    (base / CONFIG_NAME).unlink()
    assert type(AutoWMPipeline.from_pretrained(adapter, base=base)) is FlexEControlPipeline


def test_whole_pipeline_takes_no_base(base, adapter):
    with pytest.raises(ValueError, match="is a whole pipeline and takes no base"):
        AutoWMPipeline.from_pretrained(base, base=base)


@pytest.mark.parametrize("part", ["adapter", "base"])
def test_damage_is_found_before_any_tensor_is_read(part, adapter, base, request, monkeypatch):
    folder = request.getfixturevalue(part)
    path = next(folder.rglob("diffusion_pytorch_model.safetensors"))
    path.write_bytes(path.read_bytes()[:-10])

    def read(*args, **kwargs):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(FlexEControlModel, "from_pretrained", read)
    with pytest.raises(ValueError, match="diffusion_pytorch_model.safetensors is truncated") as caught:
        AutoWMPipeline.from_pretrained(adapter, base=base)
    assert str(path) in str(caught.value)


def test_truncation_is_found_even_without_the_hashes(adapter, base):
    path = adapter / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is truncated"):
        AutoWMPipeline.from_pretrained(adapter, base=base, verify=False)


def test_verify_false_loads_an_altered_folder(base):
    path = base / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match="scheduler_config.json differs"):
        AutoWMPipeline.from_pretrained(base)
    assert AutoWMPipeline.from_pretrained(base, verify=False).unet is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": "9.0"}, "schema_version '9.0' is not readable"),
        ({"pipeline": "os.system"}, "names the pipeline 'os.system'; known are"),
        ({"pipeline": None}, "names the pipeline None"),
        ({"base_model": None}, "names no base to put it on"),
    ],
)
def test_record_that_can_not_be_followed_is_refused(adapter, base, change, words):
    data = json.loads((adapter / CONFIG_NAME).read_text()) | change
    (adapter / CONFIG_NAME).write_text(json.dumps(data))
    with pytest.raises(ValueError, match=words):
        AutoWMPipeline.from_pretrained(adapter, base=base)


@pytest.mark.parametrize(("name", "loader"), [("morpho4d", "Scene4D.from_pretrained"), ("diorama-clip", "CLIPModel")])
def test_a_checkpoint_that_is_no_pipeline_says_what_loads_it(name, loader):
    with pytest.raises(ValueError, match=rf"(?s)holds no pipeline; what is there is loaded so:.*{loader}"):
        AutoWMPipeline.from_pretrained(name)


def test_pickled_weights_in_an_adapter_folder_are_not_loaded(adapter, base, control):
    (adapter / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(control.state_dict(), adapter / "diffusion_pytorch_model.bin")
    hub.seal(adapter, WMConfig.load(adapter))
    with pytest.raises((OSError, ValueError), match="safetensors"):
        AutoWMPipeline.from_pretrained(adapter, base=base)
    with pytest.raises(ValueError, match="use_safetensors=False"):
        AutoWMPipeline.from_pretrained(adapter, base=base, use_safetensors=False)


def test_class_loads_an_embedded_name(adapter, base, control, monkeypatch):
    monkeypatch.setattr("wm_pipelines.hub.store.EMBEDDED_ROOT", base.parent)
    pipe = FlexEControlPipeline.from_pretrained("base", control=control)
    assert pipe.source_folder == base
    with pytest.raises(ValueError, match="'bass' is not an embedded checkpoint"):
        FlexEControlPipeline.from_pretrained("bass", control=control)
    path = base / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match="scheduler_config.json differs"):
        FlexEControlPipeline.from_pretrained("base", control=control)


def test_auto_pipeline_is_not_built_directly():
    with pytest.raises(OSError, match="from_pretrained"):
        AutoWMPipeline()


@pytest.mark.parametrize(
    "option",
    [{"custom_pipeline": "x/y"}, {"trust_remote_code": True}, {"use_safetensors": False}, {"use_flashpack": True}],
)
def test_download_refuses_code_and_pickles_before_it_asks_anyone(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}=.* is not allowed"):
        WMPipeline.download("org/name", **option)


def test_save_refuses_pickles_and_pushing(whole, tmp_path):
    pipe = FlexEControlPipeline.from_pretrained(whole)
    with pytest.raises(ValueError, match="safe_serialization=False"):
        pipe.save_pretrained(tmp_path / "new", safe_serialization=False)
    with pytest.raises(ValueError, match="push_to_hub=True"):
        pipe.save_pretrained(tmp_path / "new", push_to_hub=True)
    assert not (tmp_path / "new").exists()


def test_save_that_fails_leaves_nothing_and_save_again_replaces(whole, tmp_path, monkeypatch):
    pipe = FlexEControlPipeline.from_pretrained(whole)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(pipe.unet, "save_pretrained", fail)
        pipe.save_pretrained(tmp_path / "new")
    assert not list(tmp_path.glob("*new*"))
    pipe.save_pretrained(tmp_path / "new")
    (tmp_path / "new" / "notes.md").write_text("kept")
    pipe.wm_config = pipe.wm_config.model_copy(update={"licence": "mit"})
    pipe.save_pretrained(tmp_path / "new")
    assert hub.verify(tmp_path / "new").licence == "mit" and (tmp_path / "new" / "notes.md").is_file()
    assert not list(tmp_path.glob(".new*"))


PUBLISH = """
    from wm_pipelines import hub
    done = {}
    for folder, name in zip(args[::2], args[1::2]):
        done[name] = hub.publish(folder, name, dry_run=False, token="writer").commit
    print(json.dumps(done))
"""
LOAD = """
    import urllib.error, urllib.request
    import torch
    from wm_pipelines import AutoWMPipeline, FlexEControlPipeline

    def draw(pipe):
        pipe.set_progress_bar_config(disable=True)
        image = pipe("a red cube", num_inference_steps=2, output_type="np", height=64, width=64,
                     generator=torch.Generator().manual_seed(0)).images
        return [type(pipe).__name__, pipe.source_revisions, pipe.wm_config.method, float(image.sum())]

    found = [draw(FlexEControlPipeline.from_pretrained("org/whole"))]
    found.append(draw(AutoWMPipeline.from_pretrained("org/adapter")))
    try:
        urllib.request.urlopen(args[0] + "/from-here-on-offline")
    except urllib.error.HTTPError:
        pass
    found.append(draw(AutoWMPipeline.from_pretrained("org/adapter", local_files_only=True)))
    print(json.dumps(found))
"""


def test_published_pipeline_and_adapter_load_by_hub_id_in_a_fresh_process(fake_hub, client, whole, adapter, base):
    for folder in (whole, adapter, base):
        hub.write_card(folder)
    names = (whole, "org/whole", adapter, "org/adapter", base, "org/base")
    commits = client(fake_hub.endpoint, PUBLISH, *names, **PLAIN)
    for name in commits:
        commits[name] = fake_hub.add_files(name, {"pipeline.py": b"raise SystemExit(1)", "unet/model.bin": b"pickle"})
    fake_hub.requests.clear()
    call = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64}
    pipe = AutoWMPipeline.from_pretrained(adapter, base=base)
    image = pipe("a red cube", generator=torch.Generator().manual_seed(0), **call).images
    expected = pytest.approx(float(image.sum()), rel=1e-5)

    full, parts, offline = client(fake_hub.endpoint, LOAD, fake_hub.endpoint)

    assert full == ["FlexEControlPipeline", {"pipeline": commits["org/whole"]}, "flexecontrol", expected]
    shas = {"pipeline": commits["org/base"], "control": commits["org/adapter"]}
    assert parts == ["FlexEControlPipeline", shas, "flexecontrol", expected]
    assert offline == parts
    assert "wm_config.json" in fake_hub.fetched()
    assert not [name for name in fake_hub.fetched() if re.search(r"\.(py|bin|pt|ckpt)$", name)]
    assert fake_hub.requests[-1].path == "/from-here-on-offline"


@pytest.mark.parametrize("name", ["discffusion", "cpl", "comclip", "kadaptation", "flexecontrol", "diorama-video"])
def test_a_pipeline_class_that_is_given_an_adapter_says_who_loads_it(name, tmp_path):
    kind = load(pipelines()[WMConfig.load(hub.EMBEDDED_ROOT / name).pipeline])
    folder = shutil.copytree(hub.EMBEDDED_ROOT / name, tmp_path / name)
    for source in (name, str(folder), folder):
        with pytest.raises(ValueError, match=r"is no whole pipeline: .* AutoWMPipeline.from_pretrained\('.*'\) loads"):
            kind.from_pretrained(source)
