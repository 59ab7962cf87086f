"""Detectors on the real architectures at tiny size, and the miniature world's exact boxes."""

import pytest
import torch

from wm_pipelines.comclip.grounders import PhraseDetector
from wm_pipelines.diorama.boxes import diorama_boxes
from wm_pipelines.media.boxes import read_boxes


def test_diorama_boxes_hold_their_objects_and_nothing_more():
    from wm_pipelines.comclip.linker import link
    from wm_pipelines.diorama.render import render
    from wm_pipelines.diorama.scene import sample_scene
    from wm_pipelines.text.parser import Entity

    scene = sample_scene("comclip boxes", 3, num_objects=2, min_pixels=12.0)
    ids = render(scene, maps=("ids",)).ids[0, 0]
    found = read_boxes(diorama_boxes(scene), (64, 64))
    assert sum(map(len, found.values())) == 2
    for thing in scene.objects:
        (label,) = link(Entity("e", thing.shape, (thing.size, thing.colour)), list(found))
        x0, y0, x1, y1 = (int(v) for v in found[label][0])
        own = ids == thing.id
        rows, columns = own.nonzero().T
        assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max(), rows.max())


@pytest.fixture(scope="module")
def owlv2(tiny_clip):
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2Processor

    pytest.importorskip("scipy", reason="OWLv2's image processor needs scipy")
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tiny_clip["tokenizer"]), "max_position_embeddings": 77}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Owlv2ForObjectDetection(
            Owlv2Config(
                text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=16
            )
        )
    images = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    return model, Owlv2Processor(image_processor=images, tokenizer=tiny_clip["tokenizer"])


def test_owlv2_gives_boxes_inside_the_picture_best_first(owlv2, picture):
    detector = PhraseDetector(*owlv2, threshold=0.01)
    image = picture()
    found = detector(image, ["red cube", "blue sphere", "red cube"])
    assert set(found) == {"red cube", "blue sphere"}
    assert read_boxes(found, (40, 64)) == found  # nothing to refuse, nothing cut off
    assert detector(image, ["red cube"])["red cube"] == found["red cube"]  # no other phrase matters
    assert PhraseDetector(*owlv2, threshold=0.99)(image, ["red cube"]) == {}


@pytest.fixture(scope="module")
def dino():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoProcessor,
        PreTrainedTokenizerFast,
        SwinConfig,
    )
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "red", "cube", "blue", "sphere"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    backbone = SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=64, encoder_layers=1, decoder_layers=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=10,
        max_text_len=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GroundingDinoForObjectDetection(config)
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64})
    return model, GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer)


def test_grounding_dino_gives_boxes_inside_the_picture(dino, picture):
    detector = PhraseDetector(*dino, threshold=0.001)
    found = detector(picture(), ["red cube", "blue sphere"])
    assert set(found) == {"red cube", "blue sphere"} and read_boxes(found, (40, 64)) == found


def test_other_models_and_thresholds_are_refused(tiny_clip):
    with pytest.raises(ValueError, match="the detector is a 'clip'; known are grounding-dino, owlv2"):
        PhraseDetector(tiny_clip["clip"], None)
    with pytest.raises(ValueError, match="'absent' is not an embedded checkpoint"):
        PhraseDetector.from_pretrained("absent")
