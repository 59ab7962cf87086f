"""Modules that adapters replace as a whole, where adapters are combined, exported or unloaded."""

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model

from wm_pipelines.adapters.kronecker import KroneckerConfig, add_weighted_adapter, save_lora, unload_augmented

WAYS = [{}, {"combination_type": "svd", "svd_rank": 24}]


def config(**options):
    return KroneckerConfig(**{"n": 4, "target_modules": ["q", "v"], "modules_to_save": ["head"], **options})


def two(make_stack, randomise, equal, **second):
    """Adapters "a" and "b", whose heads are equal or not; and the heads."""
    model = get_peft_model(make_stack(), config(), adapter_name="a")
    model.add_adapter("b", config(**second))
    for seed, name in enumerate(("b", "a")):
        model.set_adapter(name)
        randomise(model, seed + 1)
    heads = model.base_model.model.head.modules_to_save
    if equal:
        heads["b"].load_state_dict(heads["a"].state_dict())
    return model.eval(), heads


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_one_adapter_of_weight_one_is_that_adapter(make_stack, randomise, inputs, tmp_path, way):
    model, heads = two(make_stack, randomise, equal=False)
    before = {n for n, p in model.named_parameters() if p.requires_grad}
    expected = model(inputs)
    model.base_model.add_weighted_adapter(["a"], [1.0], "c", **way)
    assert model.active_adapter == "a" and torch.equal(model(inputs), expected)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == before
    model.set_adapter("c")
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)
    assert heads["c"].weight is not heads["a"].weight
    model.save_pretrained(tmp_path, selected_adapters=["c"])
    loaded = PeftModel.from_pretrained(make_stack(), tmp_path / "c").eval()
    assert torch.equal(loaded(inputs), model(inputs))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_equal_modules_are_carried_over(make_stack, randomise, inputs, way):
    model, heads = two(make_stack, randomise, equal=True)
    model.base_model.add_weighted_adapter(["a", "b"], [0.7, -1.5], "c", **way)
    model.set_adapter("c")
    plain = make_stack()  # base + 0.7 of the one update and -1.5 of the other, and the head that both have
    with torch.no_grad():
        for name, layer in ((n, m) for n, m in model.base_model.model.named_modules() if hasattr(m, "spec")):
            delta = 0.7 * layer.get_delta_weight("a") - 1.5 * layer.get_delta_weight("b")
            plain.get_submodule(name).weight += delta
        plain.head.load_state_dict(heads["a"].state_dict())
    torch.testing.assert_close(model(inputs), plain(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_modules_that_differ_are_refused_and_nothing_is_left(make_stack, randomise, inputs, way):
    model, heads = two(make_stack, randomise, equal=False)
    with pytest.raises(ValueError, match="`head` is saved whole with 'a' and with 'b' .* and differs"):
        model.base_model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "c", **way)
    assert sorted(model.peft_config) == ["a", "b"] and "c" not in heads
    # one of weight 0 has no say
    expected = model(inputs)
    model.base_model.add_weighted_adapter(["a", "b"], [1.0, 0.0], "c", **way)
    model.set_adapter("c")
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)


def test_a_module_that_one_adapter_lacks_is_refused(make_stack, randomise):
    model = get_peft_model(make_stack(), config(), adapter_name="a")
    model.add_adapter("b", config(modules_to_save=None))
    message = "`head` is saved whole with \\['a'\\] \\(modules_to_save\\) and not with \\['b'\\]"
    with pytest.raises(ValueError, match=message):
        model.base_model.add_weighted_adapter(["b", "a"], [1.0, 1.0], "c")
    assert sorted(model.peft_config) == ["a", "b"]


def test_without_a_wrapper_around_the_model(make_stack, randomise, inputs):
    model = make_stack()
    inject_adapter_in_model(config(bias="own"), model, "a")
    randomise(model)
    expected = model(inputs)
    add_weighted_adapter(model, ["a"], [1.0], "c")
    assert torch.equal(model(inputs), expected)
    for module in model.modules():
        if hasattr(module, "spec") or hasattr(module, "modules_to_save"):
            module.set_adapter("c")
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["a", "b"])
def test_unloaded_to_one_product_with_its_own_module(make_stack, randomise, inputs, name):
    """Also where another adapter is the active one."""
    model, _ = two(make_stack, randomise, equal=False)
    model.set_adapter(name)
    expected = model(inputs)
    model.set_adapter("a")
    with torch.no_grad():
        plain, _ = unload_augmented(model, name)
        torch.testing.assert_close(plain(inputs), expected, rtol=1e-4, atol=1e-5)
    assert type(plain.head) is torch.nn.Linear


def test_a_lora_file_says_what_it_leaves_out(make_stack, randomise, tmp_path):
    model, _ = two(make_stack, randomise, equal=False)
    with pytest.warns(UserWarning, match="modules \\['head'\\] that adapter 'a' replaces as a whole"):
        save_lora(model, tmp_path, "a")
