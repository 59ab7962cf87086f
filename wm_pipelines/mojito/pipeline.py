"""Mojito (arXiv 2412.08948): text to video with objects that follow boxes and motion of a chosen intensity.

Sampling is a stock pipeline of diffusers, built from this pipeline's own components. Directional Motion Control (DMC)
works on its latents from outside and needs no training; the Motion Intensity Modulator (MIM) is a small trained part.
"""

import dataclasses
import inspect
import os
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.utils import logging
from torch import nn

from wm_pipelines import hub
from wm_pipelines.hub.stock import load_model, safetensors_only
from wm_pipelines.mojito.bases.calls import StockCall, stock_pipeline
from wm_pipelines.mojito.bases.families import Family, family_of
from wm_pipelines.mojito.bases.loading import StockLoading
from wm_pipelines.mojito.checks import (
    CheckedInputs,
    Objects,
    check_levels,
    check_prompts,
    check_schedule,
    check_steered,
    objects_per_prompt,
)
from wm_pipelines.mojito.guidance.dual_clock import (
    check_clock_scheduler,
    check_clocks,
    make_clock,
)
from wm_pipelines.mojito.guidance.plan import ClipGrid, MotionPlan, plan_motion
from wm_pipelines.mojito.guidance.settings import GuidanceSettings
from wm_pipelines.mojito.guidance.state import MotionState, TextRules
from wm_pipelines.mojito.guidance.steering import MotionGuide
from wm_pipelines.mojito.modeling import MotionIntensityModel
from wm_pipelines.mojito.outputs import (
    Detector,
    MojitoPipelineOutput,
    frames_tensor,
    measure_frames,
    motion_reports,
)
from wm_pipelines.mojito.sampling import StepCallback, sample, surrounded
from wm_pipelines.mojito.trajectories.resampling import trajectory_frames
from wm_pipelines.mojito.videocrafter import FpsEmbedding
from wm_pipelines.pipeline import WMPipeline

logger = logging.get_logger(__name__)


class MojitoPipeline(StockLoading, WMPipeline):
    """A stock text-to-video base whose objects can be steered.

    Without objects and intensity it samples what the stock pipeline samples, bit for bit. Takes the components of
    `AnimateDiffPipeline`, `TextToVideoSDPipeline`, `LattePipeline`, `WanPipeline`, `LTXPipeline` or
    `CogVideoXPipeline`, or of the last three's image-to-video kin; which one is decided by the class of the denoiser.

    Args:
        unet: `UNetMotionModel`, `UNet3DConditionModel`, or `UNet2DConditionModel` together with a `motion_adapter`.
        transformer, transformer_2: of Latte, Wan (2.2: the second takes the low noise and is not guided), LTX,
            CogVideoX.
        intensity: the trained modulator; without it `motion_intensity` is refused.
        fps_embedding: of VideoCrafter2, whose UNet is told the frame rate; without it `fps` is refused.

    Raises:
        ValueError: no denoiser, or one without text attention that Mojito knows.

    Example:
        ```py
        from wm_pipelines import AutoWMPipeline, MotionObject, embedded

        pipe = AutoWMPipeline.from_pretrained(embedded("diorama-video"))
        cube = MotionObject("red cube", boxes=[(0.1, 0.4, 0.4, 0.7), (0.6, 0.4, 0.9, 0.7)], keyframes=[0, 15])
        out = pipe("a red cube moving right", objects=[cube], motion_intensity=6.0)
        out.frames[0][0].save("first.png")
        ```
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->unet->transformer->transformer_2->vae"
    _optional_components = [
        "unet",
        "motion_adapter",
        "transformer",
        "transformer_2",
        "intensity",
        "fps_embedding",
        "feature_extractor",
        "image_encoder",
    ]
    _exclude_from_cpu_offload = ["intensity", "fps_embedding"]  # act inside the denoiser's pass
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        vae: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler: Any,
        unet: nn.Module | None = None,
        motion_adapter: MotionAdapter | None = None,
        transformer: nn.Module | None = None,
        transformer_2: nn.Module | None = None,
        intensity: MotionIntensityModel | None = None,
        fps_embedding: FpsEmbedding | None = None,
        feature_extractor: Any = None,
        image_encoder: nn.Module | None = None,
        boundary_ratio: float | None = None,
        expand_timesteps: bool = False,
    ) -> None:
        super().__init__()
        if (unet is None) == (transformer is None):
            raise ValueError(f"pass unet or transformer, got {'neither' if unet is None else 'both'}")
        if isinstance(unet, UNet2DConditionModel):
            if motion_adapter is None:
                raise ValueError("unet is a UNet2DConditionModel, which makes pictures; pass a motion_adapter with it")
            unet = UNetMotionModel.from_unet2d(unet, motion_adapter)
        family_of(unet if unet is not None else transformer)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            unet=unet,
            motion_adapter=motion_adapter,
            transformer=transformer,
            transformer_2=transformer_2,
            intensity=intensity,
            fps_embedding=fps_embedding,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
        )
        self.register_to_config(boundary_ratio=boundary_ratio, expand_timesteps=expand_timesteps)

    @classmethod
    def from_base(cls, base: str | os.PathLike, folder: str | os.PathLike, **kwargs: Any) -> "MojitoPipeline":
        """The picture base `base` with the motion adapter, and the modulator if there is one, of `folder`."""
        kwargs = safetensors_only(kwargs)
        base, folder = hub.resolve(base), hub.resolve(folder)
        shared = {name: kwargs[name] for name in ("dtype", "torch_dtype", "use_safetensors") if name in kwargs}
        if "motion_adapter" not in kwargs:
            kwargs["motion_adapter"] = load_model(MotionAdapter, folder, **shared)
        if "intensity" not in kwargs and (folder / "intensity").is_dir():
            kwargs["intensity"] = load_model(MotionIntensityModel, folder, subfolder="intensity", **shared)
        return cls.from_pretrained(str(base), **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> "MojitoPipeline":
        """As in diffusers, of any stock pipeline of a family, or of a picture base beside a `motion_adapter`."""
        # diffusers hands on models of exactly the class that the signature names, and here it names many
        models = {name: part for name, part in pipeline.components.items() if isinstance(part, ModelMixin)}
        takes = inspect.signature(cls.__init__).parameters
        return super().from_pipe(pipeline, **{n: m for n, m in models.items() if n in takes} | kwargs)

    @property
    def denoiser(self) -> nn.Module:
        return self.unet if self.unet is not None else self.transformer

    @property
    def family(self) -> Family:
        return family_of(self.denoiser)

    @property
    def num_timesteps(self) -> int:
        """Steps of the running or the last call."""
        return len(self.scheduler.timesteps)

    @property
    def guidance_scale(self) -> float:
        """Of the running or the last call; a callback that sets `pipe._guidance_scale` changes the next steps'."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    def stock(self, animate: bool = False) -> DiffusionPipeline:
        """The diffusers pipeline that samples, over this pipeline's own components; with `animate` that which begins
        with a picture."""
        return stock_pipeline(self, self.family, animate)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        objects: Objects | None = None,
        motion_intensity: float | Sequence[float | None] | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        guidance_eta: float | None = None,
        guidance_iterations: int | None = None,
        guidance_fraction: float | None = None,
        guidance_threshold: float | None = None,
        guidance_taps: Sequence[str] | None = None,
        smooth_weight: float = 0.0,
        trailing_tokens: int | None = None,
        bias_in: float = 0.0,
        bias_out: float = 0.0,
        bias_fraction: float = 0.1,
        bias_style: str = "logit",
        allow_joint: bool = False,
        detector: Detector | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
        guidance_rescale: float | None = None,
        use_dynamic_cfg: bool | None = None,
        num_videos_per_prompt: int | None = None,
        num_images_per_prompt: int | None = None,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        frame_rate: int | None = None,
        max_sequence_length: int | None = None,
        clean_caption: bool | None = None,
        mask_feature: bool | None = None,
        enable_temporal_attentions: bool | None = None,
        decode_chunk_size: int | None = None,
        decode_timestep: float | list[float] | None = None,
        decode_noise_scale: float | list[float] | None = None,
        image: Any = None,
        last_image: Any = None,
        image_embeds: torch.Tensor | None = None,
        dual_clock: tuple[float, float] | None = None,
        reference: Any = None,
        temporal_weight: float = 0.0,
        truncate: bool = False,
        intensity_schedule: Sequence[float] | None = None,
    ) -> MojitoPipelineOutput | tuple:
        """Sample videos.

        Args:
            prompt: one text or one a video.
            objects: a list of `MotionObject` for all prompts, or one list a prompt. None or empty: nothing is steered.
            motion_intensity: level 0 to 10 (tenths of the training clips with less motion), for all or one a prompt;
                None: not said.
            num_frames: of the clip; None: as many as the objects' paths are for (`trajectory_frames`), up to the next
                number that the base can make, and where all stand still the base's own. Paths for another number of
                frames are resampled, and the report says so.
            fps: frames a second that the clip shall have, for a base with an fps embedding; None: its default, 28.
            guidance_eta: step size of DMC. Defaults of this and the next four are those that the checkpoint's record
                found on its validation prompts, else 30, 5, 0.2, 0.2 and the middle and the second up block (of a
                transformer, its blocks from 25 to 60 % depth).
            guidance_iterations: updates of the latent a guided step, at most; 0 measures and moves nothing.
            guidance_fraction: share of the steps, from the first, that are guided.
            guidance_threshold: energy a frame, in [0, 1], below which a step is left as it is.
            guidance_taps: blocks whose attention is read, by their module names.
            smooth_weight: of the term that keeps the attention's path as smooth as the boxes'; 0 or more, 0: none.
            trailing_tokens: text positions from the end of text on that join every object, for bases that listen to
                them too. None: the record's, else 0, where a prompt has one object, and none where it has several,
                which would pull the same positions into boxes of their own (a report says so where it was asked for).
            bias_in, bias_out: added to the logits of a phrase inside its box, and taken off outside, in the first
                `bias_fraction` of the steps; this needs no gradient.
            bias_style: "logit", or "trailblazer" or "freetraj", which edit the attention after the softmax instead
                (the cross-attention part of these works; `bias_in` and `bias_out` are then not used).
            allow_joint: guide bases whose text and video share one softmax (CogVideoX), which costs much more.
            detector: (frames (F, 3, H, W) in [0, 1], phrase) -> boxes (F, 4), NaN where nothing is found; the report
                then says how well boxes were met. It needs objects and decoded frames.
            output_type: as the base takes it: "pil", "np", "pt" or "latent".
            callback_on_step_end: `f(pipe, step, timestep, tensors)`, returns a dict of tensors to replace; it may set
                `pipe._interrupt` and `pipe._guidance_scale`.
            num_inference_steps, guidance_scale: their default is the record's, else the base's.
            negative_prompt, height, width, timesteps, guidance_scale_2, guidance_rescale, use_dynamic_cfg,
            num_videos_per_prompt, num_images_per_prompt, eta, generator, latents, prompt_embeds,
            prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask, ip_adapter_image,
            ip_adapter_image_embeds, cross_attention_kwargs, attention_kwargs, clip_skip, frame_rate,
            max_sequence_length, clean_caption, mask_feature, enable_temporal_attentions, decode_chunk_size,
            decode_timestep, decode_noise_scale, last_image, image_embeds: as the base's stock pipeline takes them;
                None leaves its default, and what it does not take is refused.
            image: first picture of the clip, for the image-to-video bases of Wan, LTX and CogVideoX.
            dual_clock: shares of the steps at which the weak and the strong clock of Time-to-Move (arXiv 2511.08633)
                end, beside the guidance or, with `guidance_iterations=0`, instead of it: until the weak one all is the
                reference clip with noise, until the strong one what lies in a box. It needs `image` and `objects`.
                None: off. (0.06, 0.14) is what its authors take for Wan 2.2, (0.08, 0.18) for CogVideoX.
            temporal_weight: taken off the logits of attention over time between frames of which one has a cell in a
                box and the other has not, in all steps, on bases with such attention (UNets, Latte); 0: none.
            truncate: with objects a text over a UNet's limit is refused, for it may speak of what is cut off; True
                lets the base cut it, with a warning, as it does without objects.
            intensity_schedule: factors on `motion_intensity`, 0 to 1, at equally spaced times from the first step of
                the sampling to its last, linear between; None: 1 all the time. A level belongs to the whole clip: it
                has no value for a frame.
            reference: that clip, as many frames of the call's size; None: the picture with what lies in each object's
                first box dragged along its path.

        Guidance needs the denoiser in float32: bfloat16 keeps too few digits of the activations for the gradient to
        point where it should (a cosine of 0.7 on the embedded `diorama-video`; a warning says so). Calls are equal
        bit for bit at equal numbers of CPU threads. With another number PyTorch's convolutions sum over their
        channels in another order (seen first in the `proj_in` of the denoiser's first attention), the gradient of a
        step differs in its sixth digit, and steered pictures by up to 1/255; `torch.set_num_threads` fixes it.

        What prompt and trajectories disagree about is logged as a warning before sampling, and is in the report;
        `conflicts` says it without sampling.

        Returns:
            `MojitoPipelineOutput`, or the tuple (frames, report) with `return_dict=False`.

        Raises:
            ValueError: on any input that cannot work, before sampling.
        """
        # 0. What the call leaves open: the record's guidance, steps and scale, else the base's own
        settings = self.guidance_settings(
            eta=guidance_eta,
            iterations=guidance_iterations,
            fraction=guidance_fraction,
            threshold=guidance_threshold,
            smooth_weight=smooth_weight,
            bias_in=bias_in,
            bias_out=bias_out,
            bias_fraction=bias_fraction,
            bias_style=bias_style,
            temporal_weight=temporal_weight,
        )
        call = self.stock_call(
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            timesteps=timesteps,
            guidance_scale=guidance_scale,
            guidance_scale_2=guidance_scale_2,
            guidance_rescale=guidance_rescale,
            use_dynamic_cfg=use_dynamic_cfg,
            num_videos_per_prompt=num_videos_per_prompt,
            num_images_per_prompt=num_images_per_prompt,
            eta=eta,
            generator=generator,
            latents=latents,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            ip_adapter_image=ip_adapter_image,
            ip_adapter_image_embeds=ip_adapter_image_embeds,
            cross_attention_kwargs=cross_attention_kwargs,
            attention_kwargs=attention_kwargs,
            clip_skip=clip_skip,
            frame_rate=frame_rate,
            max_sequence_length=max_sequence_length,
            clean_caption=clean_caption,
            mask_feature=mask_feature,
            enable_temporal_attentions=enable_temporal_attentions,
            decode_chunk_size=decode_chunk_size,
            decode_timestep=decode_timestep,
            decode_noise_scale=decode_noise_scale,
            image=image,
            last_image=last_image,
            image_embeds=image_embeds,
        )
        # 1. Refuse what can't work
        inputs = self.check_inputs(
            call,
            prompt=prompt,
            objects=objects,
            motion_intensity=motion_intensity,
            num_frames=num_frames,
            fps=fps,
            allow_joint=allow_joint,
            detector=detector,
            output_type=output_type,
            dual_clock=dual_clock,
            reference=reference,
            temporal_weight=temporal_weight,
            truncate=truncate,
            intensity_schedule=intensity_schedule,
        )
        with torch.inference_mode(False), torch.no_grad():  # guidance needs gradients, which inference mode forbids
            # 2. Each object's phrase in the prompt, its boxes on the latent's grid, and what disagrees
            plans = self.plan(call, inputs, taps=guidance_taps, trailing_tokens=trailing_tokens)

            # 3. What steers: the guide around denoiser and scheduler, the clocks after each step
            guide = self.make_guide(call, plans, settings=settings, taps=guidance_taps)
            reference = None if reference is None else frames_tensor(reference)
            clock = None if dual_clock is None else make_clock(call, plans, dual_clock, reference)

            # 4. The stock pipeline samples, its denoiser surrounded by the guide, the dial and the frame rate
            asked = self.asked(call, prompt, inputs=inputs, output_type=output_type)
            levels = [level for level in inputs.levels for _ in range(inputs.per_prompt)]
            with surrounded(self, guide, levels, fps=fps, schedule=inputs.schedule):
                frames = sample(
                    self,
                    call,
                    asked,
                    callback=callback_on_step_end,
                    tensor_inputs=callback_on_step_end_tensor_inputs,
                    clock=clock,
                )

            # 5. What was measured while sampling, and what the frames say
            reports = motion_reports(len(levels), plans, guide)
            if output_type != "latent":
                measure_frames(reports, plans, frames, detector)
        self.maybe_free_model_hooks()
        return MojitoPipelineOutput(frames, reports, plans or None) if return_dict else (frames, reports)

    def conflicts(
        self,
        prompt: str | list[str],
        objects: Objects,
        num_frames: int | None = None,
        guidance_taps: Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        max_sequence_length: int | None = None,
        image: Any = None,
    ) -> list[list[str]]:
        """For each prompt what it and its objects' paths disagree about, and which will win; nothing is sampled.

        Args:
            prompt, objects, num_frames, guidance_taps, height, width, max_sequence_length, image: as for a call.

        Raises:
            ValueError: as a call.
        """
        call = self.stock_call(image=image, height=height, width=width, max_sequence_length=max_sequence_length)
        inputs = self.check_inputs(call, prompt=prompt, objects=objects, num_frames=num_frames, allow_joint=True)
        plans = self.plan(call, inputs, taps=guidance_taps, quiet=True)
        return [plan.conflicts for plan in plans] or [[] for _ in inputs.objects]

    def check_inputs(
        self,
        call: StockCall,
        prompt: str | list[str] | None,
        objects: Objects | None = None,
        motion_intensity: float | Sequence[float | None] | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        allow_joint: bool = False,
        detector: Detector | None = None,
        output_type: str = "pil",
        dual_clock: tuple[float, float] | None = None,
        reference: Any = None,
        temporal_weight: float = 0.0,
        truncate: bool = False,
        intensity_schedule: Sequence[float] | None = None,
    ) -> CheckedInputs:
        """Refuse arguments of a call that can't work; what the objects say is checked as they are planned.

        Raises:
            ValueError: naming the argument, what came and what is allowed.
        """
        call.check_picture()
        if not len(call.options.get("timesteps", (0,))):
            raise ValueError("timesteps is empty; give one number for each step, or None")
        vocabulary = self.wm_config.vocabulary if self.wm_config is not None else None
        steered = isinstance(objects, Sequence) and any(objects)  # without objects the base cuts a long text off
        prompts = check_prompts(
            prompt,
            call.options,
            tokenizer=self.tokenizer,
            vocabulary=vocabulary,
            limited=self.unet is not None and steered and not truncate,
        )
        count = len(call.options["prompt_embeds"]) if prompts is None else len(prompts)
        wanted = objects_per_prompt(objects, count)
        lengths = [trajectory_frames(items) for items in wanted if items] if num_frames is None else []
        levels = check_levels(motion_intensity, count, trained=self.intensity is not None)
        inputs = CheckedInputs(
            prompts=prompts,
            objects=wanted,
            levels=levels,
            schedule=check_schedule(intensity_schedule, levels),
            num_frames=call.num_frames(num_frames, max((n for n in lengths if n is not None), default=None)),
            per_prompt=call.videos_per_prompt,
        )
        if fps is not None and self.fps_embedding is None:
            raise ValueError(f"fps={fps!r} given but this base has no fps embedding")
        if inputs.steered:
            if prompts is None:
                raise ValueError("objects need a prompt to find their phrases in, got prompt_embeds")
            check_steered(call, allow_joint, temporal_weight)
        if detector is not None and (not inputs.steered or output_type == "latent"):
            what = "decoded frames, not output_type='latent'" if inputs.steered else "objects to look for"
            raise ValueError(f"detector needs {what}")
        if dual_clock is None and reference is not None:
            raise ValueError("reference belongs to dual_clock, which is None")
        if dual_clock is not None:
            check_clocks(dual_clock)
            check_clock_scheduler(self.scheduler)
            if not (inputs.steered and call.animates):
                raise ValueError(f"dual_clock needs {'image' if inputs.steered else 'objects'}")
        return inputs

    def plan(
        self,
        call: StockCall,
        inputs: CheckedInputs,
        taps: Sequence[str] | None = None,
        trailing_tokens: int | None = None,
        quiet: bool = False,
    ) -> list[MotionPlan]:
        """One plan a video, in the order of the videos; none where nothing is steered. Conflicts are logged.

        Raises:
            ValueError: as `plan_motion`.
        """
        if not inputs.steered:
            return []
        frames, rows, columns = call.token_grid(inputs.num_frames)
        layers = call.family.grids(self.denoiser, list(self._tapped(taps)), rows, columns)
        grid = ClipGrid(frames, rows, columns, stride=call.stride, layers=tuple(layers))
        rules = TextRules(
            self.tokenizer,
            convert=call.convert,
            limit=call.token_limit,
            trailing=trailing_tokens,
            usual=self._recorded().get("trailing_tokens", 0),
            padding=not (call.drops_padding and len(inputs.prompts) * inputs.per_prompt == 1),
        )
        plans = []
        for prompt, items in zip(inputs.prompts, inputs.objects, strict=True):
            plan = plan_motion(prompt, items, inputs.num_frames, grid=grid, rules=rules)
            if not quiet:
                for line in plan.conflicts:
                    logger.warning(f"{prompt!r}: {line}")
            plans += [plan] * inputs.per_prompt
        return plans

    def asked(self, call: StockCall, prompt: Any, inputs: CheckedInputs, output_type: str) -> dict[str, Any]:
        """Arguments of the stock pipeline that are this pipeline's own, or follow from the objects."""
        asked = {"prompt": prompt, call.family.frames: inputs.num_frames, "output_type": output_type}
        if inputs.steered and "clean_caption" in call.takes:
            asked["clean_caption"] = False  # a rewritten prompt would have other tokens
        return asked

    def _tapped(self, taps: Sequence[str] | None) -> dict[str, nn.Module]:
        """The layers whose attention is read: of the blocks named, else of the record's, else of the family's own."""
        return self.family.tapped(self.denoiser, taps if taps is not None else self._recorded().get("taps"))

    def _recorded(self) -> dict[str, Any]:
        """Guidance defaults that the checkpoint's record found."""
        found = getattr(self.wm_config.method_config, "guidance", None) if self.wm_config is not None else None
        return found.model_dump() if found is not None else {}

    def guidance_settings(self, **given: Any) -> GuidanceSettings:
        """What was given; for the rest the record's guidance, else the defaults."""
        fields = {field.name for field in dataclasses.fields(GuidanceSettings)}
        recorded = {name: value for name, value in self._recorded().items() if name in fields}
        return GuidanceSettings(**recorded | {name: value for name, value in given.items() if value is not None})

    def stock_call(self, **options: Any) -> StockCall:
        """The call of the stock pipeline with what was given, and steps and guidance that the record recommends."""
        names = ("num_inference_steps", "guidance_scale")
        options |= {name: self.recommended(name, options.get(name), otherwise=None) for name in names}
        given = {name: value for name, value in options.items() if value is not None}
        return StockCall(self.stock(given.get("image") is not None), self.family, given)

    def make_guide(
        self, call: StockCall, plans: list[MotionPlan], settings: GuidanceSettings, taps: Sequence[str] | None
    ) -> MotionGuide | None:
        """What steers the videos of `plans`; None where nothing is steered."""
        if not plans:
            return None
        if settings.moves and self.denoiser.dtype == torch.bfloat16:
            logger.warning(
                "guidance follows a gradient through the denoiser, whose activations bfloat16 rounds to two or "
                "three digits: it points elsewhere than in float32; load the denoiser in float32 to steer"
            )
        slots = [plan.slots.to(self._execution_device) for plan in plans]
        state = MotionState(slots, frozenset(self._tapped(taps)), renormalise=call.family.padded)
        form = call.latent_form(plans[0].boxes.shape[1])
        return MotionGuide(call.family, self.denoiser, self.scheduler, state=state, settings=settings, form=form)
