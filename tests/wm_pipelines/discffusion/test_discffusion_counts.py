"""The published sizes, on the meta device."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model

from wm_pipelines.discffusion.adapter import default_config
from wm_pipelines.discffusion.capture import cross_sites

SD21 = {
    "sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}  # fmt: skip
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
COUNTS = {"sd21": (SD21, 865_910_724, 829_952, 430_592), "sd15": (SD15, 859_520_964, 797_184, 397_824)}


def lora_size(config, only=None):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    targets = default_config().target_modules
    if only:
        targets = [n for n, _ in unet.named_modules() if f".{only}." in n and n.endswith(tuple(targets))]
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=list(targets)), unet, low_cpu_mem_usage=True)
    found = [p.numel() for n, p in unet.named_parameters() if ".lora_" in n]
    return sum(found), len(found), sum(p.numel() for n, p in unet.named_parameters() if ".lora_" not in n)


@pytest.mark.parametrize("name", COUNTS)
def test_the_adapter_has_the_size_of_the_authors(name):
    config, whole, every, cross = COUNTS[name]
    assert lora_size(config) == (every, 256, whole)
    assert lora_size(config, "attn2")[:2] == (cross, 128)


def test_six_of_sixteen_sites_are_read():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD21)
    assert len(cross_sites(unet, "all")) == 16
    assert [(name.split(".transformer")[0], layer.heads) for name, layer in cross_sites(unet, "released").items()] == [
        ("down_blocks.2.attentions.0", 20),
        ("down_blocks.2.attentions.1", 20),
        ("up_blocks.3.attentions.0", 5),
        ("up_blocks.3.attentions.1", 5),
        ("up_blocks.3.attentions.2", 5),
        ("mid_block.attentions.0", 20),
    ]
