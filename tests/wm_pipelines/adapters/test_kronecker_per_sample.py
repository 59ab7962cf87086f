"""One pass for a batch of mixed adapters and for the parts of a fused layer, equal to one adapter after another."""

import pytest
import torch
from peft import get_peft_model

from wm_pipelines.adapters.kronecker import KroneckerConfig
from wm_pipelines.adapters.kronecker import layer as layers

FORMS = {
    "factored": {"target_modules": ["q", "v"]},
    "dense": {"factored": False, "target_modules": ["q", "v"]},
    "biased": {"bias": "own", "target_modules": ["q", "out"]},
    "fused": {"fused": {"k": ("a", "b")}, "fused_targets": ("a", "b"), "bias": "own", "target_modules": ["k", "v"]},
}
NAMES = ["other", "__base__", "default", "third"]


@pytest.fixture
def passes(monkeypatch):
    """The options of every call of the operation, which runs as it is."""
    seen, operation = [], layers.kronecker_linear

    def spy(*args, **options):
        seen.append(options)
        return operation(*args, **options)

    monkeypatch.setattr(layers, "kronecker_linear", spy)
    return seen


def with_three(make_stack, randomise, form, **third):
    model = get_peft_model(make_stack(), KroneckerConfig(n=4, r=2, **FORMS[form]))
    model.add_adapter("other", KroneckerConfig(n=4, r=2, **FORMS[form]))
    model.add_adapter("third", KroneckerConfig(**{"n": 4, "r": 2, **FORMS[form], **third}))
    model.base_model.set_adapter(["default", "other", "third"])
    for name, factor in (("other", 0.5), ("third", -2.0)):
        for module in model.modules():
            if isinstance(module, layers.AdaptedLinear):
                module.set_scale(name, factor)
    return randomise(model).eval()


def one_by_one(model):
    """A hook on every base layer: the operation must then leave the base alone."""
    for module in model.modules():
        if isinstance(module, layers.AdaptedLinear):
            module.base_layer.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("form", FORMS)
def test_a_mixed_batch_is_one_pass(make_stack, randomise, inputs, form, passes):
    model = with_three(make_stack, randomise, form)
    mixed = model(inputs, adapter_names=NAMES)
    adapted = sum(isinstance(module, layers.AdaptedLinear) for module in model.modules())
    assert len(passes) == adapted and all(options["adapter_index"] is not None for options in passes)
    torch.testing.assert_close(mixed, one_by_one(model)(inputs, adapter_names=NAMES), rtol=1e-5, atol=1e-6)
    assert len(passes) == adapted
    assert not torch.allclose(mixed[0], model(inputs, adapter_names=["__base__"] * 4)[0])


def test_adapters_of_other_sizes_are_taken_one_by_one(make_stack, randomise, inputs, passes):
    model = with_three(make_stack, randomise, "factored", r=1)
    mixed = model(inputs, adapter_names=NAMES)
    assert not passes
    for row, name in enumerate(NAMES):
        alone = model(inputs, adapter_names=[name] * 4)[row]
        torch.testing.assert_close(mixed[row], alone, rtol=1e-5, atol=1e-6)
    assert passes


def test_the_parts_of_a_fused_layer_are_one_pass(make_stack, randomise, inputs, passes):
    model = randomise(get_peft_model(make_stack(), KroneckerConfig(n=4, r=2, **FORMS["fused"]))).eval()
    y = model(inputs)
    assert any(options["slices"] == ((0, 12), (12, 24)) for options in passes)
    torch.testing.assert_close(y, one_by_one(model)(inputs), rtol=1e-5, atol=1e-6)
