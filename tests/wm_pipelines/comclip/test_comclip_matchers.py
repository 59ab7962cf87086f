"""SigLIP and BLIP-2 on the real architectures at tiny size: our features and scores are those of the stock models."""

import copy

import pytest
import torch

from wm_pipelines.comclip.matchers import BLIP2Matcher, SigLIPMatcher, load_parts, make_matcher
from wm_pipelines.comclip.pipeline import ComCLIPPipeline

WORDS = "a red cube blue sphere left of".split()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A word-level tokenizer in BERT's form."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


def awaken(model):
    """As they are drawn, weights are so small that every picture looks alike."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)


@pytest.fixture(scope="module")
def siglip(tokenizer):
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "projection_size": 16,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SiglipModel(SiglipConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}))
    awaken(model)
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return {"model": model.eval(), "tokenizer": tokenizer, "image_processor": images}


@pytest.fixture(scope="module")
def blip2(tokenizer):
    from transformers import Blip2Config, Blip2ForImageTextRetrieval
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "initializer_range": 0.02,  # its default of 1e-10 makes every picture alike
    }  # fmt: skip
    qformer = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": len(tokenizer), "max_position_embeddings": 20, "encoder_hidden_size": 16,
        "cross_attention_frequency": 1, "use_qformer_text_input": True,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Blip2ForImageTextRetrieval(
            Blip2Config(vision_config=vision, qformer_config=qformer, num_query_tokens=5, image_text_hidden_size=12)
        )
        model.query_tokens.data.normal_()
        model.vision_projection.bias.data.normal_()
    awaken(model)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    return {"model": model.eval(), "tokenizer": tokenizer, "image_processor": images}


def test_siglip_is_the_stock_model(siglip, picture):
    matcher = make_matcher(**siglip)
    assert type(matcher) is SigLIPMatcher
    pictures, texts = [picture(0), picture(1, 50, 20)], ["a red cube", "blue sphere left of a red cube"]
    ids = siglip["tokenizer"](texts, padding="max_length", max_length=16, return_tensors="pt").input_ids
    with torch.no_grad():
        out = siglip["model"](input_ids=ids, pixel_values=matcher.pixels(pictures, "pad"))
    cosines = matcher.match(matcher.encode_images(pictures)[:, None], matcher.encode_texts(texts))
    assert torch.allclose(cosines, out.image_embeds @ out.text_embeds.T, atol=1e-5)


def test_blip2_is_the_stock_model(blip2, picture):
    matcher = make_matcher(**blip2)
    assert type(matcher) is BLIP2Matcher
    pictures, texts = [picture(0), picture(1, 50, 20)], ["a red cube", "blue sphere left of a red cube"]
    tokens = blip2["tokenizer"](texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = blip2["model"](
            pixel_values=matcher.pixels(pictures, "pad"), input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask, use_image_text_matching_head=False,
        )  # fmt: skip
    features = matcher.encode_images(pictures)
    assert features.shape == (2, 5, 16)
    found = matcher.match(features[:, None], matcher.encode_texts(texts))
    assert torch.allclose(found, out.logits_per_image, atol=1e-5)


@pytest.mark.parametrize("kind", ["siglip", "blip2"])
def test_the_pipeline_keeps_its_promises_on_either(kind, request, picture, boxes, caption):
    from wm_pipelines import ComCLIPPipeline

    pipe = ComCLIPPipeline(**request.getfixturevalue(kind))
    out = pipe(picture(), caption, boxes, fusion="equal")
    assert out.passes == (4, 4) and torch.isfinite(out.score).all() and -1 <= float(out.score) <= 1
    assert abs(float(out.score - out.baseline)) > 1e-5
    whole = {label: [(0, 0, 64, 40)] for label in boxes}
    same = pipe(picture(), caption, whole, fusion="equal")
    assert float(same.score) == pytest.approx(float(same.baseline), rel=1e-5)
    raw = pipe(picture(), caption, boxes, embed="raw", clamp=False)
    assert torch.isfinite(raw.score).all()


def test_blip2_on_raw_tokens_adds_them_as_they_are(blip2, picture, boxes, caption):
    """The authors' script for VL-Checklist, written out."""
    from wm_pipelines import ComCLIPPipeline
    from wm_pipelines.comclip.subimages import subimage

    pipe, matcher, image = ComCLIPPipeline(**blip2), make_matcher(**blip2), picture()
    out = pipe(image, caption, boxes, embed="raw", clamp=False)
    cuts = [boxes["red cube"], boxes["blue sphere"], boxes["red cube"] + boxes["blue sphere"]]
    tokens = matcher.encode_images([image, *(subimage(image, cut) for cut in cuts)]).double()
    said = matcher.encode_texts([caption, "red cube", "blue sphere", "left of"]).double()
    layer = blip2["model"].vision_projection.double()
    try:
        with torch.no_grad():
            a = (layer(tokens[1:]) * said[1:, None]).sum(-1).amax(-1)
            fused = tokens[0] + torch.einsum("k,kqd->qd", a / a.sum(), tokens[1:])
            score = torch.nn.functional.cosine_similarity(layer(fused), said[:1], dim=-1).max()
    finally:
        layer.float()
    assert float(out.score) == pytest.approx(float(score), rel=1e-5)


@pytest.mark.parametrize(("kind", "limit"), [("siglip", 16), ("blip2", 20)])
def test_long_captions_are_refused(kind, limit, request):
    matcher = make_matcher(**request.getfixturevalue(kind))
    with pytest.raises(ValueError, match=rf"is 30 tokens; .* keeps {limit}"):
        matcher.encode_texts(["red " * 30])


@pytest.mark.parametrize("kind", ["siglip", "blip2"])
def test_checkpoints_in_transformers_layout_load(kind, request, tmp_path, picture):
    parts = request.getfixturevalue(kind)
    for part in parts.values():
        part.save_pretrained(tmp_path)
    loaded = make_matcher(**load_parts(tmp_path))
    own = make_matcher(**parts)
    assert torch.equal(loaded.encode_images([picture()]), own.encode_images([picture()]))
    assert torch.equal(loaded.encode_texts(["a red cube"]), own.encode_texts(["a red cube"]))
    assert "Pil" in type(loaded.image_processor).__name__
    for value in (False, None, 0):
        with pytest.raises(ValueError, match=f"use_safetensors={value} is not allowed: pickled weights are never"):
            load_parts(tmp_path, use_safetensors=value)


def test_blip2_runs_offloaded_in_pieces(blip2, picture, boxes, caption, offload):
    expected = ComCLIPPipeline(**blip2)(picture(), caption, boxes).score
    for kind in ("block_level", "sequential"):
        own = ComCLIPPipeline(**{**blip2, "model": copy.deepcopy(blip2["model"])})
        offload(own, kind)
        torch.testing.assert_close(own(picture(), caption, boxes).score, expected)


def test_siglip_runs_offloaded_by_blocks_and_says_why_not_by_layers(siglip, picture, boxes, caption, offload):
    expected = ComCLIPPipeline(**siglip)(picture(), caption, boxes).score
    own = ComCLIPPipeline(**{**siglip, "model": copy.deepcopy(siglip["model"])})
    offload(own, "block_level")
    torch.testing.assert_close(own(picture(), caption, boxes).score, expected)
    for kind in ("leaf_level", "sequential"):
        own = ComCLIPPipeline(**{**siglip, "model": copy.deepcopy(siglip["model"])})
        offload(own, kind)
        with pytest.raises(ValueError, match="reads its output projection without calling it"):
            own(picture(), caption, boxes)
