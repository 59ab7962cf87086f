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


@pytest.mark.parametrize("form", ["rank_one", "dense", "dense_full_rank"])
def test_a_smaller_rank_is_refused_with_its_error(make_stack, randomise, tmp_path, form):
    """A compact LoRA of a dense adapter does not exist; the best one is written when asked for."""
    model = adapted(make_stack, randomise, form)
    deltas = {name: lora.up @ lora.down for name, lora in to_lora(model).items()}
    spectra = [torch.linalg.svdvals(delta.double()) for delta in deltas.values()]
    error = (sum(s[3:].square().sum() for s in spectra) / sum(s.square().sum() for s in spectra)).sqrt()
    message = f"no exact LoRA form of rank 3, it needs {FORMS[form][1]}; leave `rank` out, use format='diff' or "
    message += f"allow_lossy=True \\(error {error:.1%}\\)"
    with pytest.raises(ValueError, match=message):
        save_lora(model, tmp_path, format="kohya", rank=3)
    assert not list(tmp_path.iterdir())
    stored = load_file(save_lora(model, tmp_path, format="kohya", rank=3, allow_lossy=True))
    lost = {
        name: stored[f"lora_unet_{name.replace('.', '_')}.lora_up.weight"]
        @ stored[f"lora_unet_{name.replace('.', '_')}.lora_down.weight"]
        - delta
        for name, delta in deltas.items()
    }
    found = torch.stack(list(lost.values())).norm() / torch.stack(list(deltas.values())).norm()
    assert float(found) == pytest.approx(float(error), rel=1e-4) and error > 0.01


def test_a_larger_rank_is_filled_with_zeros(make_stack, randomise, inputs, tmp_path):
    model = adapted(make_stack, randomise, "ranks")
    path = save_lora(model, tmp_path, rank=16)
    assert {t.shape[0] for k, t in load_file(path).items() if "lora_A" in k} == {16}
    lora = PeftModel.from_pretrained(make_stack(), tmp_path).eval()
    torch.testing.assert_close(lora(inputs), model(inputs), rtol=1e-4, atol=1e-5)


def test_diff_file_holds_the_whole_update(make_stack, randomise, tmp_path):
    model = adapted(make_stack, randomise, "fused")
    stored = load_file(save_lora(model, tmp_path, format="diff"))
    layer = model.base_model.model.blocks[2].k
    torch.testing.assert_close(stored["lora_unet_blocks_2_k.diff"], layer.get_delta_weight("default"))
    assert stored["lora_unet_blocks_2_k.diff_b"][12:].any() and not stored["lora_unet_blocks_2_k.diff_b"][:12].any()


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
    for options in ({"rank": 0}, {"rank": 2.5}, {"rank": 4, "format": "diff"}):
        with pytest.raises(ValueError, match="`rank` must be a positive integer, and None with format='diff'"):
            save_lora(model, tmp_path, **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        save_lora(model, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
