"""Updates read from a folder, with no model at hand, are those of the adapted model."""

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig, read_layers, save_adapter

FORMS = {
    "rank_one": {},
    "dense_oblong": {"factored": False, "n_in": 6, "n_out": 2, "terms": 3, "r": 2},
    "own_bias": {"bias": "own", "shared_sets": "none"},
    "shared_bias": {"bias": "shared", "shared_sets": "all"},
    "patterns": {"rank_pattern": {"blocks.1.v": 3}, "alpha_pattern": {"q": 2.0}},
    "named_sets": {"shared_sets": {r".*\.[12]\..*": "rest", r".*\.0\..*": "first"}},
    "regex": {"target_modules": r".*\.[02]\.(q|v)"},
    "fused": {"fused": {"k": ("a", "b")}, "fused_targets": ("b",), "target_modules": ["k", "v"], "bias": "own"},
}


@pytest.mark.parametrize("form", FORMS)
def test_updates_are_those_of_the_model(make_stack, randomise, tmp_path, form):
    options = {"n": 4, "target_modules": ["q", "v"], **FORMS[form]}
    model = randomise(get_peft_model(make_stack(), KroneckerConfig(**options)))
    model.save_pretrained(tmp_path)
    layers = read_layers(tmp_path)
    expected = {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if hasattr(m, "spec")}
    assert layers.keys() == expected.keys()
    for name, layer in layers.items():
        assert (layer.in_features, layer.out_features) == (expected[name].in_features, expected[name].out_features)
        assert torch.equal(layer.get_delta_weight("default"), expected[name].get_delta_weight("default"))
        bias = expected[name].full_bias("default")
        assert layer.full_bias("default") is bias is None or torch.equal(layer.full_bias("default"), bias)


def test_the_order_of_the_model_does_not_matter(randomise, tmp_path):
    """A set lies under the first of its layers in the model, which need not be the first in the file."""

    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.z, self.a = nn.ModuleDict({"q": nn.Linear(8, 8)}), nn.ModuleDict({"q": nn.Linear(8, 8)})

    model = randomise(inject_adapter_in_model(KroneckerConfig(n=4, target_modules=["q"]), Backwards()))
    save_adapter(model, tmp_path)
    assert "base_model.model.z.q.kronecker_a_in" in load_file(tmp_path / "adapter_model.safetensors")
    for name, layer in read_layers(tmp_path).items():
        delta = model.get_submodule(name).get_delta_weight("default")
        assert delta.any() and torch.equal(layer.get_delta_weight("default"), delta)


def test_bad_folders(make_stack, tmp_path):
    model = inject_adapter_in_model(KroneckerConfig(n=4, target_modules=["q"]), make_stack())
    path = save_adapter(model, tmp_path) / "adapter_model.safetensors"
    tensors = load_file(path)
    a_in = "base_model.model.blocks.0.q.kronecker_a_in"
    for changed, message in (
        ({key: t for key, t in tensors.items() if key != a_in}, "missing \\['blocks.0.q.kronecker_a_in"),
        ({**tensors, "head.weight": torch.ones(2)}, "unexpected \\['head"),
        ({"head.weight": torch.ones(2)}, "holds no Kronecker factors; it has keys such as \\['head.weight'\\]"),
    ):
        save_file(changed, path)
        with pytest.raises(ValueError, match=message):
            read_layers(tmp_path)
    whole = get_peft_model(make_stack(), KroneckerConfig(n=4, target_modules=["q"], modules_to_save=["head"]))
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="also replaces whole modules \\['head'\\]"):
        read_layers(tmp_path / "whole")
