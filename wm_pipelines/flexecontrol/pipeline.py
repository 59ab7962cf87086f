"""FlexEControl (arXiv 2405.04834): text to image under any number of spatial conditions, also several of one type.

One pass of one adapter serves all conditions; a phrase bound to a condition acts in the attention (our decision:
nothing in the paper carries a phrase into sampling).
"""

import contextlib
import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

import PIL.Image
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import FromSingleFileMixin, StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from wm_pipelines.flexecontrol.attention import PhraseAttention, phrase_attention
from wm_pipelines.flexecontrol.base import check_base, refuse_index
from wm_pipelines.flexecontrol.binding import Binding, PhraseSpec, bind, graph_conditions
from wm_pipelines.flexecontrol.condition import Condition, PreparedCondition, prepare
from wm_pipelines.flexecontrol.conflicts import Conflict, find_conflicts
from wm_pipelines.flexecontrol.modeling import FlexEControlModel, default_backgrounds
from wm_pipelines.flexecontrol.outputs import (
    FlexEControlPipelineOutput,
    MapRecorder,
    report_prompts,
)
from wm_pipelines.flexecontrol.prompts import check_length, check_vocabulary, token_index
from wm_pipelines.flexecontrol.steering import Steering
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.scene_graph import CompiledGraph, SceneGraph

logger = logging.get_logger(__name__)

CHOICES = {
    "binding": ("attention", "none"),
    "on_conflict": ("warn", "error", "ignore"),
    "variant": ("paper", "released"),
    "output_type": ("pil", "np", "pt", "latent"),
}


class FlexEControlPipeline(
    WMPipeline,
    StableDiffusionMixin,
    TextualInversionLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    FromSingleFileMixin,
):
    """A Stable-Diffusion base with a FlexEControl adapter.

    Without conditions, global image and graph it is `StableDiffusionPipeline`, bit for bit.

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

    # The adapter stands before the UNet, as each step runs them; group offload moves less than this order does.
    model_cpu_offload_seq = "text_encoder->image_encoder->control->unet->vae"
    _optional_components = ["image_encoder", "safety_checker", "feature_extractor"]
    _exclude_from_cpu_offload = ["safety_checker"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

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
        check_base(vae=vae, text_encoder=text_encoder, unet=unet, control=control)
        if safety_checker is not None and feature_extractor is None:
            raise ValueError("safety_checker needs feature_extractor, got None")
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
    def load_config(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in diffusers; refuses a base of another family by name before any weight is read."""
        config = super().load_config(pretrained_model_name_or_path, **kwargs)
        refuse_index(config[0] if isinstance(config, tuple) else config)
        return config

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def clip_skip(self) -> int | None:
        return self._clip_skip

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to stop after the step."""
        return self._interrupt

    def check_inputs(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
        height: int,
        width: int,
        controlled: bool,
        callback_on_step_end_tensor_inputs: Sequence[str],
        **options: Any,
    ) -> None:
        """Refuse what cannot work before any model runs; every message names the argument and what is allowed.

        Raises:
            ValueError: on the first problem found.
        """
        factor = self.control.multiple if controlled else self.vae_scale_factor
        if height < 1 or width < 1 or height % factor or width % factor:
            raise ValueError(f"output is {height}x{width}; height and width must be multiples of {factor}")
        if (prompt is None) == (prompt_embeds is None):
            came = "neither" if prompt is None else "both"
            raise ValueError(f"pass exactly one of prompt, prompt_embeds (or a scene_graph alone); got {came}")
        for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if text is not None and not isinstance(text, str) and not _list_of(text, str):
                raise ValueError(f"{name} must be a str or a non-empty list of str, got {text!r}")
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise ValueError("pass negative_prompt or negative_prompt_embeds, not both")
        batch = _count(prompt, prompt_embeds)
        if isinstance(negative_prompt, list) and len(negative_prompt) != batch:
            raise ValueError(f"negative_prompt has {len(negative_prompt)} entries for {batch} prompts")
        if prompt_embeds is not None and negative_prompt_embeds is not None:
            if prompt_embeds.shape != negative_prompt_embeds.shape:
                raise ValueError(
                    f"prompt_embeds {tuple(prompt_embeds.shape)} and negative_prompt_embeds"
                    f" {tuple(negative_prompt_embeds.shape)} must have one shape"
                )
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {unknown}; allowed are {self._callback_tensor_inputs}"
            )
        for name, allowed in CHOICES.items():
            if options[name] not in allowed:
                raise ValueError(f"{name}={options[name]!r}; choose from {', '.join(allowed)}")
        for name in ("num_inference_steps", "num_images_per_prompt"):
            if not isinstance(options[name], int) or options[name] < 1:
                raise ValueError(f"{name} must be a positive integer, got {options[name]!r}")
        for name in ("controlnet_conditioning_scale", "global_strength", "guidance_scale", "eta"):
            if not isinstance(options[name], int | float) or not abs(options[name]) < float("inf"):
                raise ValueError(f"{name} must be a finite number, got {options[name]!r}")
        self._check_text(prompt, "prompt")
        self._check_text(negative_prompt, "negative_prompt")

    def _check_text(self, text: str | list[str] | None, name: str) -> None:
        texts = [text] if isinstance(text, str) else text or []
        record = self.wm_config
        if record is not None and record.vocabulary:
            extra = [*self.tokenizer.get_added_vocab(), *self.tokenizer.all_special_tokens]
            check_vocabulary(record.vocabulary, texts, name, allowed=extra)
        check_length(self.tokenizer, [self.maybe_convert_prompt(t, self.tokenizer) for t in texts], name)

    def prepare_conditions(
        self,
        conditions: Condition | Sequence[Condition] | Sequence[Sequence[Condition]] | None,
        graphs: list[CompiledGraph] | None,
        batch: int,
        height: int,
        width: int,
    ) -> list[list[PreparedCondition]]:
        """The conditions of each prompt at the output's size, a graph's own maps behind the explicit ones.

        Returns:
            one list per prompt; the same list object for all prompts if they share their conditions.
        """
        if isinstance(conditions, Condition):
            conditions = [conditions]
        rows = list(conditions or [])
        per_prompt = _nested(rows, "conditions")
        if per_prompt and len(rows) != batch:
            raise ValueError(f"conditions has {len(rows)} lists for {batch} prompts; pass one list, or one per prompt")
        if not per_prompt:
            rows = [rows] * batch
        types = self.control.config.types
        if graphs is not None:
            rows = [[*row, *graph_conditions(g, types, row)] for row, g in zip(rows, graphs, strict=True)]
        unknown = {c.type for row in rows for c in row if isinstance(c, Condition)} - set(types)
        if unknown:
            names = ", ".join(sorted(unknown))
            raise ValueError(f"conditions of type {names} are unknown to this adapter; it has {', '.join(types)}")
        multiple = self.control.multiple if any(rows) else self.vae_scale_factor
        grounds = dict(zip(types, self.control.config.backgrounds or default_backgrounds(types), strict=True))
        if not per_prompt and graphs is None:
            return [prepare(rows[0], height, width, multiple, grounds)] * batch
        return [prepare(row, height, width, multiple, grounds) for row in rows]

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        clip_skip: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text embeddings `(B, 77, C)`, and those of the negative prompt if guidance is on, else None."""
        batch = _count(prompt, prompt_embeds)
        if prompt_embeds is None:
            prompt_embeds = self._encode_text(prompt, clip_skip)
        if not self.do_classifier_free_guidance:
            negative_prompt_embeds = None
        elif negative_prompt_embeds is None:
            negative = negative_prompt if negative_prompt is not None else ""
            negative = [negative] * batch if isinstance(negative, str) else negative
            negative_prompt_embeds = self._encode_text(negative, length=prompt_embeds.shape[1])
        dtype = self.unet.dtype if self.text_encoder is None else self.text_encoder.dtype
        both = []
        for embeds in (prompt_embeds, negative_prompt_embeds):
            if embeds is not None:
                embeds = embeds.to(self._execution_device, dtype).repeat_interleave(num_images_per_prompt, dim=0)
            both.append(embeds)
        return both[0], both[1]

    def _encode_text(
        self, text: str | list[str], clip_skip: int | None = None, length: int | None = None
    ) -> torch.Tensor:
        text = self.maybe_convert_prompt(text, self.tokenizer)
        length = length or self.tokenizer.model_max_length
        tokens = self.tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(self._execution_device)
        ids = tokens.input_ids.to(self._execution_device)
        if clip_skip is None:
            return self.text_encoder(ids, attention_mask=mask)[0]
        hidden = self.text_encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        # transformers 5 took the inner `text_model` away
        return getattr(self.text_encoder, "text_model", self.text_encoder).final_layer_norm(hidden[-(clip_skip + 1)])

    def encode_global_image(
        self, image: Any, batch: int, num_images_per_prompt: int, strength: float, variant: str, guided: bool
    ) -> torch.Tensor | None:
        """Extra text tokens `(2B or B, 4, C)` from an image, unconditional half first; None if none are appended.

        Args:
            image: one picture or a list of one per prompt (needs `image_encoder`), or CLIP's projected,
                un-normalised vectors `(D,)`, `(1, D)` or `(prompts, D)`.
            variant: "paper": no image, no tokens. "released": as Uni-ControlNet's code, which always appends
                tokens, those of the zero vector if there is no image.
            guided: whether an unconditional half, which gets the zero vector's tokens, comes first.
        """
        if not self.control.config.global_adapter:
            if image is not None:
                raise ValueError("global_image needs an adapter made with global_adapter=True; this one has none")
            return None
        if variant == "paper" and (image is None or strength == 0):
            return None
        device, dtype = self._execution_device, self.control.dtype
        if image is None:
            embeds = torch.zeros(batch, self.control.config.global_dim)
        elif isinstance(image, torch.Tensor) and image.ndim <= 2:
            embeds = image if image.ndim == 2 else image[None]
        else:
            pictures = image if isinstance(image, list) else [image]
            if self.image_encoder is None or self.feature_extractor is None:
                raise ValueError(
                    "global_image needs the components image_encoder and feature_extractor"
                    " (or pass the projected CLIP vector itself)"
                )
            pixels = self.feature_extractor(pictures, return_tensors="pt").pixel_values
            embeds = self.image_encoder(pixels.to(device, self.image_encoder.dtype)).image_embeds
        width = self.control.config.global_dim
        if embeds.shape[1] != width or len(embeds) not in (1, batch) or not torch.isfinite(embeds).all():
            raise ValueError(
                f"global_image gives vectors of shape {tuple(embeds.shape)};"
                f" they must be finite and ({batch}, {width}) or (1, {width})"
            )
        embeds = embeds.to(device, dtype).expand(batch, -1).repeat_interleave(num_images_per_prompt, dim=0)
        if guided:
            embeds = torch.cat([torch.zeros_like(embeds), embeds])
        return self.control.global_tokens(embeds) * strength

    def prepare_latents(
        self, batch: int, height: int, width: int, dtype: torch.dtype, generator: Any, latents: torch.Tensor | None
    ) -> torch.Tensor:
        """Initial noise `(B, C, h, w)` at the scheduler's scale, or the given latents, scaled likewise."""
        factor = self.vae_scale_factor
        shape = (batch, self.unet.config.in_channels, height // factor, width // factor)
        if isinstance(generator, list) and len(generator) != batch:
            raise ValueError(f"generator is a list of {len(generator)} for {batch} pictures")
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=dtype)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents have shape {tuple(latents.shape)}; it must be {shape}")
        return latents.to(self._execution_device) * self.scheduler.init_noise_sigma

    def prepare_extra_step_kwargs(self, generator: Any, eta: float) -> dict[str, Any]:
        """`eta` and `generator`, for the schedulers whose step takes them."""
        known = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in known}

    def prepare_bindings(
        self,
        prompt: str | list[str] | None,
        rows: list[list[PreparedCondition]],
        phrases: Sequence[PhraseSpec] | Sequence[list[PhraseSpec]] | None,
        graphs: list[CompiledGraph] | None,
    ) -> list[Binding]:
        """The phrases of each prompt, found in its text.

        Raises:
            ValueError: phrases without a text to find them in, or one that is absent, ambiguous or cut off.
        """
        specs = list(phrases or [])
        per_prompt = _nested(specs, "phrases", list)
        if per_prompt and len(specs) != len(rows):
            raise ValueError(f"phrases has {len(specs)} lists for {len(rows)} prompts")
        wanted = specs if per_prompt else [specs] * len(rows)
        if prompt is None:
            if any(wanted) or graphs or any(c.phrase is not None or c.span is not None for row in rows for c in row):
                raise ValueError("phrases need the text of the prompt, but prompt_embeds was given; pass prompt")
            return [Binding([], [None] * len(row)) for row in rows]
        texts = [prompt] if isinstance(prompt, str) else prompt
        return [
            bind(
                self.tokenizer,
                text,
                row,
                want,
                graphs[i] if graphs else None,
                lambda t: self.maybe_convert_prompt(t, self.tokenizer),
            )
            for i, (text, row, want) in enumerate(zip(texts, rows, wanted, strict=True))
        ]

    def find_conflicts(
        self,
        on_conflict: str,
        prompt: str | list[str] | None,
        rows: list[list[PreparedCondition]],
        bindings: list[Binding],
        graphs: list[CompiledGraph] | None,
    ) -> list[Conflict]:
        """What conditions, phrases and graph disagree about, over all prompts, each once.

        Raises:
            ValueError: there is any, and `on_conflict` is "error".
        """
        if on_conflict == "ignore":
            return []
        texts = [prompt] if isinstance(prompt, str) else prompt or [""] * len(rows)
        found: list[Conflict] = []
        for i, (text, row, bound) in enumerate(zip(texts, rows, bindings, strict=True)):
            names = [phrase.text for phrase in bound.phrases]
            for conflict in find_conflicts(row, text, names, graphs[i] if graphs else None):
                if conflict not in found:
                    found.append(conflict)
        if found and on_conflict == "error":
            raise ValueError("conditions disagree: " + "; ".join(conflict.message for conflict in found))
        for conflict in found:
            logger.warning("conditions disagree: %s", conflict.message)
        return found

    def prepare_attention(
        self,
        bindings: list[Binding],
        num_images_per_prompt: int,
        binding: str,
        output_attention: bool,
        latent_size: tuple[int, int],
        text_length: int,
    ) -> PhraseAttention | None:
        """State of the phrase attention, one row per picture; None if no phrase is to be bound or recorded."""
        placed = any(b.fixed or any(owner is not None for owner in b.owners) for b in bindings)
        bound = binding == "attention" and placed
        if not any(b.phrases for b in bindings) or not (bound or output_attention):
            return None
        index = token_index([b.phrases for b in bindings], text_length)
        return PhraseAttention(
            index.repeat_interleave(num_images_per_prompt, dim=0).to(self._execution_device),
            regions=None,
            bind=bound,
            record_stride=self.control.config.map_stride if output_attention else None,
            latent_hw=latent_size,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        conditions: Condition | Sequence[Condition] | Sequence[Sequence[Condition]] | None = None,
        scene_graph: SceneGraph | list[SceneGraph] | None = None,
        global_image: Any = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        controlnet_conditioning_scale: float = 1.0,
        global_strength: float = 1.0,
        phrases: Sequence[PhraseSpec] | Sequence[list[PhraseSpec]] | None = None,
        binding: str = "attention",
        on_conflict: str = "warn",
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
    ) -> FlexEControlPipelineOutput | tuple:
        """Sample pictures.

        Args:
            prompt: one text or one per picture; may be left out when `scene_graph` is given, whose caption is used.
            conditions: one `Condition`, one list for all prompts, or one list per prompt.
            scene_graph: one graph, or one per prompt. Its nodes' phrases are bound to their masks, and it gives the
                `seg` and `depth` maps that the adapter knows and no condition gives: explicit conditions win.
            global_image: picture(s) or projected CLIP vector(s); see `encode_global_image`.
            height, width: in pixels, the base's own size by default; under conditions, multiples of
                `condition_stride * 2**(levels - 1)`.
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
            output_attention: record attention maps of all phrases.
            variant: "paper" or "released"; see `encode_global_image`.
            clip_skip: layers of the text encoder to leave out, from the end.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: called as `f(pipe, step, timestep, tensors)`, returns a dict of tensors to replace.
            callback_on_step_end_tensor_inputs: among `_callback_tensor_inputs`.

        Returns:
            `FlexEControlPipelineOutput`, or the tuple of its five values with `return_dict=False`.

        Raises:
            ValueError: on any input that cannot work, before sampling.
        """
        started = time.perf_counter()
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs

        # 1. Size, and a graph's caption where there is no prompt
        height = height or _side(self.unet.config.sample_size, 0) * self.vae_scale_factor
        width = width or _side(self.unet.config.sample_size, 1) * self.vae_scale_factor
        graphs = [scene_graph] if isinstance(scene_graph, SceneGraph) else scene_graph
        compiled = None if graphs is None else [graph.compile(height, width) for graph in graphs]
        if compiled is not None and prompt is None and prompt_embeds is None:
            prompt = [graph.caption for graph in compiled]

        # 2. Refuse what can't work
        self.check_inputs(
            prompt,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            height,
            width,
            bool(conditions) or compiled is not None,
            callback_on_step_end_tensor_inputs,
            binding=binding,
            on_conflict=on_conflict,
            variant=variant,
            output_type=output_type,
            num_inference_steps=num_inference_steps,
            num_images_per_prompt=num_images_per_prompt,
            controlnet_conditioning_scale=controlnet_conditioning_scale,
            global_strength=global_strength,
            guidance_scale=guidance_scale,
            eta=eta,
        )
        self._guidance_scale = guidance_scale
        self._clip_skip = clip_skip
        self._interrupt = False
        batch = _count(prompt, prompt_embeds)
        pictures = batch * num_images_per_prompt
        if compiled is not None and len(compiled) != batch:
            if len(compiled) > 1:
                raise ValueError(f"scene_graph has {len(compiled)} graphs for {batch} prompts")
            compiled = compiled * batch

        # 3. Conditions, phrases and what they disagree about
        rows = self.prepare_conditions(conditions, compiled, batch, height, width)
        bindings = self.prepare_bindings(prompt, rows, phrases, compiled)
        conflicts = self.find_conflicts(on_conflict, prompt, rows, bindings, compiled)

        # 4. Text, and the global image's tokens behind it
        text, negative = self.encode_prompt(
            prompt, negative_prompt, num_images_per_prompt, prompt_embeds, negative_prompt_embeds, clip_skip
        )
        guided = self.do_classifier_free_guidance
        prompt_embeds = torch.cat([negative, text]) if guided else text
        negative_prompt_embeds = negative
        tokens = self.encode_global_image(global_image, batch, num_images_per_prompt, global_strength, variant, guided)
        if tokens is not None:
            prompt_embeds = torch.cat([prompt_embeds, tokens.to(prompt_embeds.dtype)], dim=1)

        # 5. Timesteps and noise
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        seeds = _seeds(generator)
        latents = self.prepare_latents(pictures, height, width, prompt_embeds.dtype, generator, latents)
        step_kwargs = self.prepare_extra_step_kwargs(generator, eta)

        # 6. Denoise
        size = tuple(latents.shape[-2:])
        state = self.prepare_attention(bindings, num_images_per_prompt, binding, output_attention, size, text.shape[1])
        steering = Steering(
            self.control,
            rows,
            bindings,
            state,
            pictures,
            (height, width),
            controlnet_conditioning_scale,
            self._execution_device,
        )
        recorder = MapRecorder()
        warmup = len(timesteps) - num_inference_steps * self.scheduler.order
        with contextlib.ExitStack() as stack:
            if state is not None:
                stack.enter_context(phrase_attention([self.unet, self.control], state))
            stack.callback(self.control.set_type_weights, None)
            progress = stack.enter_context(self.progress_bar(total=num_inference_steps))
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                steering.advance(i, len(timesteps))
                # a callback may end guidance half-way, so this is asked anew at every step
                guided = self.do_classifier_free_guidance
                sample = torch.cat([latents] * 2) if guided else latents
                sample = self.scheduler.scale_model_input(sample, t)
                residuals = steering.residuals(sample, t, prompt_embeds)
                noise = self.unet(sample, t, encoder_hidden_states=prompt_embeds, **residuals, return_dict=False)[0]
                if guided:
                    unconditional, conditional = noise.chunk(2)
                    noise = unconditional + self.guidance_scale * (conditional - unconditional)
                latents = self.scheduler.step(noise, t, latents, **step_kwargs, return_dict=False)[0]
                if state is not None and output_attention:
                    recorder.add(state.maps)
                    state.maps.clear()

                if callback_on_step_end is not None:
                    tensors = {
                        "latents": latents,
                        "prompt_embeds": prompt_embeds,
                        "negative_prompt_embeds": negative_prompt_embeds,
                    }
                    tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    replaced = callback_on_step_end(self, i, t, tensors)
                    latents = replaced.pop("latents", latents)
                    prompt_embeds = replaced.pop("prompt_embeds", prompt_embeds)
                    negative_prompt_embeds = replaced.pop("negative_prompt_embeds", negative_prompt_embeds)
                if i == len(timesteps) - 1 or (i + 1 > warmup and (i + 1) % self.scheduler.order == 0):
                    progress.update()

        # 7. Decode and account
        images, flags = self.decode(latents, output_type, generator)
        maps = recorder.maps(bindings, num_images_per_prompt)
        self.maybe_free_model_hooks()
        report = {
            "size": [height, width],
            "steps": num_inference_steps,
            "guidance_scale": float(guidance_scale),
            "conditioning_scale": float(controlnet_conditioning_scale),
            "scheduler": type(self.scheduler).__name__,
            "binding": binding,
            "seeds": seeds,
            "seconds": round(time.perf_counter() - started, 3),
            "prompts": report_prompts(prompt, rows, bindings, steering, maps),
        }
        if not return_dict:
            return images, flags, maps, conflicts, report
        return FlexEControlPipelineOutput(images, flags, maps, conflicts, report)

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


def _list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def _nested(items: list[Any], name: str, kind: type | tuple[type, ...] = (list, tuple)) -> bool:
    nested = [isinstance(item, kind) for item in items]
    if any(nested) and not all(nested):
        raise ValueError(f"{name} mixes lists and single entries; pass one list for all prompts, or one per prompt")
    return any(nested)


def _count(prompt: str | list[str] | None, prompt_embeds: torch.Tensor | None) -> int:
    if prompt is None:
        return len(prompt_embeds)
    return 1 if isinstance(prompt, str) else len(prompt)


def _side(sample_size: int | Sequence[int], axis: int) -> int:
    return sample_size if isinstance(sample_size, int) else sample_size[axis]


def _seeds(generator: torch.Generator | list[torch.Generator] | None) -> list[int] | None:
    if generator is None:
        return None
    generators = generator if isinstance(generator, list) else [generator]
    return [g.initial_seed() for g in generators]
