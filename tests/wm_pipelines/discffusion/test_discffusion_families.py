"""SDXL, SD3 and Flux at the smallest sizes, with random weights, against what their stock pipelines encode."""

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from wm_pipelines import DiscffusionPipeline
from wm_pipelines.diorama.tokenizer import build_tokenizer

TEXTS = ["a red cube left of a blue sphere", "a green cone"]
SIDE = 32


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("families"))


def vae(channels, shift=None):
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, shift_factor=shift,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=channels, norm_num_groups=4, sample_size=SIDE,
    ).eval()  # fmt: skip


def clip(kind, tokenizer, width):
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, projection_dim=width,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()  # fmt: skip


def t5(tokenizer, width):
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ).eval()


def sdxl(tokenizer, scheduler):
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, transformer_layers_per_block=(1, 2), cross_attention_dim=24, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=16 + 24,
    ).eval()  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=vae(4), unet=unet, scheduler=scheduler, tokenizer=tokenizer, tokenizer_2=tokenizer,
        text_encoder=clip(CLIPTextModel, tokenizer, 8),
        text_encoder_2=clip(CLIPTextModelWithProjection, tokenizer, 16),
    )  # fmt: skip


def sd3(tokenizer, with_t5):
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=24, out_channels=4,
        pos_embed_max_size=32, qk_norm="rms_norm",
    ).eval()  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(4, shift=0.1),
        text_encoder=clip(CLIPTextModelWithProjection, tokenizer, 8), tokenizer=tokenizer,
        text_encoder_2=clip(CLIPTextModelWithProjection, tokenizer, 16), tokenizer_2=tokenizer,
        text_encoder_3=t5(tokenizer, 32) if with_t5 else None, tokenizer_3=tokenizer if with_t5 else None,
    )  # fmt: skip


def flux(tokenizer):
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    ).eval()  # fmt: skip
    return FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(4, shift=0.1),
        text_encoder=clip(CLIPTextModel, tokenizer, 16), tokenizer=tokenizer,
        text_encoder_2=t5(tokenizer, 32), tokenizer_2=tokenizer,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bases(tokenizer, tiny_sd):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            "sdxl": sdxl(tokenizer, tiny_sd["scheduler"]), "sd3": sd3(tokenizer, True),
            "sd3 without t5": sd3(tokenizer, False), "flux": flux(tokenizer),
        }  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", ["sdxl", "sd3", "sd3 without t5", "flux"])
def test_texts_are_encoded_as_the_stock_pipeline_does(bases, name):
    base = bases[name]
    found = DiscffusionPipeline.from_parts(base).denoiser.encode_texts([*TEXTS, ""], torch.device("cpu"))
    if name == "sdxl":
        embeds, empty, pooled, pooled_empty = base.encode_prompt(TEXTS)
        torch.testing.assert_close(found.embeds[2:], empty[:1])
        torch.testing.assert_close(found.pooled[2:], pooled_empty[:1])
    elif name == "flux":
        embeds, pooled, _ = base.encode_prompt(TEXTS, TEXTS)
    else:
        embeds, _, pooled, _ = base.encode_prompt(TEXTS, TEXTS, TEXTS, do_classifier_free_guidance=False)
    torch.testing.assert_close(found.embeds[:2], embeds)
    torch.testing.assert_close(found.pooled[:2], pooled)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_each_family_scores_ranks_and_is_fitted(bases, pictures, name, tmp_path):
    pipe = DiscffusionPipeline.from_parts(bases[name])
    pipe.set_progress_bar_config(disable=True)
    shown = pictures(2, SIDE)
    together = pipe(shown, TEXTS, pairwise=False, timesteps=[200, 700], maps=True)
    for i in range(2):
        alone = pipe(shown[i], TEXTS[i], timesteps=[200, 700])
        assert float(together.score[i, i]) == pytest.approx(float(alone.score), abs=1e-4)
    assert together.maps[0].shape[1:] == (SIDE // 2, SIDE // 2)
    assert pipe.rank(shown[0], TEXTS, timesteps=[200, 700], token_mask="content").forwards == 2 * 3
    pipe.fit([(shown[0], TEXTS[0], TEXTS[1])], epochs=1, score="lse")
    pipe.save_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match="another denoiser"):
        DiscffusionPipeline.from_parts(bases["sd3" if name != "sd3" else "flux"]).load_adapter(tmp_path / "adapter")
    from wm_pipelines.adapters.injected import remove

    remove(pipe.denoiser.model)


@torch.no_grad()
def test_joint_blocks_are_read_as_they_attend(bases, pictures):
    """The softmax over text and image keys, cut to the text and scaled, is that of the logits that are read."""
    pipe = DiscffusionPipeline.from_parts(bases["sd3"])
    pipe.set_progress_bar_config(disable=True)
    attn = pipe.transformer.transformer_blocks[0].attn
    seen = []
    own = torch.nn.functional.scaled_dot_product_attention
    import wm_pipelines.discffusion.capture as capture

    logits = []
    spy = capture.text_logits
    try:
        capture.text_logits = lambda layer, *a: logits.append(spy(layer, *a)) or logits[-1]
        attend = torch.nn.functional
        attend.scaled_dot_product_attention = lambda q, k, v, **kw: seen.append((q, k)) or own(q, k, v, **kw)
        pipe(pictures(1, SIDE)[0], TEXTS[0], "lse", timesteps=[500], cond_only=True)
    finally:
        capture.text_logits = spy
        torch.nn.functional.scaled_dot_product_attention = own
    # T5's attention is not SDPA in this version; the transformer's first call comes after the encoders'
    q, k = next((q, k) for q, k in seen if q.shape[1] == attn.heads and q.shape[2] > 300)
    image = (SIDE // 2) ** 2
    wanted = q[:, :, :image] @ k[:, :, image:].transpose(-1, -2) * q.shape[-1] ** -0.5
    torch.testing.assert_close(logits[0], wanted)


def test_sdxls_vae_is_widened_while_it_encodes(bases, pictures):
    """Its activations leave the range of float16, in which everything else stays."""
    import copy

    pipe = DiscffusionPipeline.from_parts(copy.deepcopy(bases["sdxl"]).to(torch.float16))
    pipe.set_progress_bar_config(disable=True)
    seen = []
    pipe.vae.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0].dtype))
    with torch.no_grad():  # the first features overflow in float16; the rest takes them back
        pipe.vae.encoder.conv_in.weight.mul_(3e4)
        pipe.vae.encoder.conv_in.bias.mul_(3e4)
    assert pipe(pictures(1, SIDE)[0], TEXTS[0], timesteps=[500]).score.isfinite()
    assert seen == [torch.float32] and {p.dtype for p in pipe.vae.parameters()} == {torch.float16}


def test_a_judge_of_parts_reads_the_empty_caption_as_they_do(bases):
    base = bases["sdxl"]
    base.register_to_config(force_zeros_for_empty_prompt=False)
    try:
        judge = DiscffusionPipeline.from_parts(base)
        found = judge.denoiser.encode_texts([""], torch.device("cpu"))
        torch.testing.assert_close(found.embeds, base.encode_prompt("")[0])
        assert found.embeds.abs().max() > 0 and not judge.config.force_zeros_for_empty_prompt
    finally:
        base.register_to_config(force_zeros_for_empty_prompt=True)
