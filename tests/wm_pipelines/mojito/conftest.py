"""Every base at test size: the stock classes of diffusers, seeded, with a tokenizer that adds what T5's adds."""

import copy

import pytest


def _tokenizer():
    """Words as tokens, an end-of-text token behind them, padding with zeros, as T5's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = "<pad> </s> <unk> a red blue cube sphere moving left right and on the floor of".split()
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )


def _t5(kind, tokenizer):
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4
    )
    return getattr(transformers, f"{kind}EncoderModel")(config)


def _animatediff(tiny_sd):
    from diffusers import MotionAdapter

    adapter = MotionAdapter(
        block_out_channels=(8, 16, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
        motion_max_seq_length=16,
        use_motion_mid_block=True,
    )
    for name, parameter in adapter.named_parameters():
        if "proj_out" in name:
            parameter.data.normal_(std=0.1)  # else the motion modules are identities
    return {**copy.deepcopy(tiny_sd), "motion_adapter": adapter}


def _text_to_video(tiny_sd):
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return {**copy.deepcopy(tiny_sd), "unet": unet}


def _latte(tiny_sd):
    from diffusers import LatteTransformer3DModel

    tokenizer = _tokenizer()
    transformer = LatteTransformer3DModel(
        sample_size=16,
        num_layers=4,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        video_length=4,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    parts = copy.deepcopy(tiny_sd)
    return {
        "vae": parts["vae"],
        "scheduler": parts["scheduler"],
        "tokenizer": tokenizer,
        "text_encoder": _t5("T5", tokenizer),
        "transformer": transformer,
    }


def _wan(tiny_sd):
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

    tokenizer = _tokenizer()
    return {
        "vae": AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "tokenizer": tokenizer,
        "text_encoder": _t5("UMT5", tokenizer),
        "transformer": WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=256,
            ffn_dim=32,
            num_layers=4,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
    }


def _ltx(tiny_sd):
    from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel

    tokenizer = _tokenizer()
    vae = AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    return {
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "tokenizer": tokenizer,
        "text_encoder": _t5("T5", tokenizer),
        "transformer": LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=4,
            caption_channels=32,
        ),
    }


def _cogvideox(tiny_sd):
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

    tokenizer = _tokenizer()
    return {
        "vae": AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ),
        "scheduler": CogVideoXDDIMScheduler(),
        "tokenizer": tokenizer,
        "text_encoder": _t5("T5", tokenizer),
        "transformer": CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=32,
            num_layers=4,
            sample_width=8,
            sample_height=8,
            sample_frames=9,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=16,
            use_rotary_positional_embeddings=True,
        ),
    }


def _wan_picture(tiny_sd, image_encoder=False, expand=False):
    """Wan 2.2's, whose pictures come in further channels; 2.1's, which also attends to them; 2.2's of 5B, which holds
    the first frame."""
    from diffusers import WanTransformer3DModel
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    parts = _wan(tiny_sd)
    config = dict(parts["transformer"].config)
    more = {} if expand else {"in_channels": 36}
    if image_encoder:
        more |= {"image_dim": 8, "added_kv_proj_dim": 24}
        vision = CLIPVisionConfig(
            hidden_size=8, projection_dim=4, num_hidden_layers=2, num_attention_heads=2, image_size=32,
            intermediate_size=16, patch_size=16,
        )  # fmt: skip
        parts["image_encoder"] = CLIPVisionModelWithProjection(vision)
        parts["feature_extractor"] = CLIPImageProcessor(crop_size=32, size=32)
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    parts["transformer"] = WanTransformer3DModel(**known | more)
    return parts | ({"expand_timesteps": True} if expand else {})


def _cogvideox_picture(tiny_sd):
    from diffusers import CogVideoXTransformer3DModel

    parts = _cogvideox(tiny_sd)
    known = {name: value for name, value in parts["transformer"].config.items() if not name.startswith("_")}
    parts["transformer"] = CogVideoXTransformer3DModel(**known | {"in_channels": 8})
    return parts


WAN_SIZE = {"num_frames": 9, "height": 64, "width": 64}
PICTURES = {
    "wan, picture": (_wan_picture, {**WAN_SIZE, "max_sequence_length": 16}),
    "wan, picture seen": (lambda sd: _wan_picture(sd, image_encoder=True), {**WAN_SIZE, "max_sequence_length": 512}),
    "wan, picture held": (lambda sd: _wan_picture(sd, expand=True), {**WAN_SIZE, "max_sequence_length": 16}),
    "cogvideox, picture": (_cogvideox_picture, {**WAN_SIZE, "max_sequence_length": 16}),
}
BASES = {
    "animatediff": (_animatediff, {"num_frames": 4}),
    "text-to-video": (_text_to_video, {"num_frames": 4}),
    "latte": (_latte, {"num_frames": 4, "height": 64, "width": 64}),
    "wan": (_wan, {"num_frames": 9, "height": 64, "width": 64, "max_sequence_length": 16}),
    "ltx": (_ltx, {"num_frames": 9, "height": 64, "width": 64, "max_sequence_length": 16}),
    "cogvideox": (_cogvideox, {"num_frames": 9, "height": 64, "width": 64, "max_sequence_length": 16}),
}


@pytest.fixture(scope="session")
def bases(tiny_sd):
    """`bases(name)`: a tiny MojitoPipeline of that family, and the size of its clips; built once."""
    import torch

    from wm_pipelines.mojito.pipeline import MojitoPipeline

    made = {}

    def build(name):
        if name not in made:
            make, size = {**BASES, **PICTURES}[name]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                parts = make(tiny_sd)
            for part in parts.values():
                if isinstance(part, torch.nn.Module):
                    part.eval()
            pipe = MojitoPipeline(**parts)
            pipe.set_progress_bar_config(disable=True)
            made[name] = pipe, size
        return made[name]

    return build
