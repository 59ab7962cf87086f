"""What a diffusion model is trained to predict."""

import torch
from diffusers import SchedulerMixin


def target_of(
    scheduler: SchedulerMixin, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What a denoiser is trained to predict under the scheduler's `prediction_type`."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return latents
    raise ValueError(f"scheduler has prediction_type={kind!r}; allowed: epsilon, v_prediction, sample")
