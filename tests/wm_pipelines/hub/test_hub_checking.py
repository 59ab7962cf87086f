"""Configurations are read strictly and bounded before a loader sees them; what a loader says is one clear error."""

import json
import re
import shutil
import struct

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from wm_pipelines.cpl.modeling import CPLPromptLearner
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.hub import EMBEDDED_ROOT
from wm_pipelines.hub.checking import check_folder, read_config, translated
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.pipeline import AutoWMPipeline, WMPipeline
from wm_pipelines.runtime import limits, tensors


class Stock(WMPipeline, StableDiffusionPipeline):
    """A whole pipeline of a stock class."""


@pytest.fixture
def learner(tmp_path):
    """`learner(**changes)`: the folder of the embedded prompt learner with another configuration."""

    def make(**changes):
        folder = tmp_path / "learner"
        shutil.copytree(EMBEDDED_ROOT / "cpl", folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return folder

    return make


@pytest.mark.parametrize("value", ["4", 4.5, None, [4], True, {}, 10**17])
def test_a_value_of_another_type_is_refused_by_name(learner, value):
    folder = learner(n_ctx=value)
    for load in (CPLPromptLearner.from_pretrained, lambda f: AutoWMPipeline.from_pretrained(f, verify=False)):
        with pytest.raises(ValueError, match="n_ctx|can't be loaded"):
            load(folder)


@pytest.mark.parametrize(
    "text", ["[" * 10**5, "[1]", '"x"', "{", '{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', ""]
)
def test_a_configuration_that_is_none_is_refused_with_its_file(learner, text):
    folder = learner()
    (folder / "config.json").write_text(text)
    for load in (CPLPromptLearner.from_pretrained, lambda f: AutoWMPipeline.from_pretrained(f, verify=False)):
        with pytest.raises(ValueError, match="config.json"):
            load(folder)


def test_a_byte_order_mark_is_no_part_of_it(tmp_path):
    path = tmp_path / "adapter_config.json"
    for mark, encoding in (("\ufeff", "utf-8"), ("\ufeff", "utf-16-le")):
        path.write_bytes((mark + '{"r": 2}').encode(encoding))
        assert read_config(path) == {"r": 2}


@pytest.mark.parametrize(
    "values",
    [{"num_hidden_layers": 20_000}, {"text_config": {"num_hidden_layers": 1e5}}, {"layers_per_block": [2, 10**9]},
     {"a": [{"b": {"depths": [2] * 5000}}]}],
)  # fmt: skip
def test_more_layers_than_any_model_has_are_refused(tmp_path, values):
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="config.json: .*asks for .*WM_MAX_LAYERS"):
        check_folder(tmp_path)


def test_configurations_of_real_models_pass(tmp_path):
    values = {"num_hidden_layers": 126, "block_size": 16384, "block_out_channels": [320, 1280], "layer_norm_eps": 1e-5}
    (tmp_path / "config.json").write_text(json.dumps({**values, "vision_feature_layer": -2, "layers_dim": [4096]}))
    check_folder(tmp_path)
    for name in EMBEDDED_ROOT.iterdir():
        check_folder(name)


def test_a_tokenizer_without_a_longest_text_is_read(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"model_max_length": int(1e30)}))  # as transformers writes it
    assert read_config(path) == {"model_max_length": int(1e30)}
    path.write_text(json.dumps({"model_max_length": 10**31}))
    with pytest.raises(ValueError, match="tokenizer_config.json: a number is out of range"):
        read_config(path)


def test_what_a_library_raises_is_one_clear_error_and_ours_passes():
    for error in (
        KeyError("x"),
        TypeError("x"),
        RecursionError("x"),
        AttributeError("x"),
        RuntimeError("size"),
        NotImplementedError("x"),
    ):
        with pytest.raises(ValueError, match="'there' can't be loaded: .*(x|size)"), translated("there"):
            raise error
    for error in (ValueError("as it is"), OSError("as it is"), ImportError("as it is")):
        with pytest.raises(type(error), match="^as it is$"), translated("there"):
            raise error


def test_a_scheduler_of_an_unknown_schedule_is_one_clear_error(tmp_path):
    DDIMScheduler().save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    file.write_text(file.read_text().replace('"linear"', '"liner"'))
    with pytest.raises(ValueError, match="can't be loaded.*liner"):
        load_part(DDIMScheduler, tmp_path)


def header(path, value, rest=b""):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)
    return path


@pytest.mark.parametrize(
    "value",
    [b"[" * 1000, b"{}x", {"a": 1}, b"{", {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
     {"__metadata__": []},
     {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}, b'{"a": 1e999}', {"__metadata__": {"a": 1}}],
)  # fmt: skip
def test_headers_that_are_none_are_refused_before_the_library_sees_them(tmp_path, value):
    path = header(tmp_path / "a.safetensors", value, b"\0" * 4)
    with pytest.raises(ValueError, match="a.safetensors"):
        tensors.check_safetensors(path)
    with pytest.raises(ValueError, match="a.safetensors can't be read"):
        tensors.read_tensors(path)


def test_a_header_beyond_the_limit_is_refused_and_the_option_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path)
    assert tensors.check_safetensors(path) == {"a": (2,)}
    assert torch.equal(tensors.read_tensors(path)["a"], torch.ones(2))
    monkeypatch.setattr(tensors, "MAX_HEADER_BYTES", 10)
    with pytest.raises(ValueError, match="WM_MAX_HEADER_BYTES"):
        tensors.check_safetensors(path)


def test_a_limit_is_a_positive_integer(monkeypatch):
    assert limits.limit("X", 5) == 5
    monkeypatch.setenv("WM_MAX_X", "70")
    assert limits.limit("X", 5) == 70
    for bad in ("0", "-1", "1e3", "many", "1" * 30):
        monkeypatch.setenv("WM_MAX_X", bad)
        with pytest.raises(ValueError, match="WM_MAX_X"):
            limits.limit("X", 5)


@pytest.mark.parametrize("name, kind", [("diorama-judge", DioramaJudge), ("diorama-clip", CLIPModel)])
def test_weights_that_a_file_lacks_are_named_and_never_made_up(tmp_path, name, kind):
    folder = shutil.copytree(EMBEDDED_ROOT / name, tmp_path / name)
    path = next(folder.glob("*.safetensors"))
    tensors = load_file(path)
    first = sorted(tensors)[0]
    save_file({"other": tensors.pop(first), **tensors}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lack {re.escape(first)}"):
        load_model(kind, folder)


def test_a_pipeline_with_a_part_that_lacks_weights_is_refused(tmp_path):
    folder = shutil.copytree(EMBEDDED_ROOT / "diorama-sd", tmp_path / "base")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("conv_in.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="unet, first 'conv_in.weight'"):
        Stock.from_pretrained(folder)
