"""Judges at test size: the real classes, seeded."""

import copy

import pytest


@pytest.fixture
def judge(tiny_sd):
    """A quiet `DiscffusionPipeline`; its UNet and scheduler are its own."""
    from wm_pipelines import DiscffusionPipeline

    scheduler = tiny_sd["scheduler"].from_config(tiny_sd["scheduler"].config)
    made = DiscffusionPipeline(**{**tiny_sd, "unet": copy.deepcopy(tiny_sd["unet"]), "scheduler": scheduler})
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="session")
def pictures():
    """`pictures(n)`: n pictures `(3, 64, 64)` in [0, 1], each of its own colours."""
    import torch

    from wm_pipelines.runtime.random import keyed

    def make(count, side=64):
        drawn = [keyed("discffusion picture", n).random((3, side, side), dtype="float32") for n in range(count)]
        return [torch.from_numpy(values) * (n + 1) / count for n, values in enumerate(drawn)]

    return make


@pytest.fixture(scope="session")
def captions():
    return ["a red cube", "a blue sphere left of a red cube", "a green cone", "a yellow cylinder behind a blue sphere"]
