"""What a denoiser is trained to predict, by the prediction type of its scheduler."""

import pytest
import torch
from diffusers import DDPMScheduler

from wm_pipelines.training.targets import target_of


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_target_follows_the_prediction_type(kind):
    scheduler = DDPMScheduler(prediction_type=kind)
    x, e, t = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([10, 900])
    a = scheduler.alphas_cumprod[t].sqrt().reshape(2, 1, 1, 1)
    expected = {"epsilon": e, "sample": x, "v_prediction": a * e - (1 - a**2).sqrt() * x}[kind]
    assert torch.allclose(target_of(scheduler, x, e, t), expected, atol=1e-5)
