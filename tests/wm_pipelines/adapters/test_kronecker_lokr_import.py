"""LoKr files of PEFT and of LyCORIS become Kronecker adapters with the same output."""

import copy
import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoKrConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from wm_pipelines.adapters.kronecker import load_adapter, load_lokr, save_adapter, save_lora

# the files of these tests hold both factors whole; what the warning says has a test of its own
pytestmark = pytest.mark.filterwarnings("ignore:.*holds both LoKr factors whole:UserWarning")


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


@pytest.fixture
def unet(base):
    return copy.deepcopy(base)


@torch.no_grad()
def call(model):
    generator = torch.Generator().manual_seed(3)
    sample, text = torch.randn(2, 2, 8, 8, generator=generator), torch.randn(2, 5, 24, generator=generator)
    return model(sample, torch.tensor([3, 700]), text).sample


def peft_lokr(model, randomise, folder, **options):
    config = LoKrConfig(**{"r": 2, "alpha": 3, "target_modules": ["q", "v"], **options})
    adapted = randomise(get_peft_model(model, config)).eval()
    adapted.save_pretrained(folder)
    return adapted


LOKR = {
    "whole_w1": {},
    "both_products": {"decompose_both": True, "r": 1},
    "whole_w2": {"r": 8},
    "oblong": {"target_modules": ["head"], "decompose_factor": 2},
    "patterns": {"rank_pattern": {"blocks.1.v": 1, "q": 5}, "alpha_pattern": {"v": 7}},
    "two_sizes": {"target_modules": ["q", "v", "head"], "decompose_factor": -1},
}


@pytest.mark.parametrize("form", LOKR)
def test_peft_folder(make_stack, randomise, inputs, tmp_path, form):
    """Same output as PEFT's own LoKr layers, also through a file of ours."""
    lokr = peft_lokr(make_stack(), randomise, tmp_path / "lokr", **LOKR[form])
    expected = lokr(inputs)
    assert not torch.allclose(expected, make_stack()(inputs), atol=1e-3)
    model = load_lokr(make_stack(), tmp_path / "lokr", "style").eval()
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)
    for name, layer in ((n, m) for n, m in model.named_modules() if hasattr(m, "spec")):
        theirs = lokr.base_model.model.get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(layer.get_delta_weight("style"), theirs, rtol=1e-5, atol=1e-7)
        assert layer.spec["style"].n_out == (1 if form == "two_sizes" else len(theirs_w1(lokr, name)))
    save_adapter(model, tmp_path / "ours", "style")
    assert torch.equal(load_adapter(make_stack(), tmp_path / "ours").eval()(inputs), model(inputs))


def test_dropout_that_needs_the_whole_update_is_left_behind_aloud(make_stack, randomise, inputs, tmp_path):
    lokr = peft_lokr(make_stack(), randomise, tmp_path, rank_dropout=0.5)
    with pytest.warns(UserWarning, match="dropout on the rows of ΔW needs ΔW itself"):
        model = load_lokr(make_stack(), tmp_path)
    torch.testing.assert_close(model.eval()(inputs), lokr(inputs), rtol=1e-4, atol=1e-5)


def theirs_w1(lokr, name):
    layer = lokr.base_model.model.get_submodule(name)
    return layer.lokr_w1["default"] if "default" in layer.lokr_w1 else layer.lokr_w1_a["default"]


def lycoris_file(unet, path, factor=4, rank=2, prefix="lora_unet_", targets=(".to_q", ".to_v"), flat=True):
    """A file as LyCORIS writes it, and the ΔW of its published formula, alpha/rank · w1 ⊗ w2."""
    tensors, deltas = {}, {}
    generator = torch.Generator().manual_seed(5)
    for index, (name, layer) in enumerate((n, m) for n, m in unet.named_modules() if n.endswith(targets)):
        key = prefix + (name.replace(".", "_") if flat else name)
        rows, columns = layer.out_features // factor, layer.in_features // factor
        alpha = torch.tensor(index + 0.5)
        w1 = torch.randn(factor, factor, generator=generator)
        tensors[f"{key}.lokr_w1"], tensors[f"{key}.alpha"] = w1, alpha
        if index % 2:  # no product, so no rank: the scale is 1 whatever alpha says
            w2 = tensors[f"{key}.lokr_w2"] = torch.randn(rows, columns, generator=generator)
            deltas[name] = torch.kron(w1, w2)
        else:
            a, b = (torch.randn(*size, generator=generator) for size in ((rows, rank), (rank, columns)))
            tensors[f"{key}.lokr_w2_a"], tensors[f"{key}.lokr_w2_b"] = a, b
            deltas[name] = alpha / rank * torch.kron(w1, a @ b)
    save_file(tensors, path)
    return deltas


@pytest.mark.parametrize(
    "form",
    [{}, {"prefix": "lycoris_"}, {"prefix": "unet.", "flat": False}, {"prefix": "", "flat": False}, {"factor": 2}],
    ids=str,
)
def test_lycoris_file(unet, base, tmp_path, form):
    deltas = lycoris_file(unet, tmp_path / "a.safetensors", **form)
    load_lokr(unet, tmp_path / "a.safetensors")
    layers = {name: layer for name, layer in unet.named_modules() if hasattr(layer, "spec")}
    assert layers.keys() == deltas.keys() and len(layers) > 4
    for name, layer in layers.items():
        torch.testing.assert_close(layer.get_delta_weight("default"), deltas[name], rtol=1e-5, atol=1e-5)
    merged = copy.deepcopy(base)
    for name, delta in deltas.items():
        merged.get_submodule(name).weight.data += delta
    torch.testing.assert_close(call(unet), call(merged), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"decompose_both": True}, {"full_matrix": True}, {"rs_lora": True}], ids=str)
@pytest.mark.parametrize("bypass", [True, False])
def test_output_of_the_library_itself(tmp_path, options, bypass):
    """LyCORIS' own module, where it is installed, in both of its ways to apply an update."""
    lokr = pytest.importorskip("lycoris.modules.lokr", reason="lycoris-lora is not installed")
    torch.manual_seed(0)
    base, x = torch.nn.Linear(48, 96), torch.randn(3, 48)
    ours = torch.nn.Sequential(copy.deepcopy(base))
    module = lokr.LokrModule("lycoris_0", base, lora_dim=2, alpha=3, factor=8, bypass_mode=bypass, **options)
    for name, parameter in module.named_parameters():
        if name.startswith("lokr"):
            torch.nn.init.normal_(parameter)
    state = {f"lycoris_0.{key}": t.detach().clone().contiguous() for key, t in module.custom_state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    load_lokr(ours, tmp_path / "a.safetensors")
    torch.testing.assert_close(ours(x), module(x), rtol=1e-4, atol=1e-4)
    assert (ours(x) - base(x)).abs().max() > 1


def test_one_of_several_models_in_a_file(unet, tmp_path):
    path = tmp_path / "a.safetensors"
    deltas = lycoris_file(unet, path)
    both = {**load_file(path), "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lokr_w1": torch.ones(2, 2)}
    save_file(both, path)
    with pytest.raises(ValueError, match="several models; `prefix` must be one of \\['lora_te_', 'lora_unet_'\\]"):
        load_lokr(unet, path)
    with pytest.raises(ValueError, match="`prefix` 'x' is not in .*; it has \\['lora_te_', 'lora_unet_'\\]"):
        load_lokr(unet, path, prefix="x")
    load_lokr(unet, path, prefix="lora_unet_")
    assert sum(hasattr(layer, "spec") for layer in unet.modules()) == len(deltas)


def lacking(part):
    return lambda tensors, key: tensors.pop(f"{key}.{part}")


def adding(part, *size):
    return lambda tensors, key: tensors.update({f"{key}.{part}": torch.ones(*size)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (adding("lokr_t2", 2, 2, 3, 3), "has Tucker factors \\(lokr_t2\\)"),
        (adding("dora_scale", 16, 1), "has a DoRA scale"),
        (adding("lora_up.weight", 16, 2), "is not a LoKr adapter: 1 other keys, such as .*lora_up.weight"),
        (adding("lokr_w1", 4, 4, 1, 1), "a factor that is not a matrix belongs to a convolution"),
        (adding("lokr_w1", 2, 4), "the adapter is for a weight \\(8, 16\\), the model has \\(16, 16\\)"),
        (adding("lokr_w2", 4, 4), "needs either lokr_w2, or both lokr_w2_a and lokr_w2_b"),
        (lacking("lokr_w1"), "needs either lokr_w1, or both lokr_w1_a and lokr_w1_b"),
        (lacking("lokr_w2_b"), "needs either lokr_w2, or both"),
        (adding("alpha", 2), "alpha must be one number, got shape \\(2,\\)"),
        (lambda tensors, key: tensors.update({f"{key}.alpha": torch.tensor(0.0)}), "finite and not 0, got 0.0"),
        (
            lambda tensors, key: tensors.update({"lora_unet_other_to_q.lokr_w1": torch.ones(2, 2)}),
            "1 modules of .* are not in the model by that name, such as \\['lora_unet_other_to_q'\\]",
        ),
        (
            lambda tensors, key: tensors.update(
                {"lora_unet_conv_in.lokr_w1": torch.ones(2, 2)} | {"lora_unet_conv_in.lokr_w2": torch.ones(4, 1, 3, 1)}
            ),
            "`conv_in`: the adapter is for a weight \\(8, 2, 3, 1\\), the model has \\(8, 2, 3, 3\\)",
        ),
        (
            lambda tensors, key: tensors.update(
                {f"lora_unet_conv_norm_out.lokr_{w}": torch.ones(4, 1) for w in ("w1", "w2")}
            ),
            "`conv_norm_out` is a GroupNorm; Kronecker adapters take linear layers only",
        ),
    ],
)
def test_bad_files_leave_the_model_alone(unet, tmp_path, change, message):
    path = tmp_path / "a.safetensors"
    lycoris_file(unet, path)
    tensors = load_file(path)
    key = next(k for k in tensors if k.endswith("lokr_w2_a")).removesuffix(".lokr_w2_a")
    change(tensors, key)
    save_file(tensors, path)
    keys = list(unet.state_dict())
    with pytest.raises(ValueError, match=message):
        load_lokr(unet, path)
    assert list(unet.state_dict()) == keys and not hasattr(unet, "peft_config")


def test_foreign_formats(make_stack, unet, randomise, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"lora_unet_a.lokr_w1": torch.ones(2, 2)}, path)
    with pytest.raises(ValueError, match="can't be read.*Only safetensors.*weights_only=True"):
        load_lokr(unet, path)
    with pytest.raises(ValueError, match="is not a file"):
        load_lokr(unet, tmp_path / "none.safetensors")
    peft_lokr(make_stack(), randomise, tmp_path / "lokr")
    with pytest.raises(ValueError, match="is for LOKR, not for KRONECKER"):
        load_adapter(make_stack(), tmp_path / "lokr")
    config = tmp_path / "lokr" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "LOHA"}))
    with pytest.raises(ValueError, match="not for LOKR"):
        load_lokr(make_stack(), tmp_path / "lokr")
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "LOKR"}))
    with pytest.raises(ValueError, match="the model has no module `blocks.0.q`"):
        load_lokr(unet, tmp_path / "lokr")


@pytest.mark.parametrize("options", [{"r": 2}, {"r": 2, "decompose_both": True}, {"r": 64}, {"r": 2, "alpha": 5}])
def test_convolutions_of_peft(unet, randomise, tmp_path, options):
    options = {"target_modules": ["conv1", "conv_shortcut", "to_q"], **options}
    lokr = peft_lokr(copy.deepcopy(unet), randomise, tmp_path, **options)
    loaded = load_lokr(unet, tmp_path)
    torch.testing.assert_close(call(loaded), call(lokr), rtol=1e-4, atol=1e-5)
    for name, layer in lokr.base_model.model.named_modules():
        if hasattr(layer, "lokr_w1"):
            delta = layer.get_delta_weight("default").detach()
            torch.testing.assert_close(loaded.get_submodule(name).get_delta_weight("default"), delta)


def test_tucker_factors_of_peft_are_refused(unet, tmp_path):
    config = LoKrConfig(r=2, use_effective_conv2d=True, target_modules=["conv1"])
    get_peft_model(copy.deepcopy(unet), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has Tucker factors"):
        load_lokr(unet, tmp_path)


@pytest.mark.parametrize("options", [{"r": 2}, {"r": 2, "decompose_both": True}, {"r": 64}])
def test_diffusers_own_loader_reads_the_same(base, randomise, tmp_path, options):
    """diffusers' LoKr loader, our import, and our LoRA export of it read by diffusers: one output."""
    config = LoKrConfig(target_modules=["to_q", "to_v"], alpha=options["r"], **options)  # alpha/r is 1 in such files
    lokr = randomise(get_peft_model(copy.deepcopy(base), config)).eval()
    state = get_peft_model_state_dict(lokr)
    state = {key.removeprefix("base_model.model."): tensor.clone() for key, tensor in state.items()}
    theirs, ours, again = (copy.deepcopy(base) for _ in range(3))
    theirs.load_lora_adapter(dict(state), prefix=None)
    assert isinstance(next(iter(theirs.peft_config.values())), LoKrConfig)
    save_file(state, tmp_path / "lokr.safetensors")
    wanted = call(theirs)
    assert not torch.allclose(wanted, call(base), atol=1e-3)
    torch.testing.assert_close(wanted, call(lokr), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(call(load_lokr(ours, tmp_path / "lokr.safetensors")), wanted, rtol=1e-4, atol=1e-5)
    path = save_lora(ours, tmp_path, format="diffusers")
    again.load_lora_adapter(tmp_path, prefix="unet", weight_name=path.name)
    torch.testing.assert_close(call(again), wanted, rtol=1e-4, atol=1e-5)
