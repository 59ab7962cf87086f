"""The term that keeps codes where nothing changes: nothing for what sees its own place alone, something for others."""

import pytest
import torch
from torch.nn import functional

from wm_pipelines.training import KeyedNoise, Recipe, build

OPTIONS = {"length": 6, "channels": [8, 8, 8, 8], "codes": 16, "dim": 4}


def make(**options):
    return build(Recipe(task="diorama-tokens", steps=1, batch_size=4, options={**OPTIONS, **options}))


@pytest.fixture(scope="module")
def task():
    return make(still=2.0)


def unrest(task, see, monkeypatch, step=0):
    pictures = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pictures = pictures * torch.linspace(0.2, 1, 6)[:, None, None, None]  # some are darker
    monkeypatch.setattr(task.tokens, "features", see)
    return float(task.unrest(pictures, see(pictures), list(range(6)), KeyedNoise(0, step)))


@pytest.mark.parametrize("step", range(5))
def test_only_what_feels_a_change_elsewhere_pays(task, monkeypatch, step):
    def local(pictures):
        return functional.avg_pool2d(pictures, 8).permute(0, 2, 3, 1)

    def neighbours(pictures):  # a place and those beside it
        return functional.avg_pool2d(functional.avg_pool2d(pictures, 8), 3, 1, 1).permute(0, 2, 3, 1)

    def whole(pictures):
        found = local(pictures)
        return found - found.mean((1, 2), keepdim=True)

    assert unrest(task, local, monkeypatch, step) == unrest(task, neighbours, monkeypatch, step) == 0
    assert unrest(task, whole, monkeypatch, step) > 1e-5
    assert unrest(task, whole, monkeypatch, step) == unrest(task, whole, monkeypatch, step)
    assert unrest(task, whole, monkeypatch, step) != unrest(task, whole, monkeypatch, step + 9)


def test_the_term_is_part_of_the_loss_and_off_by_default(task):
    found = task.loss([0, 1, 2, 3], 0, KeyedNoise(0, 0))
    rest = make().loss([0, 1, 2, 3], 0, KeyedNoise(0, 0))
    assert "still" not in rest and found["still"] > 0
    assert torch.allclose(found["loss"], rest["loss"] + 2 * found["still"], atol=1e-4)
    found["still"].backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in task.vq.encoder.parameters())
