"""Bad input: one clear ValueError each, before anything changes."""

import json
import re

import numpy as np
import pytest
import torch

from wm_pipelines.adapters.kronecker import KroneckerConfig
from wm_pipelines.kadaptation import adapter
from wm_pipelines.kadaptation.pipeline import KAdaptationPipeline

NAMES = ["red", "green", "blue"]
ZERO = [0] * 12


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1] * 5 + [2, 3], {"class_names": NAMES}, "labels: label 3 outside [0,3)"),
        ([0] * 11 + [-1], {"class_names": NAMES}, "labels: label -1 outside [0,3)"),
        (ZERO, {}, "class_names has 1 entry; a classifier needs at least 2"),
        (["red"] * 12, {}, "class_names has 1 entry; a classifier needs at least 2"),
        (["red"] * 12, {"class_names": ["red"]}, "class_names has 1 entry"),
        ([], {}, "labels is empty"),
        ([0, 1], {}, "labels has 2 entries for 12 pictures"),
        (["red"] * 11 + ["gren"], {"class_names": NAMES}, "labels has the class 'gren', which is unknown"),
        (["red"] * 6 + [0] * 6, {}, "labels must be all int or all str, got int, str"),
        ([True, False] * 6, {}, "labels must be all int or all str, got bool"),
        ([0.0, 1.0] * 6, {}, "labels must be all int or all str, got float"),
        ("red", {}, "labels must be a sequence, got the string 'red'"),
        ([0, 1] * 6, {"class_names": ["red", "red"]}, "class_names has 'red' more than once"),
        ([0, 1] * 6, {"class_names": ["red", " "]}, "class_names must be non-empty strings"),
        ([0, 1] * 6, {"class_names": ["red", "blue"], "templates": ()}, "templates is empty"),
        ([0, 1] * 6, {"class_names": ["red", "blue"], "templates": ["a photo"]}, "templates has 'a photo'"),
        ([0, 1] * 6, {"class_names": ["red", "blue"], "templates": ["{x} {}"]}, "templates has '{x} {}'; a template"),
        ([0, 1] * 6, {"class_names": ["red", "blue " * 90]}, "tokens; limit is 77"),
        (None, {"epochs": -1}, "epochs must be an integer of at least 0, got -1"),
        (None, {"epochs": 1.5}, "epochs must be an integer of at least 0, got 1.5"),
        (None, {"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        (None, {"seed": "x"}, "seed must be an integer of at least 0, got 'x'"),
        (None, {"learning_rate": 0.0}, "learning_rate must be finite and above 0, got 0.0"),
        (None, {"head_learning_rate": float("nan")}, "head_learning_rate must be finite and above 0, got nan"),
        (None, {"head": "mlp"}, "head must be one of cosine, linear_bn; got 'mlp'"),
        (None, {"head": "linear_bn", "batch_size": 1}, "needs batches of 2 pictures or more for their variance"),
        (None, {"config": {"n": 4}}, "config must be a KroneckerConfig, got dict"),
        (None, {"config": None}, "n=32 does not divide in_features=24; choose from 1, 2, 3, 4, 6, 8, 12, 24"),
        (None, {"config": KroneckerConfig(n=4, target_modules=["to_q"])}, "matched 0 Linear layers; nearest names"),
        (None, {"validation": ([], [])}, "images is empty"),
        (None, {"validation": (np.zeros((2, 16, 16, 3), np.uint8), ["red"])}, "labels of validation has 1 entries"),
        (None, {"validation": (np.zeros((16, 16, 3), np.uint8), ["pink"])}, "labels of validation has the class"),
    ],
)
def test_fit_refuses(pipe, pictures, config, labels, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pipe.fit(pictures[0], pictures[1] if labels is None else labels, **{"config": config, **options})
    assert pipe.head is None and not adapter.has_adapter(pipe.vision_model)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images is empty"),
        (torch.zeros(0, 3, 16, 16), "images is empty"),
        (["photo.png"], "images[0]: a picture is a PIL.Image, an array or a tensor, not str"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 2), np.uint8)], "images[1]: picture array has shape"),
        ([torch.full((3, 16, 16), 2.0)], "images[0]: picture values run from 2 to 2"),
        ([torch.full((3, 16, 16), float("nan"))], "images[0]: the picture holds NaN"),
        ([torch.zeros(3, 0, 16)], "images[0]: the picture is empty"),
        (None, "images[0]: a picture is a PIL.Image, an array or a tensor, not NoneType"),
    ],
)
def test_a_call_refuses_what_is_no_picture(fitted, images, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted(images)


def test_a_call_needs_a_fit(pipe, pictures, tmp_path):
    with pytest.raises(ValueError, match="not fitted: call fit"):
        pipe(pictures[0])
    with pytest.raises(ValueError, match="nothing to save: call fit"):
        pipe.save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_call_refuses_a_batch_of_nothing(fitted, pictures):
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got 0"):
        fitted(pictures[0], batch_size=0)


def test_float16_is_not_fitted(pipe, pictures, config):
    with pytest.raises(ValueError, match="float16, whose gradients vanish"):
        pipe.to(torch.float16).fit(*pictures, config=config)


def test_text_tower_and_tokenizer_belong_together(pipe):
    with pytest.raises(ValueError, match="text_model and tokenizer belong together"):
        KAdaptationPipeline(pipe.vision_model, pipe.image_processor, text_model=pipe.text_model)


def test_what_is_no_clip(clip_folder, tmp_path):
    with pytest.raises(ValueError, match="not an embedded checkpoint"):
        KAdaptationPipeline.from_clip("no-such-clip")
    with pytest.raises(ValueError, match="is no CLIP checkpoint: its config.json has model_type None"):
        KAdaptationPipeline.from_clip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(ValueError, match="has model_type 'siglip', needs 'clip'"):
        KAdaptationPipeline.from_clip(tmp_path)


@pytest.mark.parametrize("tower", [True, False])
def test_pickled_towers_are_refused(pipe, clip_folder, tmp_path, tower):
    if tower:
        pipe.vision_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use_safetensors=False is not allowed: pickled weights are never loaded"):
        KAdaptationPipeline.from_clip(tmp_path if tower else clip_folder, use_safetensors=False)


def test_an_adapter_for_another_tower(fitted, clip_folder, tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    fitted.save_adapter(tmp_path / "mine")
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    preprocessor = (clip_folder / "preprocessor_config.json").read_text()
    for name, width, message in (("narrow", 8, "for features of width 20; those of .* have 8"),
                                 ("shallow", 20, "does not fit the model")):  # fmt: skip
        tower = CLIPVisionConfig(hidden_size=24, intermediate_size=32, projection_dim=width, **small)
        CLIPVisionModelWithProjection(tower).save_pretrained(tmp_path / name)
        (tmp_path / name / "preprocessor_config.json").write_text(preprocessor)
        with pytest.raises(ValueError, match=message):
            KAdaptationPipeline.from_base(tmp_path / name, tmp_path / "mine")
    weights = tmp_path / "mine" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match="truncated"):
        KAdaptationPipeline.from_base(clip_folder, tmp_path / "mine")
