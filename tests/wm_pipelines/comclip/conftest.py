"""ComCLIP at test size: the real classes, seeded."""

import copy

import pytest


@pytest.fixture(scope="session")
def comclip_parts(tiny_clip):
    """`model`, `tokenizer`, `image_processor`; words are turned round so that they match pictures at all."""
    model = copy.deepcopy(tiny_clip["clip"])
    model.text_projection.weight.neg_()  # untrained, all its cosines with pictures are negative
    return {"model": model, "tokenizer": tiny_clip["tokenizer"], "image_processor": tiny_clip["image_processor"]}


@pytest.fixture
def pipe(comclip_parts):
    """A ComCLIPPipeline with empty caches."""
    from wm_pipelines import ComCLIPPipeline

    return ComCLIPPipeline(**comclip_parts)


@pytest.fixture(scope="session")
def picture():
    """`picture(seed, height, width)`: float32 (3, H, W)."""
    from wm_pipelines.runtime.random import keyed

    def make(seed=0, height=40, width=64):
        import torch

        return torch.from_numpy(keyed("comclip picture", seed).random((3, height, width), dtype="float32"))

    return make


CAPTION = "a red cube left of a blue sphere"


@pytest.fixture
def caption():
    return CAPTION


@pytest.fixture
def boxes():
    """Boxes for `caption` in a picture of 40x64."""
    return {"red cube": [(2, 3, 20, 21)], "blue sphere": [(30, 10, 60, 39)]}
