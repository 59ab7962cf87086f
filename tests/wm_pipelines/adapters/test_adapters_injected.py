"""Injected adapters go out without a trace and come back as they were, of whatever PEFT kind they are."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from wm_pipelines.adapters.injected import inject, put_back, remove, replacing, without
from wm_pipelines.adapters.kronecker import KroneckerConfig

CONFIGS = {
    "lora": LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False),
    "kronecker": KroneckerConfig(n=2, r=1, target_modules=["0", "2"]),
}


def layers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).requires_grad_(False)


@pytest.fixture(params=CONFIGS)
def adapted(request):
    model = layers()
    inject(model, CONFIGS[request.param], "ours", seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    return model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_without_it_the_model_is_its_own(adapted):
    x, before = torch.rand(3, 4), state(adapted)
    changed = adapted(x)
    adapted._hf_peft_config_loaded = True
    with without(adapted):
        assert same(state(adapted), state(layers())) and not hasattr(adapted, "peft_config")
        assert not adapted._hf_peft_config_loaded
        assert torch.equal(adapted(x), layers()(x)) and not torch.equal(adapted(x), changed)
    assert same(state(adapted), before) and torch.equal(adapted(x), changed)
    assert adapted._hf_peft_config_loaded and "ours" in adapted.peft_config


def test_what_was_put_in_since_goes(adapted):
    before, removed = state(adapted), remove(adapted)
    inject_adapter_in_model(LoraConfig(r=3, target_modules=["0"]), adapted, "another")
    put_back(adapted, removed)
    assert same(state(adapted), before) and list(adapted.peft_config) == ["ours"]


def test_a_replacement_that_fails_leaves_the_old_one(adapted):
    before = state(adapted)
    with pytest.raises(ValueError):
        inject(adapted, LoraConfig(r=2, target_modules=["nowhere"]), "ours", seed=0)
    with pytest.raises(RuntimeError), replacing(adapted):
        raise RuntimeError
    assert same(state(adapted), before)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_its_start_follows_from_the_seed_alone(config):
    starts = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(noise)
        model = layers()
        inject(model, config, "ours", seed)
        assert any(isinstance(module, BaseTunerLayer) for module in model.modules())
        starts.append(state(model))
    assert same(starts[0], starts[1]) and not same(starts[0], starts[2])
