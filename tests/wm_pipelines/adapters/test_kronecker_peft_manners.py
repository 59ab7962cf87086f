"""What PEFT's own tools expect of a tuner: casting of inputs, LoRA conversion, beam search, safe merges."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import convert_to_lora, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from wm_pipelines.adapters.kronecker import KroneckerConfig


def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


@pytest.mark.parametrize("bias", ["none", "own"])
@torch.no_grad()
def test_layerwise_casting_after_an_adapter(randomise, bias):
    model = unet().bfloat16().float()  # so that storage in bf16 rounds nothing
    model.add_adapter(KroneckerConfig(n=4, target_modules=["to_q", "to_v"], bias=bias))
    randomise(model)
    call = (torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 8))
    wanted = model(*call).sample
    model.disable_adapters()
    plain = model(*call).sample
    model.enable_adapters()
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    found = model(*call).sample
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(wanted, plain)
    attention = model.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    assert attention.to_q.base_layer.weight.dtype == torch.bfloat16
    assert attention.to_q.cast_input_dtype_enabled


@pytest.mark.parametrize("factored", [True, False])
@torch.no_grad()
def test_disabled_casting_leaves_the_input_alone(make_stack, randomise, inputs, factored):
    model = get_peft_model(make_stack(), KroneckerConfig(n=4, factored=factored, target_modules=["q", "v"]))
    randomise(model)
    layer = model.base_model.model.blocks[0].q
    seen = []
    layer.base_layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    layer.base_layer.bfloat16()
    x = inputs.bfloat16()
    wide = layer(x)
    with disable_input_dtype_casting(model):
        narrow = layer(x)
        assert not layer.cast_input_dtype_enabled
    assert layer.cast_input_dtype_enabled and seen == [torch.bfloat16] * 2
    assert wide.dtype == narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow, wide, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [8, 0.999])
def test_conversion_to_lora_keeps_the_dtype(make_stack, randomise, dtype, rank):
    model = get_peft_model(make_stack(), KroneckerConfig(n=4, target_modules=["q", "v"]))
    randomise(model)
    for name, parameter in model.named_parameters():
        if "kronecker_" in name:
            parameter.data = parameter.data.to(dtype)
    config, tensors = convert_to_lora(model, rank)
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    layer = model.base_model.model.blocks[0].q
    found = tensors["base_model.model.blocks.0.q.lora_B.weight"] @ tensors["base_model.model.blocks.0.q.lora_A.weight"]
    torch.testing.assert_close(found.float(), layer.full_delta("default"), rtol=0.05, atol=0.05)
    assert layer.get_delta_weight("default").dtype == dtype


@pytest.mark.parametrize("where", ["kronecker_u", "kronecker_bias"])
def test_a_safe_merge_names_the_broken_adapter_as_peft_does(make_stack, randomise, where):
    model = get_peft_model(make_stack(), KroneckerConfig(n=4, target_modules=["q"], bias="own"))
    model.add_adapter("other", KroneckerConfig(n=4, target_modules=["q"], bias="own"))
    model.base_model.set_adapter(["default", "other"])
    randomise(model)
    layer = model.base_model.model.blocks[0].q
    before = {key: value.clone() for key, value in layer.base_layer.state_dict().items()}
    with torch.no_grad():
        getattr(layer, where)["other"].view(-1)[0] = torch.inf
    message = "^NaNs detected in the merged weights. The adapter other seems to be broken"
    with pytest.raises(ValueError, match=message):
        model.merge_adapter(safe_merge=True)
    assert all(torch.equal(before[key], value) for key, value in layer.base_layer.state_dict().items())
    assert not layer.merged


def causal() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=40, n_positions=32))


def with_encoder() -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_layers": 2, "vocab_size": 40}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1))


@pytest.mark.parametrize(("build", "targets"), [(causal, ["lm_head"]), (with_encoder, ["q", "v"])])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_beam_search_with_an_adapter_a_sample(randomise, build, targets):
    torch.manual_seed(0)
    model = get_peft_model(build(), KroneckerConfig(n=4, target_modules=targets))
    model.add_adapter("other", KroneckerConfig(n=4, target_modules=targets))
    for seed, name in enumerate(("default", "other")):
        model.set_adapter(name)
        randomise(model, seed=seed, scale=1.0)
    model.eval()
    tokens = torch.randint(2, 40, (3, 6))
    options = {"num_beams": 3, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(tokens)
    mixed = model.generate(input_ids=tokens, adapter_names=["default", "__base__", "other"], **options)
    apart = []
    for name in ("default", "other"):
        model.set_adapter(name)
        apart.append(model.generate(input_ids=tokens, **options))
    with model.disable_adapter():
        base = model.generate(input_ids=tokens, **options)
    assert torch.equal(mixed[0], apart[0][0]) and torch.equal(mixed[2], apart[1][2])
    assert torch.equal(mixed[1], base[1])
    assert not torch.equal(apart[0], base) and not torch.equal(apart[0], apart[1])
