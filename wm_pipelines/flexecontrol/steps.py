"""The steps of a call, for whatever holds the parts: the pipeline, and its modular twin.

A holder has the components as attributes (`unet`, `control`, `vae`, `text_encoder`, `tokenizer`, `scheduler`,
`image_encoder`, `feature_extractor`, `safety_checker`), an `image_processor`, a `vae_scale_factor` and `interrupt`.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import PIL.Image
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline, rescale_noise_cfg
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

from wm_pipelines.flexecontrol import checks
from wm_pipelines.flexecontrol.checks import TextInputs, Texts
from wm_pipelines.flexecontrol.outputs import MapRecorder, Ran
from wm_pipelines.flexecontrol.steering.global_image import global_tokens, image_vectors
from wm_pipelines.flexecontrol.steering.picture import Kept
from wm_pipelines.flexecontrol.steering.plan import Plan
from wm_pipelines.flexecontrol.steering.stages import Frame, Stage, Stages, attention_state, hooks, residuals
from wm_pipelines.flexecontrol.steering.text import cut_off, lora_scaled
from wm_pipelines.text.prompts import Phrase, check_length, token_index
from wm_pipelines.text.vocabulary import check_vocabulary

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Run:
    """What stays the same while a call denoises.

    Args:
        timesteps: evaluations of the denoiser, in order. steps: that the progress bar counts, fewer under schedulers
            of second order.
        text_length: tokens of the text, without a global image's.
        bind: whether phrases with a place shall be kept to it. record: whether attention maps are recorded.
        image_embeds: of the UNet's IP-Adapters. kept: what a mask keeps of a picture.
        step_kwargs: of the scheduler. callback, callback_inputs: as `callback_on_step_end` and its tensor inputs.
    """

    plan: Plan
    frame: Frame
    timesteps: torch.Tensor
    steps: int
    text_length: int
    bind: bool = True
    record: bool = True
    image_embeds: list[torch.Tensor] | None = None
    kept: Kept | None = None
    step_kwargs: dict[str, Any] = field(default_factory=dict)
    callback: Callable[[Any, int, int, dict], dict] | None = None
    callback_inputs: Sequence[str] = ("latents",)


class FlexEControlSteps:
    """See the module's docstring."""

    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    # of the call that runs, or ran last; callbacks may change them
    _guidance_scale: float = 7.5
    _guidance_rescale: float = 0.0
    _cross_attention_kwargs: dict[str, Any] | None = None
    _clip_skip: int | None = None
    _num_timesteps: int = 0

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        return self._guidance_rescale

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        return self._cross_attention_kwargs

    @property
    def clip_skip(self) -> int | None:
        return self._clip_skip

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    def check_inputs(
        self,
        words: TextInputs,
        size: tuple[int, int],
        controlled: bool,
        whole: bool,
        callback_on_step_end_tensor_inputs: Sequence[str],
        **options: Any,
    ) -> None:
        """Refuse what can't work before any model runs.

        Args:
            size: height and width in pixels.
            controlled: whether the adapter takes part.
            whole: whether a text must fit the text encoder's limit; else what is over is cut off, with a warning.
            options: the choices, counts and numbers that `checks` knows.

        Raises:
            ValueError: on the first problem found, naming the argument, what came and what is allowed.
        """
        if controlled and self.control.dtype != self.unet.dtype:
            raise ValueError(f"control is {self.control.dtype}, unet is {self.unet.dtype}; use pipe.to(dtype)")
        checks.check_options(options)
        checks.check_size(*size, self.control.multiple if controlled else self.vae_scale_factor)
        layers = getattr(getattr(self.text_encoder, "config", None), "num_hidden_layers", 1)
        checks.check_texts(words, layers=layers, width=self.unet.config.cross_attention_dim)
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {unknown}; allowed are {self._callback_tensor_inputs}"
            )
        record = getattr(self, "wm_config", None)
        for name, text in (("prompt", words.prompt), ("negative_prompt", words.negative_prompt)):
            texts = [text] if isinstance(text, str) else text or []
            if record is not None and record.vocabulary:
                known = [*self.tokenizer.get_added_vocab(), *self.tokenizer.all_special_tokens]
                check_vocabulary(record.vocabulary, texts, name, allowed=known)
            if whole:
                check_length(self.tokenizer, [self.converted(t) for t in texts], name)

    def encode_prompt(
        self,
        prompt: Texts | None,
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Texts | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text embeddings `(B, 77, C)`, and those of the negative prompt under guidance, else None.

        Signature and values as in `StableDiffusionPipeline`; a text over the limit is cut off, with a warning.

        Args:
            device: where the embeddings shall be; by default where the pipeline runs.
            lora_scale: of the text encoder's LoRA layers, for this call.
        """
        device = self._execution_device if device is None else torch.device(device)
        batch = checks.count_prompts(prompt, prompt_embeds)
        with lora_scaled(self.text_encoder, lora_scale):
            if prompt_embeds is None:
                prompt_embeds = self._encode_text(prompt, device, clip_skip=clip_skip)
            if not do_classifier_free_guidance:
                negative_prompt_embeds = None
            elif negative_prompt_embeds is None:
                negative = negative_prompt if negative_prompt is not None else ""
                negative = [negative] * batch if isinstance(negative, str) else negative
                negative_prompt_embeds = self._encode_text(negative, device, length=prompt_embeds.shape[1])
        checks.check_same_shape(prompt_embeds, negative_prompt_embeds)
        dtype = self.unet.dtype if self.text_encoder is None else self.text_encoder.dtype
        both = []
        for embeds in (prompt_embeds, negative_prompt_embeds):
            if embeds is not None:
                embeds = embeds.to(device, dtype).repeat_interleave(num_images_per_prompt, dim=0)
            both.append(embeds)
        prompt_embeds, negative_prompt_embeds = both
        return prompt_embeds, negative_prompt_embeds  # by these names diffusers' reader of sources knows them

    def converted(self, text: Texts) -> Texts:
        """As the tokenizer takes it: textual inversion writes one concept as several tokens."""
        return self.maybe_convert_prompt(text, self.tokenizer)

    def _encode_text(
        self, text: Texts, device: torch.device, clip_skip: int | None = None, length: int | None = None
    ) -> torch.Tensor:
        text = self.converted(text)
        length = length or self.tokenizer.model_max_length
        tokens = self.tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        for cut in cut_off(self.tokenizer, text, length):
            logger.warning("the text encoder takes %d tokens; cut off: %r", length, cut)
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(device)
        return self._encode_tokens(tokens.input_ids.to(device), mask, clip_skip=clip_skip)

    def _encode_tokens(self, ids: torch.Tensor, mask: torch.Tensor | None, clip_skip: int | None) -> torch.Tensor:
        if clip_skip is None:
            return self.text_encoder(ids, attention_mask=mask)[0]
        hidden = self.text_encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        # transformers 5 took the inner `text_model` away
        return getattr(self.text_encoder, "text_model", self.text_encoder).final_layer_norm(hidden[-(clip_skip + 1)])

    def keep_apart(
        self,
        text: torch.Tensor,
        negative: torch.Tensor | None,
        prompt: Texts,
        plan: Plan,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text embeddings with an encoding of the prompt for each phrase that is to be told from others (our design).

        A text encoder that reads from left to right puts what it has read into every later token: "white cube" behind
        "an orange cube" is partly orange, and so is all that follows. Where two phrases or more have places, each gets
        an encoding in which the others are hidden, for the cells of its place; all other cells go on looking at the
        prompt's own.

        Args:
            text, negative: `(B, T, C)` of `encode_prompt`, B a multiple of the prompts. prompt: what it was made of.

        Returns:
            both as `(B, (1 + K) T, C)`, K the largest number of phrases told apart in one prompt; encodings that a
            prompt has no use for repeat its own, and the negative ones do, which changes no attention.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        apart = [[b.phrases[p] for p in b.told_apart()] for b in plan.bindings]
        most = max(map(len, apart))
        if most == 0:
            return text, negative
        rows = []
        with lora_scaled(self.text_encoder, lora_scale):
            for own, words, phrases in zip(text.chunk(len(prompts)), prompts, apart, strict=True):
                made = [own] * (1 + most)
                if phrases:
                    encoded = self._encode_apart(words, phrases, text.device, clip_skip=clip_skip).to(text)
                    made[1 : 1 + len(phrases)] = [one.expand_as(own) for one in encoded]
                rows.append(torch.cat(made, 1))
        return torch.cat(rows), None if negative is None else negative.repeat(1, 1 + most, 1)

    def _encode_apart(
        self, prompt: str, phrases: Sequence[Phrase], device: torch.device, clip_skip: int | None
    ) -> torch.Tensor:
        """`(P, T, C)`, the prompt with all but one of the phrases hidden."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            [self.converted(prompt)], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        own = token_index([phrases], length)[0]  # (P, T)
        seen = (own | ~own.any(0)).long()
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            seen = seen * tokens.attention_mask
        ids = tokens.input_ids.expand(len(seen), -1)
        return self._encode_tokens(ids.to(device), seen.to(device), clip_skip=clip_skip)

    def encode_global_image(
        self, image: Any, batch: int, num_images_per_prompt: int, strength: float, variant: str
    ) -> torch.Tensor | None:
        """Extra text tokens `(2B or B, 4, C)` from an image, unconditional half first; None if none are appended.

        Args:
            image: one picture or a list of one per prompt (needs `image_encoder`), or CLIP's projected,
                un-normalised vectors `(D,)`, `(1, D)` or `(prompts, D)`.
            variant: "paper": no image, no tokens. "released": as Uni-ControlNet's code, which always appends
                tokens, those of the zero vector if there is no image.
        """
        config, device = self.control.config, self._execution_device
        if image is not None and not config.global_adapter:
            raise ValueError("global_image needs an adapter made with global_adapter=True; this one has none")
        vectors = None
        if image is not None:
            vectors = image_vectors(
                image,
                image_encoder=self.image_encoder,
                feature_extractor=self.feature_extractor,
                width=config.global_embed_dim,
                batch=batch,
                device=device,
            )
        absent = image is None or strength == 0
        if not config.global_adapter or (absent and variant == "paper"):
            return None
        pictures = batch * num_images_per_prompt
        return strength * global_tokens(
            self.control, vectors=vectors, pictures=pictures, guided=self.do_classifier_free_guidance, device=device
        )

    # what IP-Adapters are given is made as in the stock pipeline
    encode_image = StableDiffusionPipeline.encode_image
    prepare_ip_adapter_image_embeds = StableDiffusionPipeline.prepare_ip_adapter_image_embeds

    def prepare_latents(
        self, batch: int, height: int, width: int, dtype: torch.dtype, generator: Any, latents: torch.Tensor | None
    ) -> torch.Tensor:
        """Initial noise `(B, C, h, w)` at the scheduler's scale, or the given latents, scaled likewise."""
        factor = self.vae_scale_factor
        shape = (batch, self.unet.config.in_channels, height // factor, width // factor)
        checks.check_generators(generator, batch)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=dtype)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents have shape {tuple(latents.shape)}; it must be {shape}")
        return latents.to(self._execution_device) * self.scheduler.init_noise_sigma

    def prepare_extra_step_kwargs(self, generator: Any, eta: float) -> dict[str, Any]:
        """`eta` and `generator`, for the schedulers whose step takes them."""
        known = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in known}

    def predict_noise(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        prompt_embeds: torch.Tensor,
        stage: Stage,
        scale: float,
        image_embeds: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The guided noise in `latents` under what acts at a stage; it changes nothing.

        Args:
            latents: `(pictures, C, h, w)`.
            prompt_embeds: of the pictures; under guidance twice as many, the unconditional half first.
            scale: factor on the adapter's residuals.
            image_embeds: of the UNet's IP-Adapters.
        """
        guided = self.do_classifier_free_guidance
        sample = torch.cat([latents] * 2) if guided else latents
        sample = self.scheduler.scale_model_input(sample, timestep)
        added = residuals(self.control, stage, sample, timestep, prompt_embeds=prompt_embeds, scale=scale)
        noise = self.unet(
            sample,
            timestep,
            encoder_hidden_states=prompt_embeds,
            cross_attention_kwargs=self.cross_attention_kwargs,
            added_cond_kwargs=None if image_embeds is None else {"image_embeds": image_embeds},
            **added,
            return_dict=False,
        )[0]
        if not guided:
            return noise
        unconditional, conditional = noise.chunk(2)
        noise = unconditional + self.guidance_scale * (conditional - unconditional)
        if self.guidance_rescale > 0:
            noise = rescale_noise_cfg(noise, conditional, guidance_rescale=self.guidance_rescale)
        return noise

    def decode(
        self, latents: torch.Tensor, output_type: str, generator: Any
    ) -> tuple[list[PIL.Image.Image] | Any, list[bool] | None]:
        """Latents -> pictures in the asked form, and the safety checker's flags if there is one."""
        if output_type == "latent":
            return latents, None
        images = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False, generator=generator)[0]
        flags = None
        if self.safety_checker is not None:
            pictures = self.image_processor.postprocess(images, output_type="pil")
            pixels = self.feature_extractor(pictures, return_tensors="pt").pixel_values
            images, flags = self.safety_checker(images=images, clip_input=pixels.to(images.device, images.dtype))
        denormalise = [flags is None or not flag for flag in flags or [False] * len(images)]
        return self.image_processor.postprocess(images, output_type=output_type, do_denormalize=denormalise), flags

    def denoise(
        self,
        latents: torch.Tensor,
        prompt_embeds: torch.Tensor,
        negative_prompt_embeds: torch.Tensor | None,
        run: Run,
    ) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]] | None, Ran]:
        """From noise to latents: for each step its stage, what that writes into the models, the noise they predict.

        Returns:
            the latents, the attention maps of each picture (None without any), and how much was carried out.
        """
        plan, frame, timesteps, per_prompt = (
            run.plan,
            run.frame,
            run.timesteps,
            run.frame.pictures // len(run.plan.rows),
        )
        state = attention_state(
            plan.bindings,
            num_images_per_prompt=per_prompt,
            bind=run.bind,
            record_stride=self.control.config.map_stride if run.record else None,
            latent_size=tuple(latents.shape[-2:]),
            text_length=run.text_length,
            device=frame.device,
        )
        bind, done = state is not None and state.bind, 0
        stages, recorder = Stages(self.control, plan, frame, bind=bind), MapRecorder()
        warmup = len(timesteps) - run.steps * self.scheduler.order
        with hooks(self.unet, self.control, state) as enter, self.progress_bar(total=run.steps) as progress:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                stage = stages.at(i, len(timesteps))
                # a callback may end guidance half-way, so it is asked anew at every step
                enter(stage, 2 if self.do_classifier_free_guidance else 1)
                noise = self.predict_noise(
                    latents, t, prompt_embeds, stage=stage, scale=frame.scale, image_embeds=run.image_embeds
                )
                latents = self.scheduler.step(noise, t, latents, **run.step_kwargs, return_dict=False)[0]
                if run.kept is not None:
                    following = timesteps[i + 1] if i + 1 < len(timesteps) else None
                    latents = run.kept.put_back(self.scheduler, latents, following)
                if state is not None and run.record:
                    recorder.take(state.maps)
                done = i + 1
                if run.callback is not None:
                    tensors = {
                        "latents": latents,
                        "prompt_embeds": prompt_embeds,
                        "negative_prompt_embeds": negative_prompt_embeds,
                    }
                    tensors = {name: tensors[name] for name in run.callback_inputs}
                    replaced = run.callback(self, i, t, tensors) or {}
                    latents = replaced.pop("latents", latents)
                    prompt_embeds = replaced.pop("prompt_embeds", prompt_embeds)
                    negative_prompt_embeds = replaced.pop("negative_prompt_embeds", negative_prompt_embeds)
                if i == len(timesteps) - 1 or (i + 1 > warmup and (i + 1) % self.scheduler.order == 0):
                    progress.update()
        return latents, recorder.maps(plan.bindings, per_prompt), Ran(len(timesteps), done, bind=bind)
