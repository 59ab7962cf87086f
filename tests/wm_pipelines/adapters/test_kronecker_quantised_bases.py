"""Bases whose weight only their own layer can use: adapters train beside them, and merging is refused."""

import copy

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig, KroneckerLinear, load_adapter, save_adapter, to_lora

WIDTH = 128  # int4 groups are of 128 numbers
REFUSED = "base weight is .*: merging disabled, using side path"


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH // 2)).requires_grad_(False)


def torchao(name: str, grouped: bool = False, **options):
    """Quantises `stack()` by the torchao config of that name; skipped where torchao or its kernels are missing."""

    def quantise(model):
        quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
        granularity = {"granularity": quantization.PerGroup(32)} if grouped else {}
        try:
            quantization.quantize_(model, getattr(quantization, name)(**options, **granularity))
            model(torch.zeros(1, WIDTH))
        except Exception as error:  # a kernel for another machine: each has its own kind of error
            pytest.skip(f"torchao's {name} does not run here: {str(error)[:200]}")
        return model

    return quantise


def bitsandbytes(kind: str):
    def quantise(model):
        bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
        for at in (0, 2):
            linear = model[at]
            made = getattr(bnb.nn, kind)(linear.in_features, linear.out_features)
            made.load_state_dict(linear.state_dict())
            model[at] = made.requires_grad_(False)
        try:
            model.to("cpu")  # this quantises
            model(torch.zeros(1, WIDTH))
        except Exception as error:
            pytest.skip(f"bitsandbytes' {kind} does not run here: {error!r:.200}")
        return model

    return quantise


class OnlyLinear(torch.Tensor):
    """A weight as torchao makes them: it says fp32, holds int8, and knows linear() and nothing else."""

    @staticmethod
    def __new__(cls, weight):
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)

    def __init__(self, weight):
        self.scale = weight.abs().amax(1, keepdim=True) / 127
        self.int8 = (weight / self.scale).round().to(torch.int8)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            x, weight, *bias = args
            return nn.functional.linear(x, weight.int8 * weight.scale, *bias)
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return args[0]
        raise NotImplementedError(f"{cls.__name__} has no {func}")


def subclassed(model):
    for at in (0, 2):
        model[at].weight = nn.Parameter(OnlyLinear(model[at].weight.data), requires_grad=False)
    return model


QUANTISERS = {
    "a tensor subclass": subclassed,
    "torchao int8": torchao("Int8WeightOnlyConfig"),
    "torchao int4": torchao("Int4WeightOnlyConfig", group_size=128),
    "torchao int4 on any machine": torchao("IntxWeightOnlyConfig", grouped=True, weight_dtype=torch.int4),
    "torchao fp8": torchao("Float8WeightOnlyConfig"),
    "bitsandbytes int8": bitsandbytes("Linear8bitLt"),
    "bitsandbytes nf4": bitsandbytes("Linear4bit"),
}


@pytest.fixture(params=QUANTISERS, ids=lambda name: name.replace(" ", "-"))
def quantised(request):
    return QUANTISERS[request.param](stack())


@pytest.mark.parametrize("factored", [True, False])
def test_an_adapter_trains_beside_it(quantised, factored):
    x = torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    plain = quantised(x)
    model = get_peft_model(quantised, KroneckerConfig(n=8, r=2, factored=factored, target_modules=["0", "2"]))
    torch.testing.assert_close(model(x), plain, rtol=0, atol=0)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # U first, then the others
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    update = to_lora(model)
    inner = x
    for at in (0, 1, 2):
        base = model.base_model.model[at]
        if at == 1:
            inner = inner.relu()
            continue
        inner = base.base_layer(inner) + inner @ (update[str(at)].up @ update[str(at)].down).T
    torch.testing.assert_close(model(x), inner, rtol=1e-3, atol=1e-4)
    for merge in (model.merge_adapter, model.merge_and_unload, model.base_model.model[0].merge):
        with pytest.raises(ValueError, match=REFUSED):
            merge()
    assert not model.base_model.model[0].merged


def test_it_is_saved_and_loaded(quantised, randomise, tmp_path):
    twin = copy.deepcopy(quantised)
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))
    plain = quantised(x)
    randomise(inject_adapter_in_model(KroneckerConfig(n=8, target_modules=["0", "2"]), quantised))
    save_adapter(quantised, tmp_path)
    assert torch.equal(load_adapter(twin, tmp_path)(x), quantised(x))
    assert not torch.allclose(twin(x), plain)


def test_adapters_by_sample_over_a_weight_that_knows_linear_alone(randomise):
    model = randomise(get_peft_model(subclassed(stack()), KroneckerConfig(n=8, target_modules=["0"]))).eval()
    x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mixed = model(x, adapter_names=["default", "__base__"])
        torch.testing.assert_close(mixed[0], model(x)[0], rtol=1e-4, atol=1e-5)
        with model.disable_adapter():
            torch.testing.assert_close(mixed[1], model(x)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("types", [None, 2])
def test_the_layer_without_peft_trains_beside_it(types):
    linear = subclassed(stack())[0]
    layer = KroneckerLinear.from_linear(linear, n=8, r=2, types=types)
    nn.init.normal_(layer.kronecker_u)
    if types:
        layer.set_mix([0.5, 2.0])
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x), linear(x) + x @ layer.delta_weight().T, rtol=1e-4, atol=1e-3)
    layer(x).square().sum().backward()
    assert layer.kronecker_v.grad.any()
    with pytest.raises(ValueError, match=REFUSED):
        layer.merge()


def test_a_packed_weight_is_refused_by_name():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8))
    packed = torch.ao.nn.quantized.dynamic.Linear(16, 8)
    model[1] = packed
    for place in (model, nn.Sequential(nn.Linear(16, 16), torch.ao.nn.quantized.Linear(16, 8))):
        with pytest.raises(ValueError, match=r"`1` is a torch.ao.nn.quantized.*Linear: its weight is packed"):
            get_peft_model(place, KroneckerConfig(n=4, target_modules=["0", "1"]))
    assert type(model[0]) is nn.Linear and model[1] is packed
    whole = torch.ao.quantization.quantize_dynamic(stack(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"`0` is a torch.ao.nn.quantized.dynamic.*Linear: its weight is packed"):
        get_peft_model(whole, KroneckerConfig(n=4, target_modules="all-linear"))
