"""Real sizes on the meta device, as the papers and files of the models give them."""

import pytest
import torch


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def meta():
    with torch.device("meta"):
        yield


def lora(model, rank, targets, head):
    from wm_pipelines.dynamics.adapters import add_adapter

    add_adapter(model, "world", rank=rank, targets=targets, train_lm_head=head)
    return sum(p.numel() for name, p in model.named_parameters() if ".world." in name)


@pytest.mark.parametrize(
    ("rank", "targets", "head", "wanted"),
    [
        (16, ("q_proj", "v_proj"), False, 8_388_608),
        (16, ("q_proj", "k_proj", "v_proj", "o_proj"), False, 16_777_216),
        (16, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), False, 39_976_960),
        (8, ("q_proj", "k_proj", "v_proj", "o_proj"), True, 276_824_064),  # MVoT's choice
    ],
)
def test_chameleon_and_its_adapters(meta, rank, targets, head, wanted):
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    model = ChameleonForConditionalGeneration(ChameleonConfig(vocabulary_map={"<image>": 8711}))
    tokeniser = count(model.model.vqmodel)
    assert count(model) == 7_043_090_432 and tokeniser == 29_423_616 and count(model) - tokeniser == 7_013_666_816
    assert lora(model, rank, targets, head) == wanted
    assert 32 * 2 * 4096 * 2 == 2**19  # bytes of cache a token in bf16


def test_the_whole_vqgan(meta):
    from diffusers import VQModel

    from wm_pipelines.tokens.convert import META

    vq = VQModel(**META)
    parts = [count(part) for part in (vq.encoder, vq.decoder, vq.quantize, vq.quant_conv, vq.post_quant_conv)]
    assert parts == [27_194_880, 39_294_851, 2_097_152, 65_792, 65_792] and sum(parts) == count(vq) == 68_718_467


def test_liquid_and_emu3(meta):
    from transformers import Emu3Config, Emu3ForConditionalGeneration, GemmaConfig, GemmaForCausalLM

    sizes = {"hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True}  # fmt: skip
    assert count(GemmaForCausalLM(GemmaConfig(**sizes, vocab_size=264_192))) == 8_562_846_720
    assert count(GemmaForCausalLM(GemmaConfig(**sizes, vocab_size=256_000))) == 8_537_680_896
    emu3 = Emu3ForConditionalGeneration(Emu3Config(vocabulary_map={"<image>": 0}))
    assert count(emu3) == 8_762_751_807 and count(emu3.model.vqmodel) == 270_740_287


def test_instruct_pix2pix(meta):
    from diffusers import UNet2DConditionModel

    assert count(UNet2DConditionModel(in_channels=8, cross_attention_dim=768)) == 859_532_484


def test_a_picture_takes_so_many_tokens(token_models):
    """1026 at 512 pixels for Chameleon and Liquid; 64 x 65 codes and row ends for Emu3."""
    said = {family: token_models.make(family).sequences for family in token_models.FAMILIES}
    for family, side, wanted in (("liquid", 32, 1026), ("chameleon", 32, 1026), ("emu3", 64, 4160)):
        codes = torch.zeros(side, side, dtype=torch.long)
        body = len(said[family].body(codes))
        marks = 0 if family == "emu3" else len(said[family].begin(codes.shape)) + len(said[family].end)
        assert body + marks == wanted
