"""Progress, previews and cancelling: what happens between two sampling steps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PREVIEW_SECONDS = 0.5
SMALL_VAE = 5_000_000


class StepReporter:
    """A `callback_on_step_end` that moves ComfyUI's progress bar, shows a preview and obeys Cancel.

    Args:
        steps: of the run, where the pipeline does not tell.
    """

    def __init__(self, steps: int | None = None) -> None:
        import comfy.utils

        self.steps = steps
        self.bar = comfy.utils.ProgressBar(1)
        self.last_preview = float("-inf")
        self.done, self.passes, self.total = 0, 0, steps

    @contextmanager
    def watching(self, pipeline: Any) -> Iterator[None]:
        """Obeys Cancel, and moves the bar, before each pass of the denoiser too: a guided step has many.

        How many is not known before, so the parts that the bar moves by within a step become smaller.
        """
        import comfy.model_management

        def before(*_: Any) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if self.total:
                self.passes += 1
                self.bar.update_absolute(round(self.done + self.passes / (self.passes + 2), 2), self.total)

        hook = (getattr(pipeline, "unet", None) or pipeline.transformer).register_forward_pre_hook(before)
        try:
            yield
        finally:
            hook.remove()

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        import comfy.model_management

        # Raises ComfyUI's own exception, which ends the run as "interrupted" and not as an error.
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None
        now = time.monotonic()
        if now - self.last_preview >= PREVIEW_SECONDS:
            preview = preview_of(pipeline, tensors["latents"])
            self.last_preview = now
        self.done, self.passes, self.total = step + 1, 0, self.steps or pipeline.num_timesteps
        self.bar.update_absolute(self.done, self.total, preview)
        return {}


class FitReporter:
    """A `callback_on_step_end` or `callback_on_epoch_end` of a fit that moves ComfyUI's bar and obeys Cancel."""

    def __init__(self, total: int) -> None:
        import comfy.utils

        self.bar = comfy.utils.ProgressBar(total)

    def __call__(self, pipeline: Any, done: int, figures: dict[str, float]) -> None:
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done)


def preview_of(pipeline: Any, latents: torch.Tensor) -> tuple[str, Any, int] | None:
    """A small picture of the first latent as ComfyUI's progress bar takes it; None where previews are turned off.

    Of a video it is the middle frame.

    A small VAE decodes in an instant and tells the truth; for a large one ComfyUI's own estimate for Stable
    Diffusion's latents is used.
    """
    import comfy.latent_formats
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod, args
    from diffusers import AutoencoderKL
    from diffusers.image_processor import VaeImageProcessor

    if args.preview_method == LatentPreviewMethod.NoPreviews:
        return None
    latents = latents[:, :, latents.shape[2] // 2] if latents.ndim == 5 else latents
    if latents.ndim != 4:
        return None
    if sum(parameter.numel() for parameter in pipeline.vae.parameters()) <= SMALL_VAE:
        if hasattr(pipeline, "decode"):
            picture = pipeline.decode(latents[:1], "pil", None)[0][0]
        elif isinstance(pipeline.vae, AutoencoderKL):
            decoded = pipeline.vae.decode(latents[:1].type(pipeline.vae.dtype) / pipeline.vae.config.scaling_factor)
            picture = VaeImageProcessor().postprocess(decoded.sample, "pil")[0]
        else:
            return None
        return ("JPEG", picture, args.preview_size)
    if latents.shape[1] != 4:
        return None
    previewer = latent_preview.get_previewer(latents.device, comfy.latent_formats.SD15())
    return previewer.decode_latent_to_preview_image("JPEG", latents[:1].float()) if previewer else None
