"""The exact LoRA form: as factors, and as files that PEFT, diffusers and the Kohya readers load."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from wm_pipelines.adapters.kronecker import KroneckerConfig, save_lora, to_lora

FORMS = {
    "rank_one": ({"r": 2}, 8),
    "dense": ({"factored": False, "terms": 2}, 8),
    "dense_full_rank": ({"factored": False, "r": 2}, 24),
    "bias": ({"bias": "shared"}, 4),
    "ranks": ({"rank_pattern": {"blocks.1.v": 3}, "alpha_pattern": {"q": 2.0}}, 4),
    "fused": ({"fused": {"k": ("a", "b")}, "target_modules": ["k", "v"], "fused_targets": ("b",), "bias": "own"}, 4),
}


def adapted(make_stack, randomise, form):
    options = {"n": 4, "target_modules": ["q", "v"], **FORMS[form][0]}
    return randomise(get_peft_model(make_stack(), KroneckerConfig(**options))).eval()


@pytest.mark.parametrize("form", FORMS)
def test_factors_are_exact(make_stack, randomise, form):
    model = adapted(make_stack, randomise, form)
    factors = to_lora(model)
    layers = {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if hasattr(m, "spec")}
    assert factors.keys() == layers.keys()
    for name, layer in layers.items():
        exact = layer.double().get_delta_weight("default")
        error = (factors[name].up.double() @ factors[name].down.double() - exact).norm() / exact.norm()
        assert error <= 1e-6
    assert len(factors["blocks.0.v"].down) == FORMS[form][1]


@pytest.mark.parametrize("form", FORMS)
def test_peft_file(make_stack, randomise, inputs, tmp_path, form):
    model = adapted(make_stack, randomise, form)
    save_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(make_stack(), tmp_path).eval()
    assert lora.peft_config["default"].peft_type == "LORA"
    torch.testing.assert_close(lora(inputs), model(inputs), rtol=1e-4, atol=1e-5)


def test_peft_converter(make_stack, randomise):
    """PEFT's own SVD converter accepts the layers, and refuses the ones whose bias it would drop."""
    convert_to_lora = pytest.importorskip("peft", minversion="0.18").convert_to_lora
    model = adapted(make_stack, randomise, "rank_one")
    config, state = convert_to_lora(model, rank=8)
    exact = model.base_model.model.blocks[0].q.get_delta_weight("default")
    a, b = (next(t for k, t in state.items() if k.endswith(f"blocks.0.q.lora_{x}.weight")) for x in "AB")
    torch.testing.assert_close(b @ a * config.lora_alpha / config.r, exact, rtol=1e-3, atol=1e-4)
    assert not adapted(make_stack, randomise, "bias").supports_lora_conversion()


def test_kohya_file(make_stack, randomise, tmp_path):
    model = adapted(make_stack, randomise, "bias")
    stored = load_file(save_lora(model, tmp_path, format="kohya", prefix="lora_te", dtype=torch.float16))
    layer = model.base_model.model.blocks[1].v
    key = "lora_te_blocks_1_v"
    up, down, alpha = (stored[f"{key}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    delta = up.float() @ down.float() * (alpha / len(down))
    torch.testing.assert_close(delta, layer.get_delta_weight("default"), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(stored[f"{key}.diff_b"].float(), layer.delta_bias("default"), rtol=1e-2, atol=1e-3)
    assert len(stored) == 4 * 6


def test_scale_is_exported(make_stack, randomise):
    model = adapted(make_stack, randomise, "rank_one")
    full = to_lora(model)["blocks.0.q"].up
    model.base_model.model.blocks[0].q.set_scale("default", 0.25)
    torch.testing.assert_close(to_lora(model)["blocks.0.q"].up, 0.25 * full)


def test_bad_input(make_stack, randomise, tmp_path):
    model = adapted(make_stack, randomise, "rank_one")
    with pytest.raises(ValueError, match="no Kronecker adapter 'x' in the model; it has \\['default'\\]"):
        save_lora(model, tmp_path, "x")
    with pytest.raises(ValueError, match="`format` must be one of"):
        save_lora(model, tmp_path, format="onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        save_lora(model, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
