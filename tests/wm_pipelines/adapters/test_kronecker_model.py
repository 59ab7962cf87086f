"""The adapter inside PEFT: counts, sharing, training, files, merging, scale, and several adapters at once."""

import copy
import doctest
import warnings

import pytest
import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig
from wm_pipelines.adapters.kronecker import model as tuner

FORMS = {
    "rank_one": {},
    "dense": {"factored": False},
    "oblong": {"n": 4, "n_in": 6, "n_out": 2, "terms": 3, "r": 2},
    "own_bias": {"bias": "own", "shared_sets": "none"},
    "shared_bias": {"bias": "shared", "shared_sets": "all"},
    "patterns": {"rank_pattern": {"blocks.1.v": 3}, "alpha_pattern": {"q": 2.0}, "modules_to_save": ["head"]},
    "named_sets": {"shared_sets": {r".*\.[12]\..*": "rest", r".*\.0\..*": "first"}},
    "regex": {"target_modules": r".*\.[02]\.(q|v)"},
    "fused_key": {"fused": {"k": ("a", "b")}, "fused_targets": ("b",), "target_modules": ["k", "v"], "bias": "own"},
}


def config(**options):
    return KroneckerConfig(**{"n": 4, "target_modules": ["q", "v"], **options})


def adapted(make_stack, randomise, seed=1, **options):
    return randomise(get_peft_model(make_stack(), config(**options)), seed).eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_save_and_load(make_stack, randomise, inputs, tmp_path, form, low_cpu_mem_usage):
    model = adapted(make_stack, randomise, **FORMS[form])
    expected = model(inputs)
    assert not torch.equal(expected, make_stack()(inputs))
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = PeftModel.from_pretrained(
            make_stack(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage, is_trainable=True
        )
    assert torch.equal(loaded.eval()(inputs), expected)
    # every value is stored once: the file holds as many as are trained
    stored = load_file(tmp_path / "adapter_model.safetensors")
    trained = [model.get_nb_trainable_parameters()[0], loaded.get_nb_trainable_parameters()[0]]
    assert trained == [sum(t.numel() for t in stored.values())] * 2
    assert len({t.data_ptr() for t in stored.values()}) == len(stored)


def test_counts_and_sets(make_stack):
    """6 layers of 24 × 24 at n = 4, r = 1: 6·4·(6 + 6) for U and V, and 2·4·4 for each set of A."""
    pairs = 6 * 4 * (6 + 6)
    for sets, count in (("target", 2), ("all", 1), ("none", 6), ({".*0.*": "x", ".*[12].*": "y"}, 2)):
        model = get_peft_model(make_stack(), config(shared_sets=sets))
        assert model.get_nb_trainable_parameters()[0] == pairs + count * 2 * 4 * 4
        keys = [key for key in get_peft_model_state_dict(model) if key.endswith("kronecker_a_in")]
        assert len(keys) == count and keys[0] == "base_model.model.blocks.0.q.kronecker_a_in"
    dense = get_peft_model(make_stack(), config(factored=False))
    assert dense.get_nb_trainable_parameters()[0] == pairs + 2 * 4**3
    shared = get_peft_model(make_stack(), config(bias="shared"))
    assert shared.get_nb_trainable_parameters()[0] == pairs + 2 * 32 + 3 * 24


def test_starts_at_the_base_model_and_learns(make_stack, inputs):
    model = get_peft_model(make_stack(), config(r=2, dropout=0.1))
    assert torch.equal(model(inputs), make_stack()(inputs))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(inputs).square().mean().backward()
        grads = {name: p.grad.abs().max().item() for name, p in model.named_parameters() if p.grad is not None}
        moved.append({kind: max(g for name, g in grads.items() if kind in name) > 0 for kind in ("_u", "_v", "_a_in")})
        optimizer.step()
    assert moved == [{"_u": True, "_v": False, "_a_in": False}, {"_u": True, "_v": True, "_a_in": True}]
    assert all("kronecker_" in name for name in grads)


def test_shared_gradient_is_the_sum_over_layers(make_stack, randomise, inputs):
    """One set for all layers against a set each with equal values: the shared gradient is their sum."""
    together = adapted(make_stack, randomise, shared_sets="all")
    apart = get_peft_model(make_stack(), config(shared_sets="none")).eval()
    owner = together.base_model.model.blocks[0].q
    for name, layer in apart.named_modules():
        if hasattr(layer, "spec"):
            twin = together.get_submodule(name)
            with torch.no_grad():
                layer.kronecker_u["default"].copy_(twin.kronecker_u["default"])
                layer.kronecker_v["default"].copy_(twin.kronecker_v["default"])
                layer.kronecker_a_in["default"].copy_(owner.kronecker_a_in["default"])
                layer.kronecker_a_out["default"].copy_(owner.kronecker_a_out["default"])
    for model in (together, apart):
        model(inputs).square().mean().backward()
    total = sum(p.grad for name, p in apart.named_parameters() if "kronecker_a_in" in name)
    torch.testing.assert_close(owner.kronecker_a_in["default"].grad, total, rtol=1e-4, atol=1e-7)


def test_sharing_survives_copies_casts_and_loading(make_stack, randomise, inputs):
    model = adapted(make_stack, randomise, shared_sets="all")
    state = get_peft_model_state_dict(model)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(inputs), model(inputs))
    assert twin.base_model.model.blocks[2].v.slow_owner["default"] is twin.base_model.model.blocks[0].q
    twin.half().float()
    set_peft_model_state_dict(twin, state)
    assert torch.allclose(twin(inputs), model(inputs), atol=1e-2)  # the base went through half precision
    with torch.no_grad():
        twin.base_model.model.blocks[0].q.kronecker_a_in["default"].zero_()
    assert not twin.base_model.model.blocks[2].v.get_delta_weight("default").any()


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_injection_without_a_wrapper(make_stack, randomise, inputs, low_cpu_mem_usage):
    model = adapted(make_stack, randomise)
    plain = inject_adapter_in_model(config(), make_stack(), "style", low_cpu_mem_usage=low_cpu_mem_usage)
    result = set_peft_model_state_dict(
        plain, get_peft_model_state_dict(model), "style", low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert not result.unexpected_keys and not [k for k in result.missing_keys if "kronecker" in k]
    assert torch.equal(plain.eval()(inputs), model(inputs))
    stored = get_peft_model_state_dict(plain, adapter_name="style")
    named_by_file = inject_adapter_in_model(config(), make_stack(), state_dict=stored)
    assert sum(hasattr(m, "spec") for m in named_by_file.modules()) == 6


def test_factors_stay_float32_beside_a_half_base(make_stack, inputs):
    model = inject_adapter_in_model(config(), make_stack().to(torch.bfloat16))
    assert {p.dtype for n, p in model.named_parameters() if "kronecker" in n} == {torch.float32}
    assert model(inputs.bfloat16()).dtype == torch.bfloat16
    for upcast, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        model = get_peft_model(make_stack().to(torch.bfloat16), config(), autocast_adapter_dtype=upcast)
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {dtype}
        assert model(inputs.bfloat16()).isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_merge_unmerge_disable_unload(make_stack, randomise, inputs, form):
    base = make_stack()(inputs)
    options = {**FORMS[form], "modules_to_save": None}
    model = adapted(make_stack, randomise, **options)
    expected, before = model(inputs), {k: t.clone() for k, t in model.state_dict().items()}
    with model.disable_adapter():
        assert torch.equal(model(inputs), base)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)
    with model.disable_adapter():
        assert torch.equal(model(inputs), base)
    model.merge_adapter()
    model.unmerge_adapter()
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], t) for k, t in before.items())
    assert torch.equal(model(inputs), expected)
    merged = copy.deepcopy(model).merge_and_unload()
    assert not any(hasattr(m, "spec") for m in merged.modules())
    torch.testing.assert_close(merged(inputs), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.unload()(inputs), base)


def test_merge_rounds_once_and_warns_when_rounding_eats_the_update(make_stack, randomise):
    model = adapted(make_stack, randomise).to(torch.bfloat16)
    for layer in (m for m in model.modules() if hasattr(m, "spec")):
        layer.set_scale("default", 1e-3)
    layer = model.base_model.model.blocks[0].q
    before = layer.base_layer.weight.clone()
    with pytest.warns(UserWarning, match="loses more than 10% of the adapter's update"):
        model.merge_adapter()
    wide = before.float() + layer.get_delta_weight("default")
    assert torch.equal(layer.base_layer.weight, wide.bfloat16())
    model.unmerge_adapter()
    with torch.no_grad():
        layer.kronecker_u["default"][0, 0, 0] = torch.nan
    before = layer.base_layer.weight.clone()
    with pytest.raises(ValueError, match="^NaNs detected in the merged weights. The adapter default seems"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before)


def test_scale(make_stack, randomise, inputs):
    model = adapted(make_stack, randomise, bias="own")
    layer = model.base_model.model.blocks[0].q
    x = inputs
    base, full = layer.base_layer(x), layer(x)
    layer.set_scale("default", 0.5)
    torch.testing.assert_close(layer(x) - base, 0.5 * (full - base), rtol=1e-4, atol=1e-5)
    layer.scale_layer(4.0)
    torch.testing.assert_close(layer(x) - base, 2.0 * (full - base), rtol=1e-4, atol=1e-5)
    layer.unscale_layer(4.0)
    torch.testing.assert_close(layer(x) - base, 0.5 * (full - base), rtol=1e-4, atol=1e-5)
    layer.unscale_layer()
    torch.testing.assert_close(layer(x), full)
    layer.set_scale("default", 0.0)
    assert torch.equal(layer(x), base)
    layer.set_scale("nobody", 3.0)


@pytest.fixture
def two_adapters(make_stack, randomise):
    model = adapted(make_stack, randomise, bias="shared")
    model.add_adapter("other", config(n=6, r=2, factored=False, target_modules=["v", "out"], bias="own"))
    model.set_adapter("other")
    randomise(model, seed=5)
    model.set_adapter("default")
    return model.eval()


def alone(model, inputs, names):
    model.base_model.set_adapter(names)
    return model(inputs)


def test_several_adapters(two_adapters, make_stack, inputs):
    model, base = two_adapters, make_stack()(inputs)
    one, other = alone(model, inputs, "default"), alone(model, inputs, "other")
    both = alone(model, inputs, ["default", "other"])
    assert not any(torch.allclose(a, b) for a, b in ((one, other), (one, both), (other, both), (one, base)))
    model.merge_adapter()
    torch.testing.assert_close(model(inputs), both, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="merged"):
        model.delete_adapter("other")
    model.unmerge_adapter()
    model.delete_adapter("other")
    assert torch.equal(alone(model, inputs, "default"), one)
    assert not any("other" in key for key in model.state_dict())
    model.delete_adapter("default")
    assert torch.equal(model.base_model.model(inputs), base)


def test_adapter_names_per_sample(two_adapters, make_stack, inputs):
    model, base = two_adapters, make_stack()(inputs)
    one, other = alone(model, inputs, "default"), alone(model, inputs, "other")
    mixed = model(inputs, adapter_names=["other", "__base__", "default", "other"])
    expected = torch.stack([other[0], base[1], one[2], other[3]])
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"non-existing adapter\(s\): x; known: \['default', 'other'\]"):
        model(inputs, adapter_names=["x", "default", "default", "default"])
    with pytest.raises(ValueError, match="same as the number of inputs, but got 2 and 4"):
        model(inputs, adapter_names=["default", "other"])
    with pytest.raises(ValueError, match="when the model is in training mode"):
        model.train()(inputs, adapter_names=["default"] * 4)
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match="when there are merged adapters"):
        model(inputs, adapter_names=["default"] * 4)


def test_a_sample_does_not_see_the_others(make_stack, randomise, inputs):
    model = adapted(make_stack, randomise)
    changed = inputs.clone()
    changed[1:] = 3.0
    torch.testing.assert_close(model(inputs)[0], model(changed)[0], rtol=1e-5, atol=1e-6)


def test_fused_layer_adapts_the_named_rows_only(make_stack, randomise):
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.to_qkv = nn.Linear(24, 36)

        def forward(self, x):
            return self.to_qkv(x)

    torch.manual_seed(0)
    model = randomise(get_peft_model(Fused(), config(target_modules=["to_qkv"])))
    layer = model.base_model.model.to_qkv
    delta = layer.get_delta_weight("default")
    assert delta[:12].any() and not delta[12:24].any() and delta[24:].any()
    x = torch.randn(3, 24)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ delta.T, rtol=1e-4, atol=1e-5)
    assert layer.kronecker_u["default"].shape == (2, 4, 3, 1)


def test_hooks_on_the_base_layer_still_run(make_stack, randomise, inputs):
    model = adapted(make_stack, randomise, factored=False)
    seen = []
    model.base_model.model.blocks[0].q.base_layer.register_forward_hook(lambda *_: seen.append(1))
    model(inputs)
    assert seen


def test_compiles_in_one_graph(make_stack, randomise, inputs):
    model = adapted(make_stack, randomise, bias="own", shared_sets="all")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), model(inputs))
    model.base_model.model.blocks[0].q.set_scale("default", 0.5)
    torch.testing.assert_close(compiled(inputs), model(inputs))


def test_exact_clip_counts():
    """ViT-B/32 as published: 24 targets, 40,960 with its two A sets, 50,176 with one bias for q and v."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    vision = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32
    )
    for bias, count in (("none", 40_960), ("shared", 50_176)):
        with torch.device("meta"):
            model = get_peft_model(CLIPVisionModelWithProjection(vision), KroneckerConfig(bias=bias))
        assert model.get_nb_trainable_parameters()[0] == count
        assert sum(hasattr(m, "spec") for m in model.modules()) == 24


def test_transformers_own_calls(randomise, tmp_path):
    """add_adapter, disable, save_pretrained and load_adapter of transformers."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}

    def build():
        torch.manual_seed(0)
        return CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=8, patch_size=4)).eval()

    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    model, plain = build(), build()(pixels).pooler_output
    model.add_adapter(KroneckerConfig(n=4, target_modules=["q_proj", "v_proj"]), "style")
    expected = randomise(model)(pixels).pooler_output
    assert not torch.allclose(expected, plain, atol=1e-3)
    model.disable_adapters()
    assert torch.equal(model(pixels).pooler_output, plain)
    model.save_pretrained(tmp_path)
    loaded = build()
    loaded.load_adapter(str(tmp_path))
    assert torch.equal(loaded.eval()(pixels).pooler_output, expected)


def test_the_example_in_the_docstring():
    result = doctest.testmod(tuner)
    assert result.attempted == 6 and result.failed == 0
