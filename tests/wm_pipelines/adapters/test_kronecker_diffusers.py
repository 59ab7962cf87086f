"""The adapter in diffusers models: add_adapter, set_adapters, scale, fuse, files, and LoRA that diffusers loads."""

import copy
import json

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from peft import LoraConfig, PeftModel

from wm_pipelines.adapters.kronecker import KroneckerConfig, load_adapter, save_adapter, save_lora

TARGETS = ["to_q", "to_v", "to_out.0"]


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
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


@pytest.fixture
def unet(base):
    return copy.deepcopy(base)


@pytest.fixture
def call():
    generator = torch.Generator().manual_seed(3)
    sample, text = torch.randn(2, 2, 8, 8, generator=generator), torch.randn(2, 5, 16, generator=generator)

    @torch.no_grad()
    def run(model, **kwargs):
        return model(sample, torch.tensor([3, 700]), text, **kwargs).sample

    return run


@pytest.fixture
def add(randomise):
    def run(unet, name="style", seed=1, **options):
        unet.add_adapter(KroneckerConfig(**{"n": 4, "target_modules": TARGETS, **options}), name)
        return randomise(unet, seed)

    return run


def test_adapters_and_scale(unet, call, add):
    plain = call(unet)
    add(unet, "style", 1)
    style = call(unet)
    add(unet, "subject", 2, factored=False, bias="own")
    subject = call(unet)
    assert not torch.allclose(style, subject, atol=1e-3) and not torch.allclose(style, plain, atol=1e-3)
    unet.set_adapters(["style", "subject"], [1.0, 0.0])
    torch.testing.assert_close(call(unet), style, rtol=1e-4, atol=1e-5)
    unet.set_adapters("style", 0.5)
    half = call(unet)
    unet.set_adapters("style", 1.0)
    torch.testing.assert_close(call(unet, cross_attention_kwargs={"scale": 0.5}), half, rtol=1e-4, atol=1e-5)
    assert torch.equal(call(unet), style)
    unet.disable_adapters()
    assert torch.equal(call(unet), plain)
    unet.enable_adapters()
    assert torch.equal(call(unet), style)
    unet.delete_adapters("subject")
    assert torch.equal(call(unet), style) and list(unet.peft_config) == ["style"]


def test_fuse_and_unfuse(unet, call, add):
    add(unet)
    expected, before = call(unet), {k: t.clone() for k, t in unet.state_dict().items()}
    unet.fuse_lora(safe_fusing=True)
    torch.testing.assert_close(call(unet), expected, rtol=1e-4, atol=1e-5)
    unet.unfuse_lora()
    assert all(torch.equal(unet.state_dict()[key], t) for key, t in before.items())


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_folder_round_trip(unet, base, call, add, tmp_path, low_cpu_mem_usage):
    add(unet, factored=False, bias="shared")
    expected = call(unet)
    save_adapter(unet, tmp_path, "style")
    loaded = load_adapter(copy.deepcopy(base), tmp_path, "again", low_cpu_mem_usage)
    assert torch.equal(call(loaded), expected)
    load_adapter(loaded, tmp_path, "twice", low_cpu_mem_usage)
    loaded.set_adapters(["again", "twice"], [0.5, 0.5])
    torch.testing.assert_close(call(loaded), expected, rtol=1e-4, atol=1e-5)
    wrapped = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert torch.equal(call(wrapped), expected)


@pytest.mark.parametrize(("factored", "bias"), [(True, "none"), (False, "none"), (True, "own")])
def test_diffusers_loads_the_exported_lora(unet, base, call, add, tmp_path, factored, bias):
    add(unet, factored=factored, bias=bias)
    expected = call(unet)
    path = save_lora(unet, tmp_path, "style", format="diffusers")
    plain = copy.deepcopy(base)
    plain.load_lora_adapter(tmp_path, prefix="unet", weight_name=path.name)
    assert isinstance(plain.peft_config["default_0"], LoraConfig)
    torch.testing.assert_close(call(plain), expected, rtol=1e-4, atol=1e-5)


def test_kohya_keys_are_read_as_the_same_lora(unet, base, call, add, tmp_path):
    add(unet)
    expected = call(unet)
    path = save_lora(unet, tmp_path, "style", format="kohya")
    plain = copy.deepcopy(base)
    state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(str(path), unet_config=plain.config)
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, network_alphas=alphas, unet=plain)
    torch.testing.assert_close(call(plain), expected, rtol=1e-4, atol=1e-5)


def test_bad_folders_leave_no_trace(unet, base, call, add, tmp_path):
    add(unet)
    save_adapter(unet, tmp_path, "style")
    model, plain = copy.deepcopy(base), call(base)
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    text, data = config.read_text(), weights.read_bytes()

    def refused(message):
        with pytest.raises(ValueError, match=message):
            load_adapter(model, tmp_path, "style")
        assert torch.equal(call(model), plain)
        assert list(model.state_dict()) == list(base.state_dict()) and not hasattr(model, "peft_config")

    weights.write_bytes(data[: len(data) // 2])
    refused("can't be read")
    weights.write_bytes(data)
    config.write_text(json.dumps({**json.loads(text), "n_in": 8}))
    refused("adapter was trained with n=4, terms=4, config says n=8, terms=4")
    config.write_text(json.dumps({**json.loads(text), "target_modules": ["to_q"]}))
    refused("unexpected")
    config.write_text(json.dumps({**json.loads(text), "target_modules": [*TARGETS, "to_k"]}))
    refused("missing")
    config.write_text(json.dumps({**json.loads(text), "target_modules": ["other"]}))
    refused("matched 0 Linear layers; nearest names")
    LoraConfig(target_modules=["to_q"]).save_pretrained(tmp_path)
    refused("not for KRONECKER")
    config.unlink()
    refused("has no adapter_config.json")
    config.write_text(text)
    load_adapter(model, tmp_path, "style")
    with pytest.raises(ValueError, match="adapter 'style' exists already"):
        load_adapter(model, tmp_path, "style")
    with pytest.raises(ValueError, match="no Kronecker adapter 'x' in the model; it has \\['style'\\]"):
        save_adapter(model, tmp_path, "x")


def test_layers_that_share_survive_group_offload(unet, call, add):
    """A borrowed A may live on another device than the layer: the owner is asked for it at every call."""
    add(unet)
    expected = call(unet)
    unet.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    torch.testing.assert_close(call(unet), expected)


def test_fused_projections(unet, call, add):
    """A fused UNet runs to_qkv (self) and to_kv (cross): adapters go there, and nowhere that is not called."""
    unet.fuse_qkv_projections()
    plain = call(unet)
    for target, fused in (("attn1.to_q", "to_qkv"), ("attn1.to_v", "to_qkv"), ("attn2.to_v", "to_kv")):
        with pytest.raises(ValueError, match=f"{target}`: this attention is fused and runs {fused} instead"):
            unet.add_adapter(KroneckerConfig(n=4, target_modules=[target]))
    assert torch.equal(call(unet), plain)
    add(unet, target_modules=["to_qkv", "to_kv"], fused={"to_qkv": ("q", "k", "v"), "to_kv": ("k", "v")})
    layers = {name: m for name, m in unet.named_modules() if hasattr(m, "spec")}
    assert {name.rpartition(".")[2] for name in layers} == {"to_qkv", "to_kv"}
    delta = next(m for name, m in layers.items() if name.endswith("to_qkv")).get_delta_weight("style")
    q, k, v = delta.chunk(3)
    assert q.any() and not k.any() and v.any()
    assert not torch.allclose(call(unet), plain, atol=1e-3)


@pytest.mark.parametrize(
    ("targets", "count"),
    [(["to_q", "to_v"], 103_744), (["to_q", "to_k", "to_v", "to_out.0"], 207_488)],
)
def test_sd15_counts(targets, count):
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        unet.requires_grad_(False)
        unet.add_adapter(KroneckerConfig(n=32, target_modules=targets))
    assert sum(p.numel() for p in unet.parameters() if p.requires_grad) == count


def test_flux_count():
    with torch.device("meta"):
        flux = FluxTransformer2DModel().requires_grad_(False)
        flux.add_adapter(KroneckerConfig(n=32, target_modules=["to_q", "to_v"]))
    assert sum(p.numel() for p in flux.parameters() if p.requires_grad) == 704_512
