"""Shared fixtures: real classes at the smallest sizes that still have every part."""

import pytest


def pytest_make_parametrize_id(config, val, argname):
    """Bytes are named by their length: processes that run tests side by side must agree on names, and archives hold
    the time at which they were made."""
    return f"{argname}_{len(val)}_bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory):
    """A whole Stable-Diffusion-shaped base, seeded, with the real tokenizer: pictures of 64x64, latents of 16x16.

    Components are shared by the session: a test that changes one must work on a deep copy.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from wm_pipelines.diorama.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                projection_dim=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    for module in (unet, vae, text_encoder):
        module.requires_grad_(False).eval()
    return {
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "scheduler": scheduler,
    }


@pytest.fixture(scope="session")
def tiny_control(tiny_sd):
    """A FlexEControl adapter for `tiny_sd` whose zero convolutions and factors are awake, as after training."""
    import torch

    from wm_pipelines.flexecontrol.modeling import FlexEControlModel
    from wm_pipelines.runtime.noise import randn

    control = FlexEControlModel.from_unet(
        tiny_sd["unet"], n=4, r=2, condition_stride=4, feature_channels=(8, 12, 12), pre_channels=(8, 8), map_stride=2
    )
    with torch.no_grad():
        for name, parameter in control.trainable_parameters().items():
            if "zero_conv" in name or name.endswith("kronecker_u"):
                parameter.add_(0.2 * randn(tuple(parameter.shape), "awake", name))
            elif "feature_extractor" in name:
                parameter.mul_(4)  # else the maps fade on their way through five layers
    return control.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """A whole `CLIPModel` (32x32 pictures, width 24 and 16, joint 20), seeded, with tokenizer and image processor.

    The joint dimension differs from both widths, so that a mixed-up one fails. Shared: change a deep copy only.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from wm_pipelines.diorama.clip_training import CLIP_WORDS
    from wm_pipelines.diorama.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(tmp_path_factory.mktemp("clip_tokenizer"), CLIP_WORDS)
    tower = {"num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 20}
    text = {
        **tower,
        "hidden_size": 16,
        "intermediate_size": 32,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "hidden_size": 24, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20))
    side = {"height": 32, "width": 32}
    images = CLIPImageProcessorPil(size=side, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return {"clip": clip.requires_grad_(False).eval(), "tokenizer": tokenizer, "image_processor": images}


VILT_WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] what which is are the a of left right behind colour shape cube sphere cone red "
    "blue green dog cat horse ride chase man woman row name age ann bob table it an and . ? ; : 1 2 3 7 9 "
    "wood ##en ##s ##es ##d ##ing ##r ##t cub ##e"
).split()


@pytest.fixture(scope="session")
def tiny_vilt():
    """A whole `ViltForQuestionAnswering`, seeded, with a word-piece tokenizer that cuts some words in two.

    Pictures of 32 pixels, patches of 8, two layers of two heads, 48 words, four answers. Shared: change a deep copy.
    """
    import torch
    from transformers import BertTokenizer, ViltConfig, ViltForQuestionAnswering
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    config = ViltConfig(
        vocab_size=len(VILT_WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        max_position_embeddings=48,
        initializer_range=0.3,
        id2label={0: "red", 1: "blue", 2: "green", 3: "yes"},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViltForQuestionAnswering(config).requires_grad_(False).eval()
    return {
        "model": model,
        "tokenizer": BertTokenizer(vocab={word: n for n, word in enumerate(VILT_WORDS)}),
        "image_processor": ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8),
    }


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory):
    """Folder of a LLaVA with random weights, a token for each character; plain Auto classes load it."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    table = {token: n for n, token in enumerate([*special, *map(chr, range(32, 127)), "\n"])}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=16, patch_size=8),
        text_config=LlamaConfig(
            **sizes, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, num_key_value_heads=2
        ),
        image_token_index=4,
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config).eval()
    folder = tmp_path_factory.mktemp("vlm") / "tiny-vlm"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def wm():
    """`wm(*words)`: what the command prints; what it raises comes through."""
    from typer.testing import CliRunner

    from wm_pipelines.cli import app

    def run(*words):
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return run


@pytest.fixture
def square():
    """`square(top, left, side)`: the white outline of a square on black, float32 (3, 64, 64)."""
    import torch

    def draw(top=8, left=8, side=24):
        picture = torch.zeros(3, 64, 64)
        picture[:, top : top + side, left : left + side] = 1
        picture[:, top + 2 : top + side - 2, left + 2 : left + side - 2] = 0
        return picture

    return draw


@pytest.fixture
def offload(monkeypatch, tmp_path):
    """`offload(pipe, kind)` takes every module of a pipeline apart as diffusers does, on the CPU.

    Under "sequential" a weight that is away is on the meta device. Under "leaf_level" and "block_level" it is on the
    disk, and a seven where it was. A folder for each part, as diffusers names the files by module paths.
    """
    import torch
    from accelerate import cpu_offload
    from diffusers.hooks import apply_group_offloading

    def apply(pipe, kind):
        monkeypatch.setattr(torch, "empty_like", lambda like, **options: torch.full_like(like, 7, **options))
        for name, part in pipe.components.items():
            if not isinstance(part, torch.nn.Module):
                continue
            if (
                kind == "sequential"
            ):  # the pipeline's own method says "cpu:0", which accelerate takes for another device
                cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
            else:
                apply_group_offloading(
                    part,
                    onload_device=torch.device("cpu"),
                    offload_type=kind,
                    num_blocks_per_group=1,
                    offload_to_disk_path=str(tmp_path / "offloaded" / name),
                )

    return apply
