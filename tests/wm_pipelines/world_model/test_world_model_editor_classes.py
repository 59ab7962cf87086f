"""Kontext, Qwen-Image-Edit and OmniGen as their records ask them: stock classes at tiny size with random weights."""

from types import SimpleNamespace

import pytest
import torch

from wm_pipelines.hub import embedded
from wm_pipelines.hub.stock import load_part
from wm_pipelines.world_model.editors import EDITORS, Editor


def kontext():
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

    words = load_part(CLIPTokenizer, embedded("diorama-sd"), subfolder="tokenizer")
    marks = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    return FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                          up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, shift_factor=0.0),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(words), hidden_size=16, intermediate_size=16,
                                                  num_hidden_layers=1, num_attention_heads=2, **marks)),
        tokenizer=words,
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=1,
                                               num_heads=2)),
        tokenizer_2=words,
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
            guidance_embeds=True),
    )  # fmt: skip


def qwen():
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPipeline,
        QwenImageTransformer2DModel,
    )
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
        Qwen2VLProcessor,
    )

    from wm_pipelines.diorama.tokenizer import byte_characters

    class Processor(Qwen2VLProcessor):  # its reader of video needs torchvision; pictures don't
        def check_argument_for_proper_class(self, *given):
            return None

    letters = Tokenizer(models.BPE(vocab={name: n for n, name in enumerate(byte_characters().values())}, merges=[]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<|endoftext|>", extra_special_tokens=marks, padding_side="left"
    )
    number = words.convert_tokens_to_ids
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 0,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}  # fmt: skip
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
            "window_size": 56, "fullatt_block_indexes": [0]}  # fmt: skip
    return QwenImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLQwenImage(base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                                   latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
            text_config=text, vision_config=eyes, image_token_id=number("<|image_pad|>"),
            video_token_id=number("<|video_pad|>"), vision_start_token_id=number("<|vision_start|>"),
            vision_end_token_id=number("<|vision_end|>"))),
        tokenizer=words,
        processor=Processor(image_processor=Qwen2VLImageProcessorPil(min_pixels=28**2, max_pixels=56**2),
                            tokenizer=words),
        transformer=QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=16, axes_dims_rope=(8, 4, 4)),
    )  # fmt: skip


def picture(seed, height, width):
    return torch.rand((3, height, width), generator=torch.Generator().manual_seed(seed))


def seen_by(pipe):
    """What the transformer of a pipeline is given, call by call."""
    calls = []
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    return calls


def test_kontext_draws_at_the_sources_size_from_source_and_action():
    torch.manual_seed(0)
    pipe = kontext()
    calls, source = seen_by(pipe), picture(0, 32, 20)
    editor = Editor(pipe, settings={"num_inference_steps": 2})
    drawn = editor.draw(source, "move the cube", 0, 2)
    assert drawn.shape == (2, 3, 32, 20) and not torch.equal(drawn[0], drawn[1])
    level = 1.5 / 255  # of an 8-bit picture: the memory that a tensor lies in changes its last bits
    assert torch.allclose(editor.draw(source, "move the cube", 0, 1), drawn[:1], atol=level)
    editor.draw(picture(1, 32, 20), "remove the sphere", 0, 1)
    first, other = calls[0], calls[6]  # two steps of each picture
    drawing = first["hidden_states"].shape[1] // 2  # what is drawn, then the source, at one size
    assert torch.equal(first["hidden_states"][:, :drawing], other["hidden_states"][:, :drawing])
    assert not torch.allclose(first["hidden_states"][:, drawing:], other["hidden_states"][:, drawing:], atol=1e-3)
    assert not torch.allclose(first["encoder_hidden_states"], other["encoder_hidden_states"], atol=1e-3)
    with pytest.raises(ValueError, match="FluxKontextPipeline drew 32x16 for a source of 32x18; pass a source of a"):
        editor.draw(picture(0, 32, 18), "move the cube", 0, 1)


def test_qwen_draws_at_the_sources_size_and_is_guided(monkeypatch):
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit

    # a megapixel is what the source is seen at; less will do here
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (64, 96, None))
    torch.manual_seed(0)
    pipe = qwen()
    calls = seen_by(pipe)
    editor = Editor(pipe, settings={"num_inference_steps": 1})
    assert editor.draw(picture(0, 48, 32), "move the cube", 0, 1).shape == (1, 3, 48, 32)
    asked, empty = (call["encoder_hidden_states"] for call in calls)  # guidance takes two passes a step
    assert asked.shape[1] > empty.shape[1]


def test_omnigen_finds_its_placeholder():
    """The class refuses a prompt that doesn't say where the picture goes; it can't be run without torchvision."""
    from diffusers import OmniGenPipeline

    record, class_ = EDITORS["OmniGenPipeline"], SimpleNamespace(vae_scale_factor=8, _callback_tensor_inputs=[])
    for said, good in ((record.prompt.format(action="move the {red} cube"), True), ("move the cube", False)):
        asked = (class_, [said], [[object()]], 64, 64, False)
        if good:
            OmniGenPipeline.check_inputs(*asked)
            assert said.endswith("> move the {red} cube")
        else:
            with pytest.raises(ValueError, match="doesn't have enough placeholders"):
                OmniGenPipeline.check_inputs(*asked)
