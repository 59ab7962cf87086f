"""AURORA's layout into diffusers: held against diffusers' own reading of latent diffusion's names."""

import pytest
import torch

from wm_pipelines.world_model.convert import convert, fill_parts, unet_source

BLOCKS = {"down": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
          "up": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip


def make_parts(seed=0):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=8, block_out_channels=(8, 8, 16), layers_per_block=2, cross_attention_dim=16,
        attention_head_dim=2, norm_num_groups=4, down_block_types=BLOCKS["down"], up_block_types=BLOCKS["up"],
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4)  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                        num_attention_heads=2, bos_token_id=38, eos_token_id=39))  # fmt: skip
    return unet, vae, text


def ldm_of(unet, vae, text):
    """A checkpoint as latent diffusion writes it: raw weights that are wrong, and averaged ones."""
    from wm_pipelines.hub.conversion import vae_source
    from wm_pipelines.world_model.convert import text_source

    state = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3)}
    for name, value in unet.state_dict().items():
        theirs = unet_source(name, BLOCKS["up"], 2)
        state["model_ema." + f"diffusion_model.{theirs}".replace(".", "")] = value
        state[f"model.diffusion_model.{theirs}"] = value + 1
    for name, value in vae.state_dict().items():
        value = value[:, :, None, None] if "attentions" in name and value.ndim == 2 else value
        state[f"first_stage_model.{vae_source(name, 2)}"] = value
    state |= {f"cond_stage_model.{text_source(name)}": value for name, value in text.state_dict().items()}
    return state


def test_names_are_those_that_diffusers_reads():
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = make_parts()[0]
    config = {"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": None,
              "down_block_types": BLOCKS["down"], "up_block_types": BLOCKS["up"]}  # fmt: skip
    state = {f"model.diffusion_model.{unet_source(n, BLOCKS['up'], 2)}": v for n, v in unet.state_dict().items()}
    assert len(state) == len(unet.state_dict())
    read = convert_ldm_unet_checkpoint(state, config)
    assert read.keys() == unet.state_dict().keys()
    assert all(torch.equal(value, unet.state_dict()[name]) for name, value in read.items())


def test_averaged_weights_fill_all_three_parts():
    source = make_parts()
    state, target = ldm_of(*source), make_parts(seed=1)
    fill_parts(state, *target)
    for mine, theirs in zip(target, source, strict=True):
        assert all(torch.equal(v, theirs.state_dict()[n]) for n, v in mine.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: v for n, v in s.items() if not n.startswith("model_ema.")}, "no averaged weights"),
        (lambda s: {n: v for n, v in s.items() if "first_stage_model.decoder.conv_in" not in n}, "lacks 2 keys"),
        (lambda s: {**s, "model_ema.diffusion_modelextra": torch.ones(1)}, "1 that have no place"),
        (lambda s: {**s, "model_ema.diffusion_modelinput_blocks00weight": torch.ones(8, 4, 3, 3)}, "has shape"),
    ],
)
def test_checkpoints_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        fill_parts(change(ldm_of(*make_parts())), *make_parts(seed=1))


def test_a_folder_that_is_not_empty_and_a_base_that_is_none(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(ValueError, match="exists and is not empty"):
        convert(tmp_path / "a.ckpt", tmp_path, tmp_path / "full")
    with pytest.raises(ValueError, match="is no folder of a pipeline"):
        convert(tmp_path / "a.ckpt", tmp_path, tmp_path / "new")


def test_from_a_torch_file_to_a_folder_that_draws_the_same(tmp_path, wm):
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline
    from PIL import Image

    from wm_pipelines.diorama.tokenizer import build_tokenizer

    unet, vae, text = make_parts()
    tokenizer = build_tokenizer(tmp_path / "words")
    from transformers import CLIPTextConfig, CLIPTextModel

    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                                        num_hidden_layers=1, num_attention_heads=2, **ends))  # fmt: skip
    parts = {"tokenizer": tokenizer, "scheduler": EulerAncestralDiscreteScheduler(), "safety_checker": None,
             "feature_extractor": None, "requires_safety_checker": False}  # fmt: skip
    made = StableDiffusionInstructPix2PixPipeline(vae=vae, text_encoder=text, unet=unet, **parts)
    torch.save({"state_dict": ldm_of(unet, vae, text)}, tmp_path / "aurora.ckpt")
    other = make_parts(seed=3)
    StableDiffusionInstructPix2PixPipeline(vae=other[1], text_encoder=text, unet=other[0], **parts).save_pretrained(
        tmp_path / "base"
    )
    wm("convert", "aurora", tmp_path / "aurora.ckpt", tmp_path / "out", "--base", tmp_path / "base")
    loaded = StableDiffusionInstructPix2PixPipeline.from_pretrained(tmp_path / "out")
    found = []
    for pipe in (made, loaded):
        pipe.set_progress_bar_config(disable=True)
        words = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
        found.append(pipe("move the cube", image=Image.new("RGB", (16, 16), "red"), **words).images)
    assert torch.allclose(found[0], found[1], atol=1e-5)
