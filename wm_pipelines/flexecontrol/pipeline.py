"""FlexEControl (arXiv 2405.04834): text to image under any number of spatial conditions, also several of one type.

One pass of one adapter serves all conditions; a phrase bound to a condition acts in the attention (our decision:
nothing in the paper carries a phrase into sampling).
"""

import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import (
    FromSingleFileMixin,
    IPAdapterMixin,
    StableDiffusionLoraLoaderMixin,
    TextualInversionLoaderMixin,
)
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
    StableDiffusionPipeline,
    rescale_noise_cfg,
    retrieve_timesteps,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from wm_pipelines import hub
from wm_pipelines.flexecontrol import checks
from wm_pipelines.flexecontrol.checks import TextInputs, Texts
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.network.bases import check_parts, correct_outdated, refuse_index
from wm_pipelines.flexecontrol.outputs import FlexEControlPipelineOutput, MapRecorder, Ran, report_prompts
from wm_pipelines.flexecontrol.steering.global_image import global_tokens, image_vectors
from wm_pipelines.flexecontrol.steering.picture import noised, read_start, size_of, timesteps_from
from wm_pipelines.flexecontrol.steering.plan import Conditions, Phrases, Request, make_plan
from wm_pipelines.flexecontrol.steering.stages import Frame, Stage, Stages, attention_state, hooks, residuals
from wm_pipelines.flexecontrol.steering.text import cut_off, lora_scaled
from wm_pipelines.hub.stock import load_model, safetensors_only
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.text.prompts import check_length
from wm_pipelines.text.scene_graph import SceneGraph
from wm_pipelines.text.vocabulary import check_vocabulary

logger = logging.get_logger(__name__)


class FlexEControlPipeline(
    WMPipeline,
    StableDiffusionMixin,
    TextualInversionLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    IPAdapterMixin,
    FromSingleFileMixin,
):
    """A Stable-Diffusion base with a FlexEControl adapter.

    Without conditions, phrases, global image and graph it is `StableDiffusionPipeline`, bit for bit, with any
    scheduler: an outdated scheduler config is corrected as it is there.

    Args:
        control: the adapter; it must have been made from a UNet of the same shape, for the same VAE factor.
        image_encoder, feature_extractor: CLIP vision tower and its processor, only for `global_image` pictures.

    Raises:
        ValueError: the base is SDXL, inpainting (9 channels), distilled or a transformer, or does not fit `control`.

    Example:
        ```py
        from wm_pipelines import Condition, FlexEControlModel, FlexEControlPipeline, embedded

        control = FlexEControlModel.from_pretrained(embedded("flexecontrol"))
        pipe = FlexEControlPipeline.from_pretrained(embedded("diorama-sd"), control=control)
        edges = Condition.from_photo("canny", "photo.png", fit="crop", phrase="red cube")
        pipe("a red cube left of a blue sphere", conditions=edges).images[0].save("cube.png")
        ```
    """

    # Adapter and UNet take turns at every step, so model offload moves the adapter in and out each time.
    model_cpu_offload_seq = "text_encoder->image_encoder->control->unet->vae"
    _optional_components = ["image_encoder", "safety_checker", "feature_extractor"]
    _exclude_from_cpu_offload = ["safety_checker"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    # of the call that runs, or ran last; callbacks may change them
    _guidance_scale: float = 7.5
    _guidance_rescale: float = 0.0
    _cross_attention_kwargs: dict[str, Any] | None = None
    _clip_skip: int | None = None
    _num_timesteps: int = 0
    _interrupt: bool = False

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        control: FlexEControlModel,
        scheduler: KarrasDiffusionSchedulers,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        safety_checker: StableDiffusionSafetyChecker | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        requires_safety_checker: bool = False,
    ) -> None:
        super().__init__()
        check_parts(vae=vae, text_encoder=text_encoder, unet=unet, control=control)
        if safety_checker is not None and feature_extractor is None:
            raise ValueError("safety_checker needs feature_extractor, got None")
        correct_outdated(scheduler, unet)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            control=control,
            scheduler=scheduler,
            image_encoder=image_encoder,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 8
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self.register_to_config(requires_safety_checker=requires_safety_checker)

    @classmethod
    def from_base(cls, base: str | os.PathLike, folder: str | os.PathLike, **kwargs: Any) -> "FlexEControlPipeline":
        """The adapter `folder` on the Stable Diffusion base `base`, whose UNet a slim adapter takes.

        Args:
            kwargs: passed to the pipeline's `from_pretrained`, for example `dtype`; the adapter is read in `variant`
                where it has one.
        """
        kwargs = safetensors_only(kwargs)
        base, folder = hub.resolve(base), hub.resolve(folder)
        shared = {name: kwargs[name] for name in ("dtype", "torch_dtype", "use_safetensors") if name in kwargs}
        if "control" not in kwargs:
            if "unet" not in kwargs and FlexEControlModel.load_config(folder).get("slim"):
                of_base = _variant_in(base / "unet", kwargs.get("variant"))
                kwargs["unet"] = load_model(UNet2DConditionModel, base, subfolder="unet", **of_base, **shared)
            copied_from = {"unet": kwargs["unet"]} if "unet" in kwargs else {}
            own = _variant_in(folder, kwargs.get("variant"))
            kwargs["control"] = load_model(FlexEControlModel, folder, **copied_from, **own, **shared)
        return cls.from_pretrained(str(base), **kwargs)

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in diffusers; refuses a base of another family by name before any weight is read."""
        config = super().load_config(pretrained_model_name_or_path, **kwargs)
        refuse_index(config[0] if isinstance(config, tuple) else config)
        return config

    def load_ip_adapter(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        subfolder: str | list[str] = "",
        weight_name: str | list[str] = "",
        image_encoder_folder: str | None = "image_encoder",
        **kwargs: Any,
    ) -> None:
        """As in diffusers, from safetensors alone; pass `image_encoder_folder=None` where one is loaded or not needed.

        Raises:
            ValueError: weights of another format, or an image encoder without safetensors.
        """
        sources = pretrained_model_name_or_path_or_dict
        sources = sources if isinstance(sources, list) else [sources]
        names = weight_name if isinstance(weight_name, list) else [weight_name]
        if not all(isinstance(source, Mapping) for source in sources):
            pickled = [name for name in names if not str(name).endswith(".safetensors")]
            if pickled:
                raise ValueError(f"weight_name={pickled[0]!r}; an IP-Adapter is read from a .safetensors file alone")
            if self.image_encoder is None and image_encoder_folder is not None:
                folder = os.path.join(subfolder if isinstance(subfolder, str) else subfolder[0], image_encoder_folder)
                place = image_encoder_folder if "/" in image_encoder_folder else folder
                encoder = load_model(CLIPVisionModelWithProjection, sources[0], subfolder=place, dtype=self.dtype)
                self.register_modules(image_encoder=encoder.to(self.device))
        super().load_ip_adapter(sources, subfolder, weight_name, image_encoder_folder=image_encoder_folder, **kwargs)

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
        for name, text in (("prompt", words.prompt), ("negative_prompt", words.negative_prompt)):
            texts = [text] if isinstance(text, str) else text or []
            if self.wm_config is not None and self.wm_config.vocabulary:
                known = [*self.tokenizer.get_added_vocab(), *self.tokenizer.all_special_tokens]
                check_vocabulary(self.wm_config.vocabulary, texts, name, allowed=known)
            if whole:
                check_length(self.tokenizer, [self._converted(t) for t in texts], name)

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
        return both[0], both[1]

    def _converted(self, text: Texts) -> Texts:
        """As the tokenizer takes it: textual inversion writes one concept as several tokens."""
        return self.maybe_convert_prompt(text, self.tokenizer)

    def _encode_text(
        self, text: Texts, device: torch.device, clip_skip: int | None = None, length: int | None = None
    ) -> torch.Tensor:
        text = self._converted(text)
        length = length or self.tokenizer.model_max_length
        tokens = self.tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        for cut in cut_off(self.tokenizer, text, length):
            logger.warning("the text encoder takes %d tokens; cut off: %r", length, cut)
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(device)
        ids = tokens.input_ids.to(device)
        if clip_skip is None:
            return self.text_encoder(ids, attention_mask=mask)[0]
        hidden = self.text_encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        # transformers 5 took the inner `text_model` away
        return getattr(self.text_encoder, "text_model", self.text_encoder).final_layer_norm(hidden[-(clip_skip + 1)])

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

    @torch.no_grad()
    def __call__(
        self,
        prompt: Texts | None = None,
        conditions: Conditions | None = None,
        scene_graph: SceneGraph | list[SceneGraph] | None = None,
        global_image: Any = None,
        negative_prompt: Texts | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        controlnet_conditioning_scale: float = 1.0,
        global_strength: float = 1.0,
        phrases: Phrases | None = None,
        binding: str = "attention",
        on_conflict: str = "warn",
        normalise_overlap: bool = False,
        output_attention: bool = True,
        variant: str = "paper",
        clip_skip: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, int, dict], dict]
        | PipelineCallback
        | MultiPipelineCallbacks
        | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        cross_attention_kwargs: dict[str, Any] | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        truncate: bool = False,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
    ) -> FlexEControlPipelineOutput | tuple:
        """Sample pictures.

        Args:
            prompt: one text or one per picture; may be left out when `scene_graph` is given, whose caption is used.
            conditions: one `Condition`, one list for all prompts, or one list per prompt.
            scene_graph: one graph, or one per prompt. Its nodes' phrases are bound to their masks, and it gives the
                `seg` and `depth` maps that the adapter knows and no condition gives: explicit conditions win.
            global_image: picture(s) or projected CLIP vector(s); see `encode_global_image`.
            height, width: in pixels, the size of `image` or the base's own by default; under conditions, multiples of
                `condition_stride * 2**(levels - 1)`.
            num_inference_steps, guidance_scale: what the checkpoint's record recommends by default, 50 and 7.5 without
                a record.
            eta: of DDIM, in [0, 1]; ignored by other schedulers.
            generator: one for all pictures or one per picture.
            latents: initial noise `(B, C, h, w)` of unit variance.
            prompt_embeds, negative_prompt_embeds: `(prompts, 77, C)` instead of texts; phrases then can't be bound.
            controlnet_conditioning_scale: factor on all of the adapter's residuals; 0 leaves the adapter out.
            global_strength: factor on the global image's tokens; 0 appends none.
            phrases: more words of the prompt to record attention of: `"red cube"` or `("red cube", (start, end))`;
                one list for all prompts, or one `list` per prompt.
            binding: "attention" keeps the tokens of a phrase from cells outside its place, "none" lets them be.
            on_conflict: "warn" (also in the output), "error" (before sampling) or "ignore" (not looked for).
            normalise_overlap: where k regions of one type meet, divide their sum by k.
            output_attention: record attention maps of all phrases.
            variant: "paper" or "released"; see `encode_global_image`.
            clip_skip: layers of the text encoder to leave out, from the end.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: called as `f(pipe, step, timestep, tensors)`, returns a dict of tensors to replace.
            callback_on_step_end_tensor_inputs: among `_callback_tensor_inputs`.
            timesteps, sigmas: a schedule in place of `num_inference_steps`, for the schedulers that take one.
            guidance_rescale: of arXiv 2305.08891, equation 16; 0 leaves the guided noise as it is.
            cross_attention_kwargs: for the UNet's attention; `scale` weighs loaded LoRA layers in this call.
            ip_adapter_image, ip_adapter_image_embeds: for loaded IP-Adapters, as in `StableDiffusionPipeline`.
            truncate: cut a text that is over the text encoder's limit, with a warning. Without conditions, phrases and
                graph this is always done; with them it may cut what they speak of, so it is refused if not asked for.
            image: picture(s) to start from in place of noise, in [0, 1]: one for all, one per prompt or one per
                picture; the output has their size. Conditions' windows then speak of the steps that run.
            mask_image: white where `image` is made anew; the rest is kept.
            strength: share of the steps that run from `image`, above 0 to 1; by default 0.8, with a mask 1.

        Returns:
            `FlexEControlPipelineOutput`, or the tuple of its six values with `return_dict=False`.

        Raises:
            ValueError: on any input that cannot work, before sampling.
        """
        started = time.perf_counter()

        # 0. What the call leaves open: the record's settings, the picture's or the base's size, a graph's caption
        num_inference_steps = self.recommended("num_inference_steps", num_inference_steps, otherwise=50)
        guidance_scale = self.recommended("guidance_scale", guidance_scale, otherwise=7.5)
        own = (_side(self.unet.config.sample_size, axis) * self.vae_scale_factor for axis in (0, 1))
        base_height, base_width = size_of(image) or own
        height = base_height if height is None else height
        width = base_width if width is None else width
        graphs = [scene_graph] if isinstance(scene_graph, SceneGraph) else scene_graph
        compiled = None if graphs is None else checks.compile_graphs(graphs, height, width)
        if compiled is not None and prompt is None and prompt_embeds is None:
            prompt = [graph.caption for graph in compiled]
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs

        # 1. Refuse what can't work
        controlled = compiled is not None or not (isinstance(conditions, Sequence | None) and not conditions)
        words = TextInputs(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, clip_skip=clip_skip)
        self.check_inputs(
            words,
            size=(height, width),
            controlled=controlled,
            whole=not truncate and (controlled or bool(phrases)),
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            binding=binding,
            on_conflict=on_conflict,
            variant=variant,
            output_type=output_type,
            num_inference_steps=num_inference_steps,
            num_images_per_prompt=num_images_per_prompt,
            controlnet_conditioning_scale=controlnet_conditioning_scale,
            global_strength=global_strength,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            eta=eta,
        )
        checks.check_image_prompt(self.unet, ip_adapter_image, ip_adapter_image_embeds)
        compiled = checks.one_per_prompt(compiled, words.batch)
        pictures = words.batch * num_images_per_prompt
        start = read_start(image, mask_image, strength, pictures=pictures, size=(height, width))
        if start is not None and latents is not None:
            raise ValueError("latents are the noise of a call without image; got both")
        self._guidance_scale = guidance_scale
        self._guidance_rescale = guidance_rescale
        self._cross_attention_kwargs = cross_attention_kwargs
        self._clip_skip = clip_skip
        self._interrupt = False

        # 2. Timesteps
        timesteps, num_inference_steps = retrieve_timesteps(
            self.scheduler, num_inference_steps, self._execution_device, timesteps=timesteps, sigmas=sigmas
        )
        if start is not None:
            timesteps, num_inference_steps = timesteps_from(self.scheduler, num_inference_steps, start.strength)
        self._num_timesteps = len(timesteps)

        # 3. Conditions at size, phrases in place, what these disagree about
        request = Request(
            prompt=prompt,
            batch=words.batch,
            conditions=conditions,
            phrases=phrases,
            graphs=compiled,
            size=(height, width),
            steps=len(timesteps),
            on_conflict=on_conflict,
        )
        plan = make_plan(self.control, self.tokenizer, convert=self._converted, request=request)

        # 4. Text, the global image's tokens behind it, and what IP-Adapters are given
        text, negative_prompt_embeds = self.encode_prompt(
            prompt,
            num_images_per_prompt=num_images_per_prompt,
            do_classifier_free_guidance=self.do_classifier_free_guidance,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            lora_scale=(cross_attention_kwargs or {}).get("scale"),
            clip_skip=clip_skip,
        )
        prompt_embeds = torch.cat([negative_prompt_embeds, text]) if self.do_classifier_free_guidance else text
        tokens = self.encode_global_image(
            global_image,
            batch=words.batch,
            num_images_per_prompt=num_images_per_prompt,
            strength=global_strength,
            variant=variant,
        )
        if tokens is not None:
            prompt_embeds = torch.cat([prompt_embeds, tokens.to(prompt_embeds.dtype)], dim=1)
        image_embeds = None
        if ip_adapter_image is not None or ip_adapter_image_embeds is not None:
            image_embeds = self.prepare_ip_adapter_image_embeds(
                ip_adapter_image,
                ip_adapter_image_embeds,
                device=self._execution_device,
                num_images_per_prompt=pictures,
                do_classifier_free_guidance=self.do_classifier_free_guidance,
            )

        # 5. Noise, or the noised picture and what a mask keeps of it
        seeds, kept = checks.seeds_of(generator), None
        if start is None:
            latents = self.prepare_latents(
                pictures, height=height, width=width, dtype=prompt_embeds.dtype, generator=generator, latents=latents
            )
        else:
            checks.check_generators(generator, pictures)
            like = {"generator": generator, "device": self._execution_device, "dtype": prompt_embeds.dtype}
            latents, kept = noised(
                start, self.vae, self.scheduler, timestep=timesteps[:1], pictures=pictures, like=like
            )
        step_kwargs = self.prepare_extra_step_kwargs(generator, eta)

        # 6. Denoise: a stage for each step, what it writes into the models, the noise that they predict then
        state = attention_state(
            plan.bindings,
            num_images_per_prompt=num_images_per_prompt,
            bind=binding == "attention",
            record_stride=self.control.config.map_stride if output_attention else None,
            latent_size=tuple(latents.shape[-2:]),
            text_length=text.shape[1],
            device=self._execution_device,
        )
        bind = state is not None and state.bind
        scale, done = controlnet_conditioning_scale, 0
        frame = Frame(pictures, (height, width), scale, normalise_overlap, device=self._execution_device)
        stages = Stages(self.control, plan, frame, bind=bind)
        recorder = MapRecorder()
        warmup = len(timesteps) - num_inference_steps * self.scheduler.order
        with hooks(self.unet, self.control, state) as enter, self.progress_bar(total=num_inference_steps) as progress:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                stage = stages.at(i, len(timesteps))
                # a callback may end guidance half-way, so it is asked anew at every step
                enter(stage, 2 if self.do_classifier_free_guidance else 1)
                noise = self.predict_noise(
                    latents, t, prompt_embeds, stage=stage, scale=scale, image_embeds=image_embeds
                )
                latents = self.scheduler.step(noise, t, latents, **step_kwargs, return_dict=False)[0]
                if kept is not None:
                    following = timesteps[i + 1] if i + 1 < len(timesteps) else None
                    latents = kept.put_back(self.scheduler, latents, following)
                if state is not None and output_attention:
                    recorder.take(state.maps)
                done = i + 1
                if callback_on_step_end is not None:
                    tensors = {
                        "latents": latents,
                        "prompt_embeds": prompt_embeds,
                        "negative_prompt_embeds": negative_prompt_embeds,
                    }
                    tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    replaced = callback_on_step_end(self, i, t, tensors) or {}
                    latents = replaced.pop("latents", latents)
                    prompt_embeds = replaced.pop("prompt_embeds", prompt_embeds)
                    negative_prompt_embeds = replaced.pop("negative_prompt_embeds", negative_prompt_embeds)
                if i == len(timesteps) - 1 or (i + 1 > warmup and (i + 1) % self.scheduler.order == 0):
                    progress.update()

        # 7. Decode
        images, flags = self.decode(latents, output_type, generator)
        self.maybe_free_model_hooks()

        # 8. Account
        maps = recorder.maps(plan.bindings, num_images_per_prompt)
        report = {
            "size": [height, width],
            "steps": num_inference_steps,
            "guidance_scale": float(guidance_scale),
            "conditioning_scale": float(controlnet_conditioning_scale),
            "scheduler": type(self.scheduler).__name__,
            "binding": binding,
            "seeds": seeds,
            "seconds": round(time.perf_counter() - started, 3),
            "prompts": report_prompts(plan, Ran(len(timesteps), done, bind=bind), maps),
        }
        if not return_dict:
            return images, flags, maps, plan.conflicts, report, plan.rows
        return FlexEControlPipelineOutput(
            images,
            nsfw_content_detected=flags,
            attention_maps=maps,
            conflicts=plan.conflicts,
            report=report,
            prepared=plan.rows,
        )


def _side(sample_size: int | Sequence[int], axis: int) -> int:
    return sample_size if isinstance(sample_size, int) else sample_size[axis]


def _variant_in(folder: Path, variant: str | None) -> dict[str, str]:
    """The keyword of a loader for `variant`, if the folder has weights of that name."""
    return {"variant": variant} if variant and any(folder.glob(f"*.{variant}*.safetensors*")) else {}
