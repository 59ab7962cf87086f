"""`TextToVideoSDPipeline` with the step callback, the interrupt and the latent layout of today's stock pipelines.

diffusers keeps ModelScope's pipeline among the deprecated ones, with the old callback that can neither stop a run nor
change a latent. Encoding and decoding are its own; only the loop is new.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import TextToVideoSDPipeline
from diffusers.utils import BaseOutput


@dataclass
class TextToVideoOutput(BaseOutput):
    """Frames by `output_type`."""

    frames: Any


class TextToVideoPipeline(TextToVideoSDPipeline):
    """Text to video by a `UNet3DConditionModel` (ModelScope, Zeroscope, VideoCrafter2)."""

    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int = 16,
        num_inference_steps: int = 50,
        guidance_scale: float = 9.0,
        negative_prompt: str | list[str] | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[[Any, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> TextToVideoOutput | tuple:
        """As `TextToVideoSDPipeline.__call__`, with `callback_on_step_end`; latents are `(B, C, F, h, w)`."""
        size = self.unet.config.sample_size
        tall, wide = (size, size) if isinstance(size, int) else size
        height = height or tall * self.vae_scale_factor
        width = width or wide * self.vae_scale_factor
        self.check_inputs(prompt, height, width, 1, negative_prompt, prompt_embeds, negative_prompt_embeds)
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {unknown}; allowed are {self._callback_tensor_inputs}"
            )
        self._interrupt, self._guidance_scale = False, guidance_scale
        batch = len(prompt_embeds) if prompt is None else 1 if isinstance(prompt, str) else len(prompt)
        device = self._execution_device
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompt,
            device,
            1,
            self.do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            lora_scale=(cross_attention_kwargs or {}).get("scale"),
            clip_skip=clip_skip,
        )
        if self.do_classifier_free_guidance:
            prompt_embeds = torch.cat([negative_prompt_embeds, prompt_embeds])
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        latents = self.prepare_latents(
            batch,
            self.unet.config.in_channels,
            num_frames,
            height,
            width,
            prompt_embeds.dtype,
            device,
            generator,
            latents,
        )
        step_kwargs = self.prepare_extra_step_kwargs(generator, eta)
        with self.progress_bar(total=len(timesteps)) as progress:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                guided = self.do_classifier_free_guidance
                inputs = torch.cat([latents] * 2) if guided else latents
                inputs = self.scheduler.scale_model_input(inputs, t)
                noise = self.unet(
                    inputs,
                    t,
                    encoder_hidden_states=prompt_embeds,
                    cross_attention_kwargs=cross_attention_kwargs,
                    return_dict=False,
                )[0]
                if guided:
                    unconditional, conditional = noise.chunk(2)
                    noise = unconditional + self.guidance_scale * (conditional - unconditional)
                latents = self.scheduler.step(noise, t, latents, **step_kwargs).prev_sample
                if callback_on_step_end is not None:
                    known = {
                        "latents": latents,
                        "prompt_embeds": prompt_embeds,
                        "negative_prompt_embeds": negative_prompt_embeds,
                    }
                    given = {name: known[name] for name in callback_on_step_end_tensor_inputs}
                    replaced = callback_on_step_end(self, i, t, given)
                    latents = replaced.pop("latents", latents)
                    prompt_embeds = replaced.pop("prompt_embeds", prompt_embeds)
                progress.update()
        if output_type == "latent":
            video = latents
        else:
            video = self.video_processor.postprocess_video(self.decode_latents(latents), output_type=output_type)
        self.maybe_free_model_hooks()
        return TextToVideoOutput(frames=video) if return_dict else (video,)
