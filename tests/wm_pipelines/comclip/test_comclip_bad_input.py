"""Conditions of the data are counted, warned of once and raised on demand; malformed input always raises."""

import copy
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from wm_pipelines.comclip.components import MISSING_BOX, NO_ENTITY, NO_WEIGHT


@pytest.fixture
def never(pipe, monkeypatch):
    """The pipeline, whose towers must not be asked."""

    def ran(*args, **kwargs):
        raise AssertionError("a tower ran")

    monkeypatch.setattr(type(pipe.matcher), "encode_images", ran)
    monkeypatch.setattr(type(pipe.matcher), "encode_texts", ran)
    return pipe


def rgb(width, height):
    return Image.fromarray(np.full((height, width, 3), 128, np.uint8))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("RGBA", (8, 8)), "expected RGB, got mode RGBA; use image.convert('RGB')"),
        (Image.new("L", (8, 8)), "expected RGB, got mode L"),
        (Image.new("P", (8, 8)), "expected RGB, got mode P"),
        (np.zeros((8, 8), np.uint8), "expected RGB, got an array of shape (8, 8)"),
        (np.zeros((8, 8, 4), np.uint8), "expected RGB, got an array of shape (8, 8, 4)"),
        (torch.zeros(1, 8, 8), "expected RGB, got a tensor of shape (1, 8, 8)"),
        (torch.zeros(8, 8, 3), "expected RGB, got a tensor of shape (8, 8, 3)"),
        (torch.full((3, 8, 8), 7.0), "they must lie in [0, 1]"),
        (torch.zeros(3, 0, 8), "the picture is empty"),
        ("photo.png", "a picture is a PIL.Image, an array or a tensor, not str"),
        ([], "images is empty"),
    ],
)
def test_pictures_that_are_none_are_refused(never, image, words):
    with pytest.raises(ValueError) as error:
        never(image, "a red cube")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"texts": ""}, "`texts` must hold strings with words in them, got ''"),
        ({"texts": ["a red cube", None]}, "`texts` must hold strings with words in them, got None"),
        ({"texts": []}, "`texts` must be a caption or a non-empty list"),
        ({"texts": ["a", "b", "c"], "images": [rgb(4, 4)] * 2, "boxes": None}, "2 images and 3 texts don't pair up"),
        ({"boxes": {"red cube": [(31, 0, 12, 5)]}}, "box (x0=31,x1=12) of 'red cube' is reversed"),
        ({"boxes": {"red cube": [(0.1, 0.2, 0.5, 0.5)]}}, "boxes look normalised"),
        ({"boxes": {"red cube": [(0, 0, 90, 5)]}}, "lies outside the picture of 40x30 pixels"),
        ({"boxes": {"red cube": [(0, 0, 3, 20)]}, "fit": "crop"}, "lies outside the crop"),
        ({"boxes": 5}, "boxes must map labels to lists of boxes, or be a list of such maps, got 5"),
        ({"parsed": 5}, "parsed must hold ParsedText, got int"),
        ({"boxes": [{}, {}]}, "boxes has 2 entries for 1 images"),
        ({"box_format": "coco"}, "box_format='coco'; choose from"),
        ({"fit": "squash"}, "fit='squash'; choose from pad, stretch, crop"),
        ({"fusion": "mean"}, "fusion='mean'; choose from released"),
        ({"missing": "skip"}, "missing='skip'; choose from full, blank"),
        ({"embed": "both"}, "embed='both'; choose from unit, raw"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"parsed": ["a red cube"]}, "parsed must hold ParsedText, got str"),
        ({"parsed": [None, None]}, "parsed has 2 entries for 1 texts"),
        ({"linker": lambda entity, labels: "red cube"}, "the linker must give a list of labels for 'red cube'"),
    ],
)
def test_malformed_calls_are_refused_before_any_pass(never, options, words):
    call = {"images": rgb(40, 30), "texts": "a red cube", "boxes": {"red cube": [(5, 5, 20, 20)]}, **options}
    if "linker" not in options and "box_format" in options:
        call["boxes"] = {}
    with pytest.raises(ValueError) as error:
        never(**call)
    assert words in str(error.value)


@pytest.mark.parametrize(("tower", "words"), [("text_projection", "the text 'a red cube'"), ("visual_projection", "")])
def test_embeddings_that_are_not_finite_are_refused(comclip_parts, tower, words):
    from wm_pipelines import ComCLIPPipeline

    pipe = ComCLIPPipeline(**{**comclip_parts, "model": copy.deepcopy(comclip_parts["model"])})
    getattr(pipe.model, tower).weight.fill_(float("nan"))
    blank = {"boxes": {}, "missing": "blank"}
    for options, picture in (({"boxes": {}}, "images[0]"), (blank, "images[0]")):
        with pytest.raises(ValueError) as error, warnings.catch_warnings(action="ignore"):
            pipe(rgb(40, 30), "a red cube", **options)
        assert f"the CLIPModel in torch.float32 gives NaN or infinity for {words or picture}" in str(error.value)


def test_other_parsers_and_models_are_refused(comclip_parts, picture):
    from wm_pipelines import ComCLIPPipeline

    with pytest.raises(ValueError, match="the parser must give a ParsedText, got dict"):
        ComCLIPPipeline(**comclip_parts, parser=lambda text: {})(picture(), "a red cube")
    for name in ("llm", "", 3):
        with pytest.raises(ValueError, match=f"parser={name!r}; it must be a callable, 'rules'"):
            ComCLIPPipeline(**comclip_parts, parser=name)
    with pytest.raises(
        ValueError, match="model is a CLIPTextTransformer|model is a CLIPTextModel|ComCLIP matches with"
    ):
        ComCLIPPipeline(**{**comclip_parts, "model": comclip_parts["model"].text_model})


@pytest.mark.parametrize("where", ["caption", "word"])
def test_a_caption_that_would_be_cut_off_is_refused(pipe, where):
    from wm_pipelines.text.parser import Entity, ParsedText

    long = " ".join(["red"] * 91)
    parsed = ParsedText((Entity("e0", long),)) if where == "word" else None
    with pytest.raises(ValueError, match="is 93 tokens; limit is 77"):
        pipe(rgb(8, 8), long if where == "caption" else "a cube", {}, parsed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "call", "words"),
    [
        (NO_ENTITY, {"texts": "!?"}, "no entities parsed from caption '!?'"),
        (MISSING_BOX, {"texts": "a green cone"}, "no box for 'green cone' of caption 'a green cone'"),
        (
            MISSING_BOX,
            {"linker": lambda entity, labels: ["dog"]},
            "label 'dog' matched by the linker is not in the dense captions of this image",
        ),
        (NO_WEIGHT, {"min_weight_sum": 1e3}, "sum to at most 1000; weights are equal"),
    ],
)
def test_conditions_of_the_data_are_counted_or_raised(pipe, kind, call, words):
    call = {"images": rgb(40, 30), "texts": "a red cube", "boxes": {"red cube": [(5, 5, 20, 20)]}, **call}
    out = pipe(**call)
    assert [(f.kind, f.image, f.text) for f in out.failures] == [(kind, 0, 0)] and words in out.failures[0].message
    assert torch.isfinite(out.score).all() and -1 <= float(out.score) <= 1
    with pytest.raises(ValueError) as error:
        pipe(**call, strict=True)
    assert words in str(error.value) and "returning" not in str(error.value)


def test_each_kind_is_warned_of_once_and_all_are_listed(pipe):
    with pytest.warns(UserWarning) as caught:
        out = pipe([rgb(8, 8)] * 3, ["a green cone", "a blue cone", "!"])
    assert len(caught) == 2 and "(and 1 more of this kind; see `failures`)" in str(caught[0].message)
    assert [f.kind for f in out.failures] == [MISSING_BOX, MISSING_BOX, NO_ENTITY]
    assert [(f.image, f.text) for f in out.failures] == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.filterwarnings("ignore")
def test_weights_that_sum_to_zero_are_equal(pipe):
    pipe.model.text_projection.weight.neg_()
    try:
        out = pipe(rgb(40, 30), "a red cube left of a blue cube", {"red cube": [(5, 5, 20, 20)]})
        assert [p.weight for p in out.components[0]] == pytest.approx([1 / 3] * 3)
        assert out.failures[-1].kind == NO_WEIGHT and torch.isfinite(out.score).all()
    finally:
        pipe.model.text_projection.weight.neg_()


@pytest.mark.filterwarnings("ignore")
def test_a_verb_like_an_entity_and_one_verb_twice_keep_their_own_sub_images(pipe):
    grounding = {"cube": [(2, 2, 9, 9)], "sphere": [(20, 5, 29, 20)], "cone": [(12, 20, 18, 28)]}
    from wm_pipelines.text.parser import Entity, ParsedText, Relation

    entities = (Entity("e0", "cube"), Entity("e1", "sphere"), Entity("e2", "cone"))
    relations = (
        Relation("r0", "e0", "cube", "e1"),
        Relation("r1", "e0", "move", "e1"),
        Relation("r2", "e1", "move", "e2"),
    )
    out = pipe(rgb(40, 30), "moving cubes", grounding, ParsedText(entities, relations))
    parts = {p.id: p for p in out.components[0]}
    assert list(parts) == ["e0", "e1", "e2", "r0", "r1", "r2"]
    assert parts["e0"].text == parts["r0"].text == "cube" and parts["e0"].boxes != parts["r0"].boxes
    assert parts["r1"].text == parts["r2"].text == "move" and parts["r1"].boxes != parts["r2"].boxes
    # seven sub-images, but r0 and r1 see the same: six passes; texts: caption, cube, sphere, cone, move
    assert out.passes == (6, 5)


def test_one_pixel_and_mixed_sizes_are_pictures_too(pipe):
    one = pipe(rgb(1, 1), "a red cube", {"red cube": [(0, 0, 0, 0)]})
    assert float(one.score) == pytest.approx(float(one.baseline), rel=1e-5)
    mixed = pipe(
        [rgb(1, 1), rgb(300, 2), np.zeros((40, 30, 3), np.float32), torch.ones(3, 5, 90)],
        "a red cube",
        [{"red cube": [box]} for box in ((0, 0, 0, 0), (0, 0, 299, 1), (3, 3, 20, 20), (30, 0, 60, 4))],
        fit="stretch",
    )
    assert mixed.score.shape == (4,) and torch.isfinite(mixed.score).all()
