"""`target_parameters`: parameters of modules as PEFT targets them, matrices and stacks of experts."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from wm_pipelines.adapters.kronecker import (
    KroneckerConfig,
    add_weighted_adapter,
    load_adapter,
    read_layers,
    to_lora,
)
from wm_pipelines.adapters.kronecker.param_layer import ParamWrapper

EXPERTS = 3


class Experts(nn.Module):
    """Two parameters of one module: (experts, out, in) twice, or (experts, in, out) where it says so."""

    def __init__(self, transposed):
        super().__init__()
        self.is_transposed = transposed
        up, down = ((8, 12), (12, 4)) if transposed else ((12, 8), (4, 12))
        self.gate_up = nn.Parameter(0.3 * torch.randn(EXPERTS, *up))
        self.down = nn.Parameter(0.3 * torch.randn(EXPERTS, *down))

    def forward(self, x):
        turn = (lambda w: w) if self.is_transposed else (lambda w: w.transpose(1, 2))
        return torch.relu(x @ turn(self.gate_up)) @ turn(self.down)


class Model(nn.Module):
    def __init__(self, transposed=False):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.experts = nn.ModuleList([Experts(transposed) for _ in range(2)])
        self.mixing = nn.Parameter(torch.eye(8))

    def forward(self, x):
        x = (self.first(x) @ self.mixing).expand(EXPERTS, -1, -1)
        return sum(experts(x) for experts in self.experts).sum(0)


def build(transposed=False):
    torch.manual_seed(0)
    return Model(transposed).eval()


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
BOTH = {"target_parameters": ["gate_up", "experts.0.down"]}


def wrappers(model):
    return {(n, m.parameter_name): m for n, m in model.named_modules() if isinstance(m, ParamWrapper)}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("more", [{}, {"target_modules": ["first"], "shared_sets": "all"}])
def test_parameters_train_merge_and_load(randomise, tmp_path, transposed, factored, more):
    model = get_peft_model(build(transposed), KroneckerConfig(n=4, r=2, factored=factored, **BOTH, **more)).eval()
    assert torch.equal(model(X), build(transposed)(X))
    assert [name for _, name in wrappers(model)].count("gate_up") == 2 and len(wrappers(model)) == 3
    randomise(model)
    y = model(X)
    y.square().sum().backward()
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)

    # the same by torch.kron, expert by expert, in a plain model
    twin = build(transposed)
    with torch.no_grad():
        for (name, parameter), layer in wrappers(model).items():
            where = name.removeprefix("base_model.model.").replace(".base_layer", "")
            slow = layer.slow_weights("default", torch.device("cpu"))
            a = slow["a"] if "a" in slow else slow["a_out"][:, :, None] * slow["a_in"][:, None, :]
            for e in range(EXPERTS):
                u, v = layer.kronecker_u["default"][e], layer.kronecker_v["default"][e]
                delta = layer.scaling["default"] * sum(
                    torch.kron(a[i].contiguous(), (u[i] @ v[i].T).contiguous()) for i in range(4)
                )
                getattr(twin.get_submodule(where), parameter)[e] += delta.T if transposed else delta
        if more:
            twin.first.weight += model.base_model.model.first.full_delta("default")
    torch.testing.assert_close(twin(X), y, rtol=1e-4, atol=1e-5)

    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(build(transposed), tmp_path).eval()(X), y)
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(X), y, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    with model.disable_adapter():
        assert torch.equal(model(X), build(transposed)(X))
    merged = copy.deepcopy(model).merge_and_unload()
    assert merged.state_dict().keys() == build(transposed).state_dict().keys()
    torch.testing.assert_close(merged(X), y, rtol=1e-4, atol=1e-5)


def test_a_second_adapter_lies_in_the_same_wrappers(randomise):
    model = randomise(get_peft_model(build(), KroneckerConfig(n=4, **BOTH))).eval()
    first = model(X)
    model.add_adapter("other", KroneckerConfig(n=2, n_in=2, n_out=4, **BOTH))
    assert len(wrappers(model)) == 3
    model.set_adapter("other")
    assert not torch.allclose(randomise(model, seed=5)(X), first, atol=1e-3)
    model.delete_adapter("other")
    model.set_adapter("default")
    assert torch.equal(model(X), first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_parameters": ["nothing"]}, "target_parameters \\['nothing'\\] matched 0 parameters"),
        ({"target_parameters": ["gate_up"], "n": 5}, "`experts.0.gate_up`: n=5 does not divide in_features=8"),
        ({"target_parameters": ["first.bias"]}, "bias has shape \\(8,\\); it needs two or three"),
        ({"target_parameters": ["gate_up"], "bias": "own"}, "`target_parameters` take no bias and no dropout"),
        ({"target_parameters": ["gate_up"], "dropout": 0.1}, "`target_parameters` take no bias and no dropout"),
    ],
)
def test_bad_targets_leave_the_model_alone(options, message):
    model = build()
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, KroneckerConfig(**{"n": 4, **options}))
    assert list(model.state_dict()) == keys


def test_what_is_not_for_parameters_says_so(randomise, tmp_path):
    model = randomise(get_peft_model(build(), KroneckerConfig(n=4, **BOTH))).eval()
    for call in (
        lambda: to_lora(model),
        lambda: add_weighted_adapter(model.get_base_model(), ["default"], [1.0], "half"),
        lambda: model(X, adapter_names=["default"] * len(X)),
        lambda: model.add_adapter("other", KroneckerConfig(n=4, target_parameters=["down"])),
    ):
        with pytest.raises(ValueError, match="parameter|ParamWrapper"):
            call()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="also adapts parameters"):
        read_layers(tmp_path)


def test_a_folder_that_does_not_fit_leaves_no_trace(randomise, tmp_path):
    randomise(get_peft_model(build(), KroneckerConfig(n=4, r=2, **BOTH))).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    model = build()
    keys, wanted = list(model.state_dict()), model(X)
    del tensors[next(key for key in tensors if key.endswith("kronecker_u"))]
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="does not fit the model: missing"):
        load_adapter(model, tmp_path)
    assert list(model.state_dict()) == keys and torch.equal(model(X), wanted) and not wrappers(model)
    assert not hasattr(model, "peft_config")
