"""Hot-swapped factors: the other adapter's output, in the tensors that were there, under one compilation."""

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from torch import nn
from torch._dynamo.testing import CompileCounter

from wm_pipelines.adapters.kronecker import KroneckerConfig, hotswap_adapter, save_adapter

CONFIG = {"n": 4, "r": 3, "target_modules": ["q", "v"]}
OTHERS = {
    "equal": {},
    "alpha": {"alpha": 3.0, "alpha_pattern": {"v": 0.5}},
    "smaller ranks": {"r": 2, "rank_pattern": {"blocks.1.q": 1}},
}


@pytest.fixture
def folder(make_stack, randomise, tmp_path):
    def write(**options):
        model = inject_adapter_in_model(KroneckerConfig(**{**CONFIG, **options}), make_stack(), "style")
        save_adapter(randomise(model, seed=9), tmp_path / "other", "style")
        return model, tmp_path / "other"

    return write


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("form", [{}, {"factored": False}, {"bias": "shared"}, {"shared_sets": "none", "terms": 2}])
@pytest.mark.parametrize("wrapped", [True, False])
def test_the_output_becomes_the_others(make_stack, randomise, inputs, folder, other, form, wrapped):
    put = get_peft_model if wrapped else (lambda model, config: inject_adapter_in_model(config, model))
    model = randomise(put(make_stack(), KroneckerConfig(**{**CONFIG, **form})))
    theirs, path = folder(**form, **OTHERS[other])
    before = {id(p): p.requires_grad for p in model.parameters()}
    assert not torch.allclose(model(inputs), theirs(inputs), atol=1e-2)
    hotswap_adapter(model, path)
    torch.testing.assert_close(model(inputs), theirs(inputs), rtol=1e-4, atol=1e-5)
    assert {id(p): p.requires_grad for p in model.parameters()} == before


def test_a_compiled_model_is_not_compiled_again(make_stack, randomise, inputs, folder):
    model = randomise(get_peft_model(make_stack(), KroneckerConfig(**CONFIG)))
    theirs, path = folder(alpha=2.0, r=2)
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter)
    compiled(inputs)
    frames = counter.frame_count
    hotswap_adapter(compiled, path)
    torch.testing.assert_close(compiled(inputs), theirs(inputs), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == frames
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 6}, "has terms=6, adapter 'default' terms=4"),
        ({"factored": False}, "has factored=False, adapter 'default' factored=True"),
        ({"bias": "own"}, "has bias='own', adapter 'default' bias='none'"),
        ({"r": 4}, r"`blocks.\d.\w.kronecker_u` has shape \(4, 6, 4\), and the adapter in the model \(4, 6, 3\)"),
        ({"target_modules": ["q", "k", "v"]}, "is of other layers: missing .*unexpected .*blocks.0.k.kronecker_"),
        ({"target_modules": ["q"]}, "is of other layers: missing .*'blocks.0.v.kronecker_"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
    ],
)
def test_what_does_not_fit_changes_nothing(make_stack, randomise, inputs, folder, options, message):
    model = randomise(get_peft_model(make_stack(), KroneckerConfig(**CONFIG)))
    wanted = model(inputs)
    _, path = folder(**options)
    with pytest.raises(ValueError, match=message):
        hotswap_adapter(model, path)
    assert torch.equal(model(inputs), wanted)


def test_no_adapter_or_a_merged_one(make_stack, randomise, folder):
    _, path = folder()
    with pytest.raises(ValueError, match="no Kronecker adapter 'default' in the model; it has \\[\\]"):
        hotswap_adapter(nn.Linear(4, 4), path)
    model = randomise(get_peft_model(make_stack(), KroneckerConfig(**CONFIG)))
    model.merge_adapter()
    with pytest.raises(ValueError, match="`blocks.0.q`: adapter 'default' is merged"):
        hotswap_adapter(model, path)
