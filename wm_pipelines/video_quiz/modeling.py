"""`diorama-vlm`: stock LLaVA (Liu et al. 2023, arXiv 2304.08485) in a tiny configuration, and its processor."""

from typing import TYPE_CHECKING

from wm_pipelines.video_quiz.words import CHAT_TEMPLATE, IMAGE, build_vlm_tokenizer

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor


def build_vlm_processor(size: int = 64, patch: int = 16) -> "LlavaProcessor":
    """The processor of `build_vlm`: chat template, tokenizer, and pictures as squares in [-1, 1].

    Args:
        size, patch: sides in pixels of a picture and of its patches, each of which is one token.
    """
    from transformers import CLIPImageProcessor, LlavaProcessor

    square = {"height": size, "width": size}
    images = CLIPImageProcessor(
        size=square, crop_size=square, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_vlm_tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def build_vlm(
    processor: "LlavaProcessor",
    width: int = 128,
    layers: int = 5,
    heads: int = 4,
    inner: int = 384,
    vision_width: int = 128,
    vision_layers: int = 3,
    vision_inner: int = 384,
) -> "LlavaForConditionalGeneration":
    """A new model for `processor`: SigLIP's vision tower without its head, two linear layers, Llama with tied words.

    Args:
        width, layers, heads, inner: of the language model. vision_width, vision_layers, vision_inner: of the tower,
            which has as many heads.
    """
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    tokenizer = processor.tokenizer
    vision = SiglipVisionConfig(
        hidden_size=vision_width,
        intermediate_size=vision_inner,
        num_hidden_layers=vision_layers,
        num_attention_heads=heads,
        image_size=processor.image_processor.size["height"],
        patch_size=processor.patch_size,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=processor.image_token_id,
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
            image_seq_length=(vision.image_size // vision.patch_size) ** 2,
            tie_word_embeddings=True,
        )
    )
