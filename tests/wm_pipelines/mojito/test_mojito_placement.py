"""The modulator in half precision and over several devices: what must stay exact, and together."""

import pytest
import torch
from accelerate import infer_auto_device_map

from wm_pipelines.mojito.modeling import MotionIntensityModel
from wm_pipelines.mojito.videocrafter import FpsEmbedding


@pytest.fixture
def folder(tmp_path):
    """A saved model that reads text, whitened over states that differ little beside what they share."""
    torch.manual_seed(0)
    model = MotionIntensityModel(widths=(8,), embedding_dim=8, hidden_dim=8, text_dim=6)
    torch.nn.init.normal_(model.mim.linear_2.weight)
    model.fit_text(states())
    model.save_pretrained(tmp_path)
    return tmp_path


def states():
    return 40.0 + 0.1 * torch.randn(32, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_whitens_the_text_stays_exact_in_half_precision(folder, dtype):
    exact = MotionIntensityModel.from_pretrained(folder)
    half = MotionIntensityModel.from_pretrained(folder, torch_dtype=dtype)
    assert half.dtype == dtype and half.mim.linear_1.weight.dtype == dtype
    for name in ("text_mean", "text_whitening"):
        kept = getattr(half.mim, name)
        assert kept.dtype == torch.float32 and torch.equal(kept, getattr(exact.mim, name))
    with torch.no_grad():
        wanted, found = exact([5.0] * 4, states()[:4]), half([5.0] * 4, states()[:4]).float()
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_a_device_map_keeps_the_layers_together(folder):
    model = MotionIntensityModel.from_pretrained(folder)
    size = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
    split = {0: size // 2, "cpu": 10 * size}
    found = infer_auto_device_map(model, max_memory=split, no_split_module_classes=model._no_split_modules)
    assert len(set(found.values())) == 1
    assert FpsEmbedding(8, 16)._no_split_modules == []
