"""InstructPix2Pix, and the text-to-image model that it comes from, at tiny size with random weights."""

import torch


def make(kind="StableDiffusionInstructPix2PixPipeline", seed=0, **scheduler):
    import diffusers
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from wm_pipelines.hub import embedded
    from wm_pipelines.hub.stock import load_part

    tokenizer = load_part(CLIPTokenizer, embedded("diorama-sd"), subfolder="tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = getattr(diffusers, kind)(
            vae=AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                              up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4),
            text_encoder=CLIPTextModel(CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=8, in_channels=8 if "Pix2Pix" in kind else 4, block_out_channels=(8, 8),
                layers_per_block=1, cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
            scheduler=DDIMScheduler(clip_sample=False, steps_offset=1, **scheduler), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made
