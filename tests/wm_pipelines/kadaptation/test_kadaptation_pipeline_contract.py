"""What every diffusers pipeline is expected to do, asked of KAdaptationPipeline."""

import copy
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file

from wm_pipelines import hub
from wm_pipelines.adapters.injected import without
from wm_pipelines.config import WMConfig
from wm_pipelines.kadaptation import adapter
from wm_pipelines.kadaptation.modeling import KAdaptationHead
from wm_pipelines.kadaptation.pipeline import KAdaptationPipeline
from wm_pipelines.pipeline import AutoWMPipeline

FRESH = """
import sys, torch
from safetensors.torch import load_file, save_file
from wm_pipelines import KAdaptationPipeline
whole, base, small, given, made, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
pictures = load_file(given)["pictures"]
out = {}
for name, pipe in (("whole", KAdaptationPipeline.from_pretrained(whole)),
                   ("small", KAdaptationPipeline.from_base(base, small))):
    assert pipe.head.config.class_names == ["blue", "green", "red"], name
    out[name] = pipe(pictures).logits.contiguous()
save_file(out, made)
"""


@pytest.mark.slow
def test_saved_and_loaded_in_a_fresh_process_it_gives_the_same(fitted, pictures, clip_folder, tmp_path):
    here = fitted(pictures[0]).logits
    fitted.save_pretrained(tmp_path / "whole")
    fitted.save_adapter(tmp_path / "small")
    assert torch.equal(fitted(pictures[0]).logits, here)  # saving leaves the adapter where it is
    save_file({"pictures": pictures[0]}, tmp_path / "given.safetensors")
    given, made = tmp_path / "given.safetensors", tmp_path / "made.safetensors"
    places = map(str, (tmp_path / "whole", clip_folder, tmp_path / "small", given, made))
    command = [sys.executable, "-c", FRESH, *places, str(torch.get_num_threads())]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert run.returncode == 0, run.stderr[-2000:]
    for name, there in load_file(made).items():
        assert torch.equal(there, here), name


def test_the_saved_tower_is_a_stock_one_and_peft_reads_the_adapter(fitted, pictures, tmp_path):
    from peft import PeftModel
    from transformers import CLIPVisionModelWithProjection

    fitted.save_pretrained(tmp_path)
    tower, found = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "vision_model", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels = fitted.preprocess(pictures[0])
    with torch.no_grad(), without(fitted.vision_model):
        assert torch.equal(tower(pixels).image_embeds, fitted.vision_model(pixels).image_embeds)
    wrapped = PeftModel.from_pretrained(tower, tmp_path / "adapter")
    with torch.no_grad():
        logits = fitted.head(wrapped(pixel_values=pixels).image_embeds)
    torch.testing.assert_close(logits, fitted(pictures[0]).logits, rtol=1e-5, atol=1e-5)


def test_an_unfitted_or_probed_pipeline_saves_and_loads_too(pipe, pictures, tmp_path):
    pipe.save_pretrained(tmp_path / "new")
    loaded = KAdaptationPipeline.from_pretrained(tmp_path / "new")
    assert loaded.head is None and loaded.wm_config.method == "kadaptation"
    pipe.fit(*pictures, probe=True, epochs=2)
    pipe.save_pretrained(tmp_path / "probe")
    loaded = KAdaptationPipeline.from_pretrained(tmp_path / "probe")
    assert torch.equal(loaded(pictures[0]).logits, pipe(pictures[0]).logits)
    assert not (tmp_path / "probe" / "adapter").exists()


def test_auto_pipeline_finds_the_base_of_the_small_form(as_embedded, pictures, config, tmp_path):
    pipe = KAdaptationPipeline.from_clip("diorama-clip")
    pipe.set_progress_bar_config(disable=True)
    pipe.fit(*pictures, epochs=2, config=config).save_adapter(tmp_path / "mine")
    record = WMConfig.load(tmp_path / "mine")
    assert record.base_model.embedded == "diorama-clip" and record.training.recipe["epochs"] == 2
    assert record.method_config.templates == ["a photo of a {}."] and record.method_config.image_size == 32
    assert set(record.files) == {"adapter_config.json", "adapter_model.safetensors", "config.json",
                                 "diffusion_pytorch_model.safetensors"}  # fmt: skip
    loaded = AutoWMPipeline.from_pretrained(tmp_path / "mine")
    assert type(loaded) is KAdaptationPipeline
    assert torch.equal(loaded(pictures[0]).logits, pipe(pictures[0]).logits)
    pipe.save_pretrained(tmp_path / "whole")
    assert torch.equal(AutoWMPipeline.from_pretrained(tmp_path / "whole")(pictures[0]).logits, loaded(pictures[0])[0])
    # what is loaded can be fitted again, and still knows the vocabulary of its base
    loaded.fit(*pictures, epochs=1, config=config)
    with pytest.raises(ValueError, match="the word 'dog', which this checkpoint does not know; it knows a, blue"):
        loaded.fit(*pictures, class_names=["red", "green", "blue", "dog"], config=config)

    weights = tmp_path / "mine" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ValueError, match="differs from its record"):
        AutoWMPipeline.from_pretrained(tmp_path / "mine")
    other = as_embedded / "diorama-clip"
    hub.seal(other, WMConfig(method="diorama-clip"))
    with pytest.raises(ValueError, match="adapter for 'other'"):
        record = record.model_copy(update={"base_model": record.base_model.model_copy(update={"embedded": "other"})})
        changed = record.base_model.model_copy(update={"fingerprint": "0" * 64})
        hub.seal(tmp_path / "mine", record.model_copy(update={"base_model": changed}))
        AutoWMPipeline.from_pretrained(tmp_path / "mine", base="diorama-clip")


def test_files_in_half_precision(fitted, pictures, clip_folder, tmp_path):
    fitted.save_adapter(tmp_path / "half", dtype=torch.float16)
    for path in (tmp_path / "half").glob("*.safetensors"):
        assert {t.dtype for t in load_file(path).values()} == {torch.float16}
    loaded = KAdaptationPipeline.from_base(clip_folder, tmp_path / "half")
    assert loaded.head.dtype == torch.float32
    torch.testing.assert_close(loaded(pictures[0]).logits, fitted(pictures[0]).logits, rtol=1e-2, atol=2e-2)
    assert fitted.head.dtype == torch.float32


def test_dict_and_tuple_hold_the_same(fitted, pictures):
    output = fitted(pictures[0])
    logits, probs, labels = fitted(pictures[0], return_dict=False)
    assert torch.equal(logits, output.logits) and torch.equal(probs, output.probs) and labels == output.labels


def test_one_of_many_equals_one_alone(fitted, pictures):
    many = fitted(pictures[0]).logits
    for i in (0, 7):
        assert (fitted(pictures[0][i]).logits[0] - many[i]).abs().max() < 1e-4
    assert (fitted(pictures[0], batch_size=5).logits - many).abs().max() < 1e-4
    changed = pictures[0].clone()
    changed[3] = 0  # another picture of the batch has no say
    assert (fitted(changed).logits[0] - many[0]).abs().max() < 1e-4


def test_pictures_of_every_kind(fitted, pictures):
    tensor = (pictures[0][0] * 255).round() / 255
    array = (tensor * 255).round().byte().permute(1, 2, 0).numpy()
    clear = np.dstack([array, np.full((16, 16), 255, np.uint8)])
    kinds = [tensor, tensor[None], array, array[None], array.astype(np.float32) / 255]
    kinds += [PIL.Image.fromarray(array), [PIL.Image.fromarray(clear)], PIL.Image.fromarray(array).convert("RGBA")]
    expected = fitted(tensor).logits
    for kind in kinds:
        assert torch.equal(fitted(kind).logits, expected)
    grey = PIL.Image.fromarray(array).convert("L")
    assert torch.equal(fitted(grey).logits, fitted(grey.convert("RGB")).logits)
    empty = PIL.Image.fromarray(np.zeros((16, 16, 4), np.uint8))  # nothing but transparency: white
    assert torch.equal(fitted(empty).logits, fitted(np.full((16, 16, 3), 255, np.uint8)).logits)
    assert fitted(PIL.Image.fromarray(array).resize((40, 24))).logits.shape == (1, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(fitted, pictures, clip_folder, tmp_path, dtype):
    exact = fitted(pictures[0]).probs
    fitted.save_pretrained(tmp_path)
    loaded = KAdaptationPipeline.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.vision_model.dtype == dtype
    for pipe in (loaded, fitted.to(dtype)):
        logits = pipe(pictures[0]).logits
        assert logits.dtype == torch.float32 and (logits.softmax(1) - exact).abs().max() < 0.1


def test_a_bfloat16_base_can_be_fitted(clip_folder, pictures, config):
    pipe = KAdaptationPipeline.from_clip(clip_folder, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    pipe.fit(*pictures, epochs=8, config=config, learning_rate=2e-2, head_learning_rate=2e-2)
    assert {p.dtype for p in adapter.parameters(pipe.vision_model)} == {torch.float32}
    assert pipe.history[-1]["loss"] < pipe.history[0]["loss"]


def test_group_offload(fitted, pictures, config):
    expected = fitted(pictures[0]).logits
    fitted.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    torch.testing.assert_close(fitted(pictures[0]).logits, expected)
    with pytest.raises(ValueError, match="vision_model.* is offloaded; fit first"):
        fitted.fit(*pictures, config=config)


def test_offload_sequence_names_every_module(fitted):
    modules = {name for name, part in fitted.components.items() if isinstance(part, torch.nn.Module)}
    assert set(KAdaptationPipeline.model_cpu_offload_seq.split("->")) == modules


def test_components_make_another_pipeline(fitted, pictures):
    again = KAdaptationPipeline(**fitted.components, logit_scale=fitted.config.logit_scale)
    assert torch.equal(again(pictures[0]).logits, fitted(pictures[0]).logits)


def test_the_head_is_a_stock_model(fitted, tmp_path):
    fitted.head.save_pretrained(tmp_path)
    loaded = KAdaptationHead.from_pretrained(tmp_path)
    features = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(features), fitted.head(features))
    assert loaded.config.class_names == ["blue", "green", "red"]
    copied = copy.deepcopy(fitted.head)
    assert torch.equal(copied(features), fitted.head(features))


def test_progress_is_shown_and_can_be_turned_off(fitted, pictures, capsys):
    fitted(pictures[0])
    assert capsys.readouterr().err == ""
    fitted.set_progress_bar_config(disable=False)
    fitted(pictures[0], batch_size=4)
    assert "3/3" in capsys.readouterr().err


def test_a_vision_tower_alone(clip_folder, pictures, config, tmp_path):
    from transformers import CLIPVisionModelWithProjection

    CLIPVisionModelWithProjection.from_pretrained(clip_folder).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((clip_folder / "preprocessor_config.json").read_text())
    pipe = KAdaptationPipeline.from_clip(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.text_model is None and pipe.tokenizer is None
    with pytest.warns(UserWarning, match="no text_model"):
        pipe.fit(*pictures, epochs=1, config=config)
    pipe.save_pretrained(tmp_path / "whole")
    loaded = KAdaptationPipeline.from_pretrained(tmp_path / "whole")
    assert torch.equal(loaded(pictures[0]).logits, pipe(pictures[0]).logits)
