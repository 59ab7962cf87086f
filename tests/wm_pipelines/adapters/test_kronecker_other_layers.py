"""Convolutions and GPT-2's Conv1D: the update that `torch.kron` says, trained, merged, saved and combined."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, convert_to_lora, get_peft_model, set_peft_model_state_dict
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from wm_pipelines.adapters.kronecker import (
    KroneckerConfig,
    add_weighted_adapter,
    load_adapter,
    read_layers,
    save_adapter,
    save_lora,
    to_lora,
    unload_augmented,
)

CONVOLUTIONS = {
    "2d": (nn.Conv2d, {"kernel_size": 3, "padding": 1}),
    "2d 1x1": (nn.Conv2d, {"kernel_size": 1, "bias": False}),
    "2d oblong": (nn.Conv2d, {"kernel_size": (1, 3), "stride": (2, 1), "dilation": (1, 2), "padding": (0, 2)}),
    "2d reflect": (nn.Conv2d, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
    "2d groups": (nn.Conv2d, {"kernel_size": 3, "groups": 2}),
    "1d": (nn.Conv1d, {"kernel_size": 3, "padding": "same"}),
    "3d": (nn.Conv3d, {"kernel_size": (1, 2, 3)}),
}


@pytest.fixture(params=CONVOLUTIONS)
def convolution(request):
    kind, options = CONVOLUTIONS[request.param]
    torch.manual_seed(0)
    size = (2, 8, *(7,) * int(kind.__name__[4]))
    return nn.Sequential(kind(8, 12, **options)), torch.randn(size)


def by_kron(layer, name="default"):
    """scale·Σ A_i ⊗ (U_i V_iᵀ with V_i over channels and kernel), term by term in four dimensions or so."""
    base, slow = layer.base_layer, layer.slow_weights(name, torch.device("cpu"))
    u, v = layer.kronecker_u[name], layer.kronecker_v[name]
    kernel = base.weight.shape[2:]
    total = torch.zeros_like(base.weight)
    for i in range(len(u)):
        a = slow["a"][i] if "a" in slow else slow["a_out"][i][:, None] * slow["a_in"][i]
        w2 = (u[i] @ v[i].T).view(len(u[i]), -1, *kernel)
        total = total + torch.kron(a.view(*a.shape, *(1,) * len(kernel)).contiguous(), w2.contiguous())
    return layer.scaling[name] * total


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("bias", ["none", "own"])
def test_a_convolution(convolution, randomise, tmp_path, factored, bias):
    model, x = convolution
    plain = copy.deepcopy(model)
    config = KroneckerConfig(n=4, r=2, terms=3, factored=factored, bias=bias, target_modules=["0"])
    adapted = get_peft_model(model, config)
    assert torch.equal(adapted(x), plain(x))
    randomise(adapted)
    layer = adapted.base_model.model[0]
    twin = copy.deepcopy(plain)
    with torch.no_grad():
        twin[0].weight += by_kron(layer)
        if bias == "own":
            shift = 0 if twin[0].bias is None else twin[0].bias
            twin[0].bias = nn.Parameter(layer.kronecker_bias["default"] + shift)
    y = adapted(x)
    torch.testing.assert_close(y, twin(x), rtol=1e-4, atol=1e-5)
    assert layer.get_delta_weight("default").shape == plain[0].weight.shape

    y.square().sum().backward()
    assert all(p.grad.any() for p in adapted.parameters() if p.requires_grad)
    before = layer.base_layer.weight.clone()
    adapted.merge_adapter(safe_merge=True)
    torch.testing.assert_close(adapted(x), y, rtol=1e-4, atol=1e-5)
    adapted.unmerge_adapter()
    assert torch.equal(layer.base_layer.weight, before)
    adapted.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path)(x), y)
    read = read_layers(tmp_path)["0"].full_delta("default")
    torch.testing.assert_close(read.view(before.shape), layer.get_delta_weight("default"))
    with adapted.disable_adapter():
        assert torch.equal(adapted(x), plain(x))
    with pytest.raises(ValueError, match="convolution|Conv|dense A"):
        unload_augmented(adapted)


def test_a_convolution_as_lora(convolution, randomise, tmp_path):
    model, x = convolution
    plain = copy.deepcopy(model)
    adapted = randomise(get_peft_model(model, KroneckerConfig(n=4, r=2, target_modules=["0"])))
    if plain[0].groups > 1:
        with pytest.raises(ValueError, match="`0` is a convolution with groups, which has no LoRA form"):
            to_lora(adapted)
        return
    wanted = adapted(x)
    if plain[0].padding_mode != "zeros" or set(plain[0].dilation) != {1}:
        for format in ("peft", "diffusers"):
            with pytest.raises(ValueError, match="`0` is a convolution with dilation=.*which PEFT's LoRA leaves out"):
                save_lora(adapted, tmp_path / format, format=format)
            assert not (tmp_path / format).exists()
    else:
        save_lora(adapted, tmp_path)
        lora = PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path)
        assert isinstance(lora.peft_config["default"], LoraConfig)
        torch.testing.assert_close(lora(x), wanted, rtol=1e-4, atol=1e-5)
    factors = to_lora(adapted)["0"]
    save_lora(adapted, tmp_path / "kohya", format="kohya", rank=40)
    save_lora(adapted, tmp_path / "diff", format="diff")
    delta = (factors.up.flatten(1) @ factors.down.flatten(1)).view(plain[0].weight.shape)
    torch.testing.assert_close(delta, adapted.base_model.model[0].get_delta_weight("default"))
    with pytest.raises(TypeError, match="do not support LoRA conversion"):
        convert_to_lora(adapted, 4)


def test_dropout_of_a_convolution_drops_rank_sized_sums_of_each_group(convolution, randomise):
    model, x = convolution
    config = KroneckerConfig(n=4, r=1, terms=2, dropout=0.25, target_modules=["0"])
    layer = randomise(get_peft_model(model, config)).base_model.model[0]
    plain = layer.base_layer
    with torch.no_grad():
        whole = layer.eval()(x) - plain(x)
        torch.manual_seed(0)
        drawn = torch.stack([layer.train()(x) - plain(x) for _ in range(400)])
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(drawn.mean(0), whole, rtol=0, atol=0.25 * float(whole.abs().max()))
    # of two sums both are dropped at 1 place in 16, in each group by itself
    groups = drawn.unflatten(2, (plain.groups, -1)).abs().amax(3) < 1e-6
    assert 0.05 < groups.float().mean() < 0.075
    assert plain.groups == 1 or not torch.equal(groups[:, :, 0], groups[:, :, 1])


@pytest.mark.parametrize(("combination", "options"), [("cat", {}), ("svd", {"svd_rank": 8})])
def test_convolutions_are_summed(randomise, combination, options):
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Conv2d(8, 12, 3)), KroneckerConfig(n=4, target_modules=["0"]))
    model.add_adapter("other", KroneckerConfig(n=4, target_modules=["0"]))
    model.base_model.set_adapter(["default", "other"])
    randomise(model)
    add_weighted_adapter(model.base_model.model, ["default", "other"], [0.5, -2.0], "sum", combination, **options)
    layer = model.base_model.model[0]
    wanted = 0.5 * layer.full_delta("default") - 2.0 * layer.full_delta("other")
    torch.testing.assert_close(layer.full_delta("sum"), wanted, rtol=1e-4, atol=1e-5)


def test_a_convolution_of_wrong_sizes_is_refused():
    model = nn.Sequential(nn.Conv2d(6, 12, 3, groups=2))
    with pytest.raises(ValueError, match="`0`: n=2 does not divide in_features=3; choose from 1, 3"):
        get_peft_model(model, KroneckerConfig(n=2, target_modules=["0"]))  # the kernel is not a part of n_in's side
    with pytest.raises(ValueError, match="`0` is a Conv2d; `fused` parts are of linear layers only"):
        get_peft_model(model, KroneckerConfig(n=3, target_modules=["0"], fused={"0": ("q", "v")}))


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=40, n_positions=32)).eval()


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("fused", [{}, {"c_attn": ("q", "k", "v")}])
def test_gpt2_by_default_targets(randomise, tmp_path, factored, fused):
    model = get_peft_model(gpt2(), KroneckerConfig(n=4, factored=factored, fused=fused, bias="own")).eval()
    layers = [m for m in model.modules() if type(m).__name__ == "AdaptedLinear"]
    assert len(layers) == 2 and all(isinstance(layer.base_layer, Conv1D) for layer in layers)
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, gpt2()(tokens).logits)
        y = randomise(model)(tokens).logits
        x = torch.randn(3, 16)
        layer = layers[0]
        wanted = layer.base_layer(x) + x @ layer.full_delta("default").T + layer.full_bias("default")
        torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)
        assert layer.get_delta_weight("default").shape == layer.base_layer.weight.shape == (16, 48)
        assert not fused or not layer.full_delta("default")[16:32].any()
        model.merge_adapter()
        torch.testing.assert_close(model(tokens).logits, y, rtol=1e-4, atol=1e-5)
        model.unmerge_adapter()
        save_adapter(model.base_model.model, tmp_path / "ours")
        assert torch.equal(load_adapter(gpt2(), tmp_path / "ours")(tokens).logits, y)
        if factored:
            save_lora(model, tmp_path / "lora")
            lora = PeftModel.from_pretrained(gpt2(), tmp_path / "lora")
            torch.testing.assert_close(lora(tokens).logits, y, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(unload_augmented(model)[0](tokens).logits, y, rtol=1e-4, atol=1e-5)


def test_gpt2_is_converted_by_peft(randomise):
    model = randomise(get_peft_model(gpt2(), KroneckerConfig(n=4))).eval()
    tokens = torch.arange(12).view(2, 6)
    config, tensors = convert_to_lora(model, 8)
    lora = get_peft_model(gpt2(), config).eval()
    set_peft_model_state_dict(lora, tensors)
    torch.testing.assert_close(lora(tokens).logits, model(tokens).logits, rtol=1e-3, atol=1e-4)
