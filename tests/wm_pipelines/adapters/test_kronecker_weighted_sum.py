"""Weighted sums of adapters: `cat` is exact, `svd` is the best of its rank, `linear` does not exist."""

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model

from wm_pipelines.adapters.kronecker import KroneckerConfig, add_weighted_adapter

PAIRS = {
    "equal": ({}, {}),
    "ranks_and_terms": ({"r": 2, "rank_pattern": {"blocks.0.q": 1}}, {"r": 3, "terms": 2, "alpha": 2.0}),
    "dense_and_rank_one": ({"factored": False}, {"shared_sets": "all"}),
    "other_targets": ({"bias": "own"}, {"target_modules": ["v", "out"], "bias": "shared", "shared_sets": "none"}),
    "both_biased": ({"bias": "shared"}, {"bias": "shared"}),
    "fused": ({"fused": {"k": ("a", "b")}, "fused_targets": ("b",), "target_modules": ["k"]},) * 2,
}


def build(make_stack, randomise, first, second):
    common = {"n": 4, "target_modules": ["q", "v"]}
    model = get_peft_model(make_stack(), KroneckerConfig(**{**common, **first}))
    model.add_adapter("other", KroneckerConfig(**{**common, **second}))
    for seed, name in enumerate(("other", "default")):
        model.set_adapter(name)
        randomise(model, seed + 1)
    return model.eval()


def updates(model, name):
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "spec")}
    return {n: layer.get_delta_weight(name) for n, layer in layers.items() if name in layer.spec}


def expected(model, weights):
    total = {}
    for name, weight in weights.items():
        for key, delta in updates(model, name).items():
            total[key] = total.get(key, 0) + weight * delta
    return total


@pytest.mark.parametrize("pair", PAIRS)
def test_cat_is_exact_and_survives_a_file(make_stack, randomise, inputs, tmp_path, pair):
    model = build(make_stack, randomise, *PAIRS[pair])
    model.base_model.add_weighted_adapter(["default", "other"], [0.7, -1.5], "sum", "cat")
    assert model.active_adapter == "default"
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.endswith(".sum"))
    wanted = expected(model, {"default": 0.7, "other": -1.5})
    found = updates(model, "sum")
    assert wanted.keys() == found.keys()
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=1e-5, atol=1e-6)
    model.set_adapter("sum")
    y = model(inputs)
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(make_stack(), tmp_path / "sum").eval()
    torch.testing.assert_close(loaded(inputs), y, rtol=1e-5, atol=1e-6)
    weighted = model.base_model
    weighted.set_adapter(["default", "other"])
    for layer in (m for m in model.modules() if hasattr(m, "spec")):
        layer.set_scale("default", 0.7)
        layer.set_scale("other", -1.5)
    torch.testing.assert_close(model(inputs), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pair", ["equal", "other_targets", "fused"])
def test_svd_is_the_best_of_its_rank(make_stack, randomise, pair):
    model = build(make_stack, randomise, *PAIRS[pair])
    wanted = expected(model, {"default": 1.0, "other": 0.5})
    model.base_model.add_weighted_adapter(["default", "other"], [1.0, 0.5], "small", "svd", svd_rank=3)
    model.base_model.add_weighted_adapter(["default", "other"], [1.0, 0.5], "full", "svd", svd_rank=40)
    for key, delta in updates(model, "small").items():
        u, s, vh = torch.linalg.svd(wanted[key])
        torch.testing.assert_close(delta, u[:, :3] * s[:3] @ vh[:3], rtol=1e-4, atol=1e-5)
    for key, delta in updates(model, "full").items():
        torch.testing.assert_close(delta, wanted[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pair", [*PAIRS, "other_sizes"])
def test_linear_is_exact_for_any_sizes(make_stack, randomise, inputs, tmp_path, pair):
    sizes = ({"bias": "own"}, {"n": 6, "factored": False, "target_modules": ["q", "out", "head"]})
    model = build(make_stack, randomise, *(sizes if pair == "other_sizes" else PAIRS[pair]))
    model.base_model.add_weighted_adapter(["default", "other"], [0.7, -1.5], "sum", "linear")
    wanted, found = expected(model, {"default": 0.7, "other": -1.5}), updates(model, "sum")
    assert wanted.keys() == found.keys()
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=1e-4, atol=1e-5)
    model.set_adapter("sum")
    y = model(inputs)
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(make_stack(), tmp_path / "sum").eval()
    torch.testing.assert_close(loaded(inputs), y, rtol=1e-5, atol=1e-6)


def trimmed(delta, density):
    kept = delta.abs().flatten().topk(int(density * delta.numel())).indices
    return torch.zeros_like(delta).flatten().index_copy(0, kept, delta.flatten()[kept]).view_as(delta)


@pytest.mark.parametrize("density", [0.25, 1.0])
@pytest.mark.parametrize("kind", ["ties", "magnitude_prune"])
@pytest.mark.parametrize("bias", ["none", "own"])
def test_trimmed_sums_are_of_the_updates(make_stack, randomise, kind, density, bias):
    model = build(make_stack, randomise, {"bias": bias}, {"n": 6, "bias": bias})
    before = {name: updates(model, name) for name in ("default", "other")}
    model.base_model.add_weighted_adapter(["default", "other"], [0.7, 0.4], "new", kind, density=density)
    model.base_model.add_weighted_adapter(["default", "other"], [0.7, 0.4], "low", f"{kind}_svd", 3, density)
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "spec")}
    for key, found in updates(model, "new").items():
        one, other = (trimmed(before[name][key], density) for name in ("default", "other"))
        wanted = 0.7 * one + 0.4 * other
        if kind == "ties":
            sign = (one + other).sign()
            agree = [torch.where(part.sign() == sign, part, 0.0) for part in (one, other)]
            wanted = (0.7 * agree[0] + 0.4 * agree[1]) / sum((part != 0).float() for part in agree).clamp(min=1)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        u, s, vh = torch.linalg.svd(wanted)
        torch.testing.assert_close(updates(model, "low")[key], u[:, :3] * s[:3] @ vh[:3], rtol=1e-3, atol=1e-4)
        if bias == "own":
            assert layers[key].full_bias("new").any()


def test_without_a_wrapper(make_stack, randomise, inputs):
    model = make_stack()
    for seed, name in enumerate(("a", "b")):
        inject_adapter_in_model(KroneckerConfig(n=4, target_modules=["q", "v"]), model, name)
        for layer in (m for m in model.modules() if hasattr(m, "spec")):
            layer.set_adapter([name])
        randomise(model, seed + 3)
    before = model(inputs)
    add_weighted_adapter(model, ["a", "b"], [0.5, 0.5], "mean")
    assert sorted(model.peft_config) == ["a", "b", "mean"]
    assert torch.equal(model(inputs), before)
    for key, delta in updates(model, "mean").items():
        torch.testing.assert_close(delta, expected(model, {"a": 0.5, "b": 0.5})[key], rtol=1e-5, atol=1e-6)


def test_bad_input(make_stack, randomise):
    tuner = build(make_stack, randomise, {}, {"n": 6}).base_model
    for arguments, message in (
        ((["default", "other"], [1.0, 1.0], "x", "mean"), "combination_type must be one of .*, got 'mean'$"),
        ((["default", "other"], [1.0, 1.0], "x", "dare_ties", None, 0.5), "got 'dare_ties': which entries it drops"),
        ((["default", "other"], [1.0, 1.0], "x", "ties"), "`density` must be in \\(0, 1\\] .*'ties', got None"),
        ((["default", "other"], [1.0, 1.0], "x", "magnitude_prune", 2, 0.0), "`density` must be in .*, got 0.0"),
        ((["default", "other"], [1.0, 1.0], "x", "linear", None, 0.5), "`density` is for 'ties' and"),
        ((["default", "other"], [1.0, 1.0], "x", "linear", 0), "`svd_rank` must be a positive integer"),
        ((["default", "other"], [1.0, 1.0], "x", "ties_svd", None, 0.5), "`svd_rank` must be a positive integer"),
        ((["default", "other"], [1.0, 1.0], "x", "ties", None, 0.5, "most"), "`majority_sign_method` must be"),
        ((["default", "other"], [1.0, 1.0], "x", "cat"), "equal \\(n_out, n_in\\), got \\[\\(4, 4\\), \\(6, 6\\)\\]"),
        ((["default", "other"], [1.0, 1.0], "x", "svd"), "`svd_rank` must be a positive integer"),
        ((["default"], [1.0, 1.0], "x", "cat"), "`weights` has 2 entries for 1 adapters"),
        ((["nobody"], [1.0], "x", "cat"), "`adapters` \\['nobody'\\] not found; known: \\['default', 'other'\\]"),
        ((["default"], [1.0], "other", "cat"), "adapter 'other' exists already"),
    ):
        with pytest.raises(ValueError, match=message):
            tuner.add_weighted_adapter(*arguments)
    assert sorted(tuner.peft_config) == ["default", "other"]
