"""accelerate's offload of each layer by itself, where factors lie in dictionaries that no hook puts in place."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import get_peft_model
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 8) / 3)

    def forward(self, x):
        return (x @ self.up.transpose(1, 2)).sum(0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.experts = Experts()

    def forward(self, x):
        x = self.experts(torch.relu(self.second(self.first(x))))
        return self.conv(x.reshape(len(x), 4, 2, 1)).flatten(1)


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
KINDS = {
    "linear layers": {"target_modules": ["first", "second"]},
    "one set": {"target_modules": ["first", "second"], "shared_sets": "all", "bias": "shared", "factored": False},
    "its own": {"target_modules": ["first", "second"], "shared_sets": "none", "bias": "own"},
    "convolution": {"target_modules": ["conv", "first"]},
    "experts": {"target_parameters": ["up"]},
}


def adapted(kind):
    torch.manual_seed(0)
    settings = {"n": 2, "r": 2, "init_weights": False, **KINDS[kind]}
    return get_peft_model(Model(), KroneckerConfig(**settings)).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_output_is_that_of_the_model_in_place(kind, where, tmp_path):
    model = adapted(kind)
    with torch.no_grad():
        wanted = model(X)
        with model.disable_adapter():
            assert not torch.allclose(wanted, model(X), atol=1e-3)
        cpu = torch.device("cpu")
        cpu_offload(model, cpu) if where == "memory" else disk_offload(model, str(tmp_path), cpu)
        assert all(parameter.is_meta for parameter in model.parameters())
        for _ in range(2):
            assert torch.allclose(model(X), wanted, atol=1e-5)  # hooked layers don't go through the fused op
        assert all(parameter.is_meta for parameter in model.parameters())


def test_each_sample_has_its_own_adapter():
    model = adapted("linear layers")
    model.add_adapter("other", KroneckerConfig(n=4, r=1, init_weights=False, target_modules=["first"]))
    names = ["default", "__base__", "other", "other", "default"]
    with torch.no_grad():
        wanted = model(X, adapter_names=names)
        cpu_offload(model, torch.device("cpu"))
        assert torch.allclose(model(X, adapter_names=names), wanted, atol=1e-6)


def test_factors_of_an_offloaded_layer_are_exported():
    model = adapted("one set")
    layer = model.base_model.model.second
    wanted, update = layer.get_lora_factors("default"), layer.get_delta_weight("default")
    cpu_offload(model, torch.device("cpu"))
    found = layer.get_lora_factors("default")
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert torch.equal(layer.get_delta_weight("default"), update)
