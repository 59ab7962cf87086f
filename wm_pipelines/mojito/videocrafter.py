"""What VideoCrafter2 (arXiv 2401.09047) has beside a stock `UNet3DConditionModel`: a frame rate and a signal scale.

Its UNet is ModelScope's with one small network more, whose output joins the time embedding; and its noisy latents hold
less of the signal than other models' do.
"""

import contextlib
import math
from collections.abc import Iterator
from numbers import Real

import torch
from diffusers import DDIMScheduler, SchedulerMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import nn

from wm_pipelines.hub.models import WMModel
from wm_pipelines.runtime.offloading import execution_device

__all__ = ["FpsEmbedding", "ModelMixin", "SchedulerMixin", "VideoCrafterDDIMScheduler"]  # loaders look up the mixins


class FpsEmbedding(WMModel, ConfigMixin):
    """W2 SiLU(W1 sin/cos(fps) + b1) + b2, added to the time embedding of all frames.

    Args:
        embedding_dim: channels of the sinusoid. time_embed_dim: of the time embedding.
        default_fps: what a call without one gets; 28 is the authors' for VideoCrafter2.
    """

    _no_split_modules: list[str] = []

    @register_to_config
    def __init__(self, embedding_dim: int = 320, time_embed_dim: int = 1280, default_fps: float = 28):
        super().__init__()
        self.linear_1 = nn.Linear(embedding_dim, time_embed_dim)
        self.linear_2 = nn.Linear(time_embed_dim, time_embed_dim)

    def forward(self, fps: float) -> torch.Tensor:
        """(1, time_embed_dim)."""
        value = torch.tensor([float(fps)], device=execution_device(self))
        waves = get_timestep_embedding(value, self.config.embedding_dim, True, downscale_freq_shift=0)
        return self.linear_2(nn.functional.silu(self.linear_1(waves.to(self.dtype))))

    @contextlib.contextmanager
    def applied(self, denoiser: nn.Module, fps: float | None = None) -> Iterator[None]:
        """Inside the block every call of `denoiser` makes a clip of so many frames a second.

        Raises:
            ValueError: `fps` isn't above 0, or the denoiser's time embedding is missing or of another width.
        """
        fps = self.config.default_fps if fps is None else fps
        if not isinstance(fps, Real) or isinstance(fps, bool) or not math.isfinite(fps) or fps <= 0:
            raise ValueError(f"fps={fps!r}; frames a second, a number above 0")
        place = getattr(denoiser, "time_embedding", None)
        width = getattr(getattr(place, "linear_2", None), "out_features", None)
        if width != self.config.time_embed_dim:
            raise ValueError(
                f"the fps embedding has {self.config.time_embed_dim} channels, the time embedding of "
                f"{type(denoiser).__name__} {'is missing' if width is None else width}"
            )
        with torch.no_grad():
            e = self(fps)
        handle = place.register_forward_hook(lambda module, args, output: output + e.to(output))
        try:
            yield
        finally:
            handle.remove()


class VideoCrafterDDIMScheduler(DDIMScheduler):
    """DDIM for latents x_t = √ᾱ_t κ_t x_0 + √(1 − ᾱ_t) ε, with κ falling from 1 to `SIGNAL_END` over `SIGNAL_STEPS`
    timesteps and staying there; arguments as `DDIMScheduler`, of noise prediction.

    A step frees the latent of κ_t, goes on as DDIM does, and gives it the κ of where it lands. VideoCrafter2 was
    trained so: under plain DDIM its latents are read as too weak.
    """

    SIGNAL_END = 0.7
    SIGNAL_STEPS = 400

    def signal_scale(self, timesteps: int | torch.Tensor) -> torch.Tensor:
        """κ at each timestep, float32 of the same shape; 1 before timestep 0."""
        t = torch.as_tensor(timesteps).clamp(0, self.SIGNAL_STEPS - 1).float()
        return 1 - (1 - self.SIGNAL_END) * t / (self.SIGNAL_STEPS - 1)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """As `DDIMScheduler.set_timesteps`.

        Raises:
            ValueError: `prediction_type` is not "epsilon"; what else would mean under a signal scale is not defined.
        """
        if self.config.prediction_type != "epsilon":
            raise ValueError(
                f"prediction_type is {self.config.prediction_type!r}; {type(self).__name__} takes 'epsilon'"
            )
        super().set_timesteps(num_inference_steps, device)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | None = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """As `DDIMScheduler.step`; `pred_original_sample` is x_0, without κ."""
        signal = sample - (1 - self.alphas_cumprod[timestep]) ** 0.5 * model_output
        plain = sample + (1 / float(self.signal_scale(timestep)) - 1) * signal
        out = super().step(
            model_output, timestep, plain, eta, use_clipped_model_output, generator, variance_noise, return_dict=True
        )
        previous = int(timestep) - self.config.num_train_timesteps // self.num_inference_steps
        alpha = self.alphas_cumprod[previous] if previous >= 0 else self.final_alpha_cumprod
        excess = (1 - float(self.signal_scale(previous))) * alpha**0.5 * out.pred_original_sample
        out = DDIMSchedulerOutput(prev_sample=out.prev_sample - excess, pred_original_sample=out.pred_original_sample)
        return out if return_dict else (out.prev_sample, out.pred_original_sample)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t of x_0 `(B, ...)` and ε, at `(B,)` or `(1,)` timesteps."""
        scale = self.signal_scale(timesteps).to(original_samples)
        scale = scale.view(-1, *[1] * (original_samples.ndim - 1))
        return super().add_noise(scale * original_samples, noise, timesteps)
