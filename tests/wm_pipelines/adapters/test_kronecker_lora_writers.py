"""diffusers' own LoRA writers refuse Kronecker factors before a file is there, and write LoRA as before."""

import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict

from wm_pipelines.adapters.kronecker import KroneckerConfig


def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


@pytest.mark.parametrize("bias", ["none", "own"])
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_kronecker_factors_are_refused_and_lora_is_not(randomise, tmp_path, bias):
    model = unet()
    model.add_adapter(KroneckerConfig(n=4, bias=bias, target_modules=["to_q", "to_v"]), "style")
    randomise(model)
    message = r"Kronecker factors.*save_lora\(model, folder, format='diffusers'\).*save_adapter"
    for name in ("style", None):
        with pytest.raises(ValueError, match=message):
            model.save_lora_adapter(tmp_path / "adapter", adapter_name=name)
    layers = get_peft_model_state_dict(model, adapter_name="style")
    for given in (layers, {f"base_model.model.{key}": value for key, value in layers.items()}):
        with pytest.raises(ValueError, match=f"`unet_lora_layers` has {message}"):
            StableDiffusionPipeline.save_lora_weights(tmp_path / "weights", unet_lora_layers=given)
    assert not any(tmp_path.iterdir())

    model.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "lora")
    model.save_lora_adapter(tmp_path / "adapter", adapter_name="lora")
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "weights", unet_lora_layers=get_peft_model_state_dict(model, adapter_name="lora")
    )
    for folder in ("adapter", "weights"):
        assert (tmp_path / folder / "pytorch_lora_weights.safetensors").is_file()


LATE = """
import torch
from peft import get_peft_model, get_peft_model_state_dict
from wm_pipelines.adapters.kronecker import KroneckerConfig
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), KroneckerConfig(n=2, target_modules=["0"]))
import sys
assert "diffusers.loaders.lora_base" not in sys.modules
from diffusers.loaders.lora_base import LoraBaseMixin
layers = get_peft_model_state_dict(model)
try:
    LoraBaseMixin.pack_weights(layers, "unet")
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_diffusers_may_be_imported_after_the_adapter_was_made():
    out = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
    assert "`unet_lora_layers` has Kronecker factors" in out.stdout, out.stderr
