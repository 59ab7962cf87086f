"""The augmented product: equal to the side path, its own copy, for inference alone, and never without being asked."""

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from torch import nn

from wm_pipelines.adapters.kronecker import AugmentedLinear, KroneckerConfig, unload_augmented
from wm_pipelines.adapters.kronecker.layer import AdaptedLinear

TARGETS = {"target_modules": ["q", "v", "out"]}


@pytest.fixture
def adapted(make_stack, randomise):
    """A stack in fp64 with trained-looking factors."""

    def build(**options):
        return randomise(get_peft_model(make_stack(), KroneckerConfig(n=4, **TARGETS, **options)).double().eval())

    return build


@pytest.mark.parametrize("options", [{}, {"r": 3, "terms": 5, "bias": "own"}])
def test_equals_the_adapted_model(adapted, inputs, options):
    model = adapted(**options)
    model.base_model.model.blocks[0].q.set_scale("default", 0.3)
    with torch.no_grad():
        expected = model(inputs.double())
        plain, copied = unload_augmented(model)
        y = plain(inputs.double())
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    made = [module for module in plain.modules() if isinstance(module, AugmentedLinear)]
    assert len(made) == 9 and copied == sum(module.nbytes for module in made)
    assert not any(isinstance(module, AdaptedLinear) for module in plain.modules())
    rank = options.get("r", 1) * options.get("terms", 4)
    assert made[-1].nbytes == 8 * (24 * 24 + 2 * 24 * rank + (24 + rank) * ("bias" in options))  # `out` has no bias


def test_never_aliases_the_base(make_stack, adapted, inputs):
    model = adapted()
    base = model.base_model.model.blocks[0].q.base_layer
    before = base.weight.clone()
    plain, _ = unload_augmented(model)
    with torch.no_grad():
        y = plain(inputs.double())
        assert torch.equal(base.weight, before)
        base.weight.zero_()
        assert torch.equal(plain(inputs.double()), y)


def test_fused_layers_and_layers_without_the_adapter(randomise):
    """Only the parts of a fused layer that are adapted change; a layer that another adapter has is the base again."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("to_qkv", nn.Linear(12, 36))
    model.add_module("last", nn.Linear(36, 8))
    inject_adapter_in_model(KroneckerConfig(n=4, target_modules=["to_qkv"]), model, "one")
    with pytest.warns(UserWarning, match="multiple adapters"):
        inject_adapter_in_model(KroneckerConfig(n=4, target_modules=["last"]), model, "two")
    randomise(model)
    x, last = torch.randn(2, 3, 12), model.last.base_layer
    model.to_qkv.set_adapter("one")  # the second injection took it over
    model.last.enable_adapters(False)
    with torch.no_grad():
        expected, untouched = model(x), nn.functional.linear(x, model.to_qkv.base_layer.weight)[..., 12:24]
        plain, _ = unload_augmented(model, "one")
        torch.testing.assert_close(plain(x), expected)
        assert plain.last is last and plain is model
        torch.testing.assert_close(plain.to_qkv(x)[..., 12:24] - plain.to_qkv.bias[12:24], untouched)


@pytest.mark.parametrize("shape", [(6,), (0, 6), (2, 3, 5, 6)])
def test_any_leading_sizes(shape):
    weight, up, down = torch.randn(4, 6), torch.randn(4, 2), torch.randn(2, 6)
    x = torch.randn(*shape)
    torch.testing.assert_close(AugmentedLinear(weight, None, up, down)(x), x @ (weight + up @ down).T)


def test_half_precision_and_autocast():
    """The bound of the op: at most twice the error of one product with the merged weight in the half dtype."""
    torch.manual_seed(0)
    x, weight, up, down = (torch.randn(*shape).bfloat16() for shape in ((64, 96), (96, 96), (96, 8), (8, 96)))
    wide = [t.double() for t in (x, weight, up, down)]
    merged = wide[1] + wide[2] @ wide[3]
    expected = wide[0] @ merged.T

    def error(y):
        return (y.double() - expected).norm()

    y = AugmentedLinear(weight, None, up, down)(x)
    assert y.dtype == torch.bfloat16 and error(y) <= 2 * error(x @ merged.bfloat16().T)
    layer = AugmentedLinear(weight.float(), None, up.float(), down.float())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x.float()), y)


def test_bad_input(adapted, inputs, make_stack, randomise):
    with pytest.raises(ValueError, match="no Kronecker adapter 'other' in the model; it has \\['default'\\]"):
        unload_augmented(adapted(), "other")
    dense = adapted(factored=False)
    with pytest.raises(ValueError, match="`blocks.0.q`: dense A has no form of low rank"):
        unload_augmented(dense)
    assert isinstance(dense.base_model.model.blocks[0].q, AdaptedLinear)  # nothing was taken out
    merged = adapted()
    merged.merge_adapter()
    with pytest.raises(ValueError, match="are merged; call unmerge_adapter"):
        unload_augmented(merged)
    with pytest.raises(ValueError, match="fp8"):
        AugmentedLinear(torch.zeros(4, 6).to(torch.float8_e4m3fn), None, torch.zeros(4, 2), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="must fit `weight` \\(4, 6\\), got \\(4, 3\\) and \\(2, 6\\)"):
        AugmentedLinear(torch.zeros(4, 6), None, torch.zeros(4, 3), torch.zeros(2, 6))
    layer = AugmentedLinear(torch.zeros(4, 6), None, torch.zeros(4, 2), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="inference only"):
        layer(torch.zeros(1, 6, requires_grad=True))
