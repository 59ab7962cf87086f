"""Layers that a fused attention goes past are found, whoever injected the adapter."""

import doctest

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import get_peft_model
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig, check_called, unreached_layers


class ReadsWeights(nn.Module):
    """As fused attention does: its layers' weights are used, the layers are not called."""

    def __init__(self):
        super().__init__()
        self.q, self.v = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.q(x) + nn.functional.linear(x, self.v.weight, self.v.bias)


def test_a_layer_whose_weight_is_only_read_is_named():
    model = get_peft_model(ReadsWeights(), KroneckerConfig(n=4, target_modules=["q", "v"]))
    with pytest.raises(ValueError, match="1 of 2 adapted layers were never called, .* no effect: `v`. A fused"):
        with check_called(model):
            model(torch.zeros(1, 8))
    assert not any(m._forward_pre_hooks for m in model.modules())
    model.add_adapter("first", KroneckerConfig(n=4, target_modules=["q"]))
    with check_called(model, "first"):
        model(torch.zeros(1, 8))
    with pytest.raises(KeyError):  # an error of the block is not covered up by ours
        with check_called(model):
            raise KeyError


def test_a_fused_unet_goes_past_the_adapter():
    """Projections fused after the adapter was added: diffusers copies the base weights into to_qkv."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    unet.add_adapter(KroneckerConfig(n=4, target_modules=["to_q", "to_v"]), "style")
    sample, text = torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 16)
    with check_called(unet), torch.no_grad():
        unet(sample, 1, text)
    unet.fuse_qkv_projections()
    with pytest.raises(ValueError, match="of 16 adapted layers were never called.*attn1.to_q`.* more. A fused"):
        with check_called(unet), torch.no_grad():
            unet(sample, 1, text)


def test_no_adapter():
    with pytest.raises(ValueError, match="no Kronecker adapter in the model; it has \\[\\]"):
        with check_called(nn.Linear(2, 2)):
            pass
    model = get_peft_model(ReadsWeights(), KroneckerConfig(n=4, target_modules=["q"]))
    with pytest.raises(ValueError, match="no Kronecker adapter 'x' in the model; it has \\['default'\\]"):
        with check_called(model, "x"):
            pass


def test_the_example_in_the_docstring():
    result = doctest.testmod(unreached_layers)
    assert result.attempted == 7 and result.failed == 0
