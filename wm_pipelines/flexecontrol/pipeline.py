"""FlexEControl (arXiv 2405.04834): text to image under any number of spatial conditions, also several of one type.

One pass of one adapter serves all conditions; a phrase bound to a condition acts in the attention (our decision:
nothing in the paper carries a phrase into sampling).
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from wm_pipelines import hub
from wm_pipelines.flexecontrol import checks
from wm_pipelines.flexecontrol.checks import TextInputs, Texts
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.network.bases import check_parts, correct_outdated, refuse_index
from wm_pipelines.flexecontrol.outputs import FlexEControlPipelineOutput, report_prompts
from wm_pipelines.flexecontrol.steering.picture import noised, read_start, size_of, timesteps_from
from wm_pipelines.flexecontrol.steering.plan import Conditions, Phrases, Request, make_plan
from wm_pipelines.flexecontrol.steering.stages import Frame
from wm_pipelines.flexecontrol.steps import FlexEControlSteps, Run
from wm_pipelines.hub.stock import load_model, safetensors_only
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.text.scene_graph import SceneGraph


class FlexEControlPipeline(
    FlexEControlSteps,
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
            binding: "attention" keeps the tokens of a phrase from cells outside its place, and gives each of two or
                more such phrases an encoding of the prompt without the others; "none" lets them be.
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
            timesteps=timesteps,
            sigmas=sigmas,
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
        plan = make_plan(self.control, self.tokenizer, convert=self.converted, request=request)

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
        if binding == "attention" and prompt is not None:
            text, negative_prompt_embeds = self.keep_apart(
                text,
                negative_prompt_embeds,
                prompt=prompt,
                plan=plan,
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

        # 6. Denoise
        run = Run(
            plan,
            frame=Frame(
                pictures,
                (height, width),
                scale=controlnet_conditioning_scale,
                normalise_overlap=normalise_overlap,
                device=self._execution_device,
            ),
            timesteps=timesteps,
            steps=num_inference_steps,
            text_length=text.shape[1],
            bind=binding == "attention",
            record=output_attention,
            image_embeds=image_embeds,
            kept=kept,
            step_kwargs=self.prepare_extra_step_kwargs(generator, eta),
            callback=callback_on_step_end,
            callback_inputs=callback_on_step_end_tensor_inputs,
        )
        latents, maps, ran = self.denoise(latents, prompt_embeds, negative_prompt_embeds, run=run)

        # 7. Decode
        images, flags = self.decode(latents, output_type, generator)
        self.maybe_free_model_hooks()

        # 8. Account
        report = {
            "size": [height, width],
            "steps": num_inference_steps,
            "guidance_scale": float(guidance_scale),
            "conditioning_scale": float(controlnet_conditioning_scale),
            "scheduler": type(self.scheduler).__name__,
            "binding": binding,
            "seeds": seeds,
            "seconds": round(time.perf_counter() - started, 3),
            "prompts": report_prompts(plan, ran, maps),
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
