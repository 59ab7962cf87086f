"""Mojito (arXiv 2412.08948): text to video with objects that follow boxes and motion of a chosen intensity.

Sampling is a stock pipeline of diffusers, built from this pipeline's own components. Directional Motion Control (DMC)
works on its latents from outside and needs no training; the Motion Intensity Modulator (MIM) is a small trained part.
"""

import contextlib
import inspect
import math
import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from diffusers import DiffusionPipeline, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.utils import logging
from torch import nn

from wm_pipelines import hub
from wm_pipelines.hub.stock import load_model, safetensors_only
from wm_pipelines.mojito.conflicts import find_conflicts
from wm_pipelines.mojito.edits import STYLES
from wm_pipelines.mojito.families import Family, family_of
from wm_pipelines.mojito.geometry import latent_boxes
from wm_pipelines.mojito.guidance import MotionGuide, Settings
from wm_pipelines.mojito.intensity import applied
from wm_pipelines.mojito.modeling import MotionIntensityModel
from wm_pipelines.mojito.noise_variance import check_scheduler
from wm_pipelines.mojito.objects import MotionObject, hidden_lines, object_boxes
from wm_pipelines.mojito.outputs import MojitoPipelineOutput, MotionReport
from wm_pipelines.mojito.reporting import frames_tensor, measured_flow, measured_iou
from wm_pipelines.mojito.shared_noise import share_noise
from wm_pipelines.mojito.state import MotionState, make_guide
from wm_pipelines.mojito.values import frame_count, whole
from wm_pipelines.mojito.videocrafter import FpsEmbedding
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.text.prompts import check_length
from wm_pipelines.text.vocabulary import check_vocabulary

Objects = Sequence[MotionObject] | Sequence[Sequence[MotionObject]]
Detector = Callable[[torch.Tensor, str], torch.Tensor]
logger = logging.get_logger(__name__)


class MojitoPipeline(WMPipeline):
    """A stock text-to-video base whose objects can be steered.

    Without objects and intensity it samples what the stock pipeline samples, bit for bit. Takes the components of
    `AnimateDiffPipeline`, `TextToVideoSDPipeline`, `LattePipeline`, `WanPipeline`, `LTXPipeline` or
    `CogVideoXPipeline`; which one is decided by the class of the denoiser.

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
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to stop after the step."""
        return self._interrupt

    def stock(self) -> DiffusionPipeline:
        """The diffusers pipeline that samples, over this pipeline's own components."""
        kind = _stock_class(self.family.pipeline)
        takes = inspect.signature(kind.__init__).parameters
        parts = {name: value for name, value in self.components.items() if name in takes}
        parts |= {name: value for name, value in self.config.items() if name in takes and name not in parts}
        pipe = kind(**parts)
        pipe.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return pipe

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
        trailing_tokens: int = 0,
        bias_in: float = 0.0,
        bias_out: float = 0.0,
        bias_fraction: float = 0.1,
        bias_style: str = "logit",
        allow_joint: bool = False,
        detector: Detector | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **base_options: Any,
    ) -> MojitoPipelineOutput | tuple:
        """Sample videos.

        Args:
            prompt: one text or one a video.
            objects: a list of `MotionObject` for all prompts, or one list a prompt. None or empty: nothing is steered.
            motion_intensity: level 0 to 10 (tenths of the training clips with less motion), for all or one a prompt;
                None: not said.
            num_frames: of the clip; the base's own default.
            fps: frames a second that the clip shall have, for a base with an fps embedding; None: its default, 28.
            guidance_eta: step size of DMC. Defaults of this and the next four are those that the checkpoint's record
                found on its validation prompts, else 30, 5, 0.2, 0.2 and the middle and the second up block (of a
                transformer, its blocks from 25 to 60 % depth).
            guidance_iterations: updates of the latent a guided step, at most; 0 measures and moves nothing.
            guidance_fraction: share of the steps, from the first, that are guided.
            guidance_threshold: energy a frame, in [0, 1], below which a step is left as it is.
            guidance_taps: blocks whose attention is read, by their module names.
            smooth_weight: of the term that keeps the attention's path as smooth as the boxes'; 0 or more, 0: none.
            trailing_tokens: text positions from the end of text on that join every object.
            bias_in, bias_out: added to the logits of a phrase inside its box, and taken off outside, in the first
                `bias_fraction` of the steps; this needs no gradient.
            bias_style: "logit", or "trailblazer" or "freetraj", which edit the attention after the softmax instead
                (the cross-attention part of these works; `bias_in` and `bias_out` are then not used).
            allow_joint: guide bases whose text and video share one softmax (CogVideoX), which costs much more.
            detector: (frames (F, 3, H, W) in [0, 1], phrase) -> boxes (F, 4), NaN where nothing is found; the report
                then says how well boxes were met. It needs objects and decoded frames.
            output_type: as the base takes it: "pil", "np", "pt" or "latent".
            callback_on_step_end: `f(pipe, step, timestep, tensors)`, returns a dict of tensors to replace.
            base_options: every other argument of the stock pipeline's call: `negative_prompt`, `height`, `width`,
                `generator`, `latents` ...; `num_inference_steps` and `guidance_scale`, whose default is the record's,
                else the base's.

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
        with torch.inference_mode(False), torch.no_grad():  # guidance needs gradients
            return self._sample(
                prompt,
                objects=objects,
                motion_intensity=motion_intensity,
                num_frames=num_frames,
                fps=fps,
                settings=self._settings(
                    guidance_eta,
                    iterations=guidance_iterations,
                    fraction=guidance_fraction,
                    threshold=guidance_threshold,
                    smooth=smooth_weight,
                    bias_in=bias_in,
                    bias_out=bias_out,
                    bias_fraction=bias_fraction,
                    style=bias_style,
                ),
                taps=guidance_taps if guidance_taps is not None else self._recorded().get("taps"),
                trailing=trailing_tokens,
                allow_joint=allow_joint,
                detector=detector,
                output_type=output_type,
                return_dict=return_dict,
                callback=callback_on_step_end,
                callback_inputs=callback_on_step_end_tensor_inputs,
                options=base_options,
            )

    def conflicts(
        self,
        prompt: str | list[str],
        objects: Objects,
        num_frames: int | None = None,
        guidance_taps: Sequence[str] | None = None,
        **base_options: Any,
    ) -> list[list[str]]:
        """For each prompt what it and its objects' paths disagree about, and which will win; nothing is sampled.

        Args:
            prompt, objects, num_frames, guidance_taps, base_options: as for a call.

        Raises:
            ValueError: as a call.
        """
        stock, family = self.stock(), self.family
        options = self._with_recorded(base_options)
        num_frames = self._check_frames(stock, num_frames)
        prompts = self._check_prompts(prompt, options)
        wanted = _per_prompt(objects, len(prompts))
        if not any(wanted):
            return [[] for _ in prompts]
        reports = [MotionReport() for _ in prompts]
        self._make_guide(
            stock,
            prompts=prompts,
            wanted=wanted,
            num_frames=num_frames,
            settings=Settings(),
            taps=guidance_taps,
            trailing=0,
            allow_joint=family.joint,
            per_video=1,
            options=options,
            reports=reports,
        )
        return [report.conflicts for report in reports]

    def _check_frames(self, stock: DiffusionPipeline, num_frames: int | None) -> int:
        """The number of frames of a call, the base's own where None is given."""
        if num_frames is None:
            num_frames = inspect.signature(type(stock).__call__).parameters[self.family.frames].default
            num_frames = self.transformer.config.sample_frames if num_frames is None else num_frames
        if (whole(num_frames) or 0) < 1:
            raise ValueError(f"num_frames must be a positive integer, got {num_frames!r}")
        num_frames = frame_count(num_frames)
        stride = _temporal_stride(stock)
        if (num_frames - 1) % stride:
            raise ValueError(
                f"num_frames={num_frames} does not fit the base's temporal stride of {stride}: use {stride}k+1"
            )
        most = self.denoiser.config.get("motion_max_seq_length")
        if most is not None and num_frames > most:
            raise ValueError(f"num_frames={num_frames}, but the motion adapter has positions for {most} frames")
        return num_frames

    def _with_recorded(self, options: dict[str, Any]) -> dict[str, Any]:
        """The base's options with the steps and the prompt's guidance that the checkpoint's record recommends."""
        names = ("num_inference_steps", "guidance_scale")
        found = {name: self.recommended(name, options.get(name), otherwise=None) for name in names}
        rest = {name: value for name, value in options.items() if name not in names}
        return {name: value for name, value in found.items() if value is not None} | rest

    def _recorded(self) -> dict[str, Any]:
        """Guidance defaults that the checkpoint's record found."""
        found = getattr(self.wm_config.method_config, "guidance", None) if self.wm_config is not None else None
        return found.model_dump() if found is not None else {}

    def _settings(
        self, eta, iterations, fraction, threshold, smooth, bias_in, bias_out, bias_fraction, style
    ) -> Settings:
        recorded = self._recorded()
        plain = Settings()

        def either(value: Any, name: str) -> Any:
            return recorded.get(name, getattr(plain, name)) if value is None else value

        settings = Settings(
            either(eta, "eta"),
            iterations=either(iterations, "iterations"),
            fraction=either(fraction, "fraction"),
            threshold=either(threshold, "threshold"),
            smooth_weight=smooth,
            bias_in=bias_in,
            bias_out=bias_out,
            bias_fraction=bias_fraction,
            bias_style=style,
        )
        _check_settings(settings)
        return settings

    def _sample(
        self,
        prompt,
        objects,
        motion_intensity,
        num_frames,
        fps,
        settings,
        taps,
        trailing,
        allow_joint,
        detector,
        output_type,
        return_dict,
        callback,
        callback_inputs,
        options,
    ) -> MojitoPipelineOutput | tuple:
        stock, family = self.stock(), self.family
        options = self._with_recorded(options)
        share = getattr(self.wm_config.method_config, "shared_noise", 0.0) if self.wm_config is not None else 0.0
        if share:
            share_noise(stock, share)
        takes = inspect.signature(type(stock).__call__).parameters
        # Latte's video_length is num_frames here
        unknown = [name for name in options if name not in takes or name == family.frames]
        if unknown:
            raise ValueError(f"{type(stock).__name__} takes no {', '.join(unknown)}; it takes {', '.join(takes)}")
        num_frames = self._check_frames(stock, num_frames)
        prompts = self._check_prompts(prompt, options)
        per_video = _videos_per_prompt(family, options)
        videos = prompts if prompts is not None else [""] * len(options["prompt_embeds"])
        levels = self._check_levels(motion_intensity, len(videos))
        if fps is not None and self.fps_embedding is None:
            raise ValueError(f"fps={fps!r} given but this base has no fps embedding")
        wanted = _per_prompt(objects, len(videos))
        guide = None
        reports = [MotionReport() for _ in range(len(videos) * per_video)]
        boxes: list[torch.Tensor] = []
        if any(wanted):
            if prompts is None:
                raise ValueError("objects need a prompt to find their phrases in, got prompt_embeds")
            guide, boxes = self._make_guide(
                stock,
                prompts=prompts,
                wanted=wanted,
                num_frames=num_frames,
                settings=settings,
                taps=taps,
                trailing=trailing,
                allow_joint=allow_joint,
                per_video=per_video,
                options=options,
                reports=reports,
            )
            for text, report in zip(prompts, reports[::per_video], strict=True):
                for line in report.conflicts:
                    logger.warning(f"{text!r}: {line}")
        if detector is not None and (guide is None or output_type == "latent"):
            what = "objects to look for" if guide is None else "decoded frames, not output_type='latent'"
            raise ValueError(f"detector needs {what}")
        if self.intensity is not None and self.intensity.config.text_dim and self.text_encoder.dtype == torch.bfloat16:
            logger.warning(
                "the intensity model tells motions apart by small differences of the text encoder's state, which "
                "bfloat16 rounds away in part; keep pipe.text_encoder in float32 or float16"
            )

        if guide is not None and settings.iterations and settings.fraction and settings.eta:
            if self.denoiser.dtype == torch.bfloat16:
                logger.warning(
                    "guidance follows a gradient through the denoiser, whose activations bfloat16 rounds to two or "
                    "three digits: it points elsewhere than in float32; load the denoiser in float32 to steer"
                )

        self._interrupt = False

        def step_end(pipe: Any, i: int, t: int, tensors: dict) -> dict:
            out = callback(self, i, t, tensors) if callback is not None else {}
            pipe._interrupt = self._interrupt
            return out

        if family.frames == "video_length" and guide is not None:
            options.setdefault("clean_caption", False)  # a rewritten prompt would have other tokens
        with contextlib.ExitStack() as stack:
            if guide is not None:
                stack.enter_context(guide.active())
            if self.intensity is not None:  # a level of None is learned too
                # behind the guide, whose own passes have other rows: what a call's hooks see last must be the call
                repeated = [level for level in levels for _ in range(per_video)]
                stack.enter_context(applied(self.intensity, self.denoiser, repeated))
            if self.fps_embedding is not None:
                stack.enter_context(self.fps_embedding.applied(self.denoiser, fps))
            out = stock(
                prompt=prompt,
                **{family.frames: num_frames},
                output_type=output_type,
                callback_on_step_end=step_end,
                callback_on_step_end_tensor_inputs=list(callback_inputs),
                **options,
            )
        self.maybe_free_model_hooks()
        self._finish(
            reports,
            guide=guide,
            frames=out.frames,
            output_type=output_type,
            detector=detector,
            wanted=wanted,
            boxes=boxes,
            per_video=per_video,
        )
        return MojitoPipelineOutput(out.frames, reports) if return_dict else (out.frames, reports)

    def _check_prompts(self, prompt: Any, options: dict[str, Any]) -> list[str] | None:
        embeds = options.get("prompt_embeds")
        if (prompt is None) == (embeds is None):
            raise ValueError(
                f"pass exactly one of prompt, prompt_embeds; got {'neither' if prompt is None else 'both'}"
            )
        if prompt is None:
            return None
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) for text in prompts):
            raise ValueError(f"prompt must be a str or a non-empty list of str, got {prompt!r}")
        negative = options.get("negative_prompt") or []
        for name, texts in (
            ("prompt", prompts),
            ("negative_prompt", [negative] if isinstance(negative, str) else negative),
        ):
            if self.wm_config is not None and self.wm_config.vocabulary:
                known = [*self.tokenizer.get_added_vocab(), *self.tokenizer.all_special_tokens]
                check_vocabulary(self.wm_config.vocabulary, texts, name, allowed=known)
            if self.unet is not None:
                check_length(self.tokenizer, texts, name)
        return prompts

    def _check_levels(self, motion_intensity: Any, count: int) -> list[float | None]:
        levels = motion_intensity if isinstance(motion_intensity, Sequence) else [motion_intensity] * count
        if len(levels) != count:
            raise ValueError(f"motion_intensity has {len(levels)} values for {count} prompts")
        for level in levels:
            whole = isinstance(level, Real) and not isinstance(level, bool) and 0 <= level <= 10
            if level is not None and not whole:
                raise ValueError(f"motion_intensity={level!r}; a level from 0 to 10, or None")
        if self.intensity is None and any(level is not None for level in levels):
            raise ValueError("motion_intensity given but the checkpoint has no MIM weights")
        return list(levels)

    def _make_guide(
        self, stock, prompts, wanted, num_frames, settings, taps, trailing, allow_joint, per_video, options, reports
    ) -> tuple[MotionGuide, list[torch.Tensor]]:
        family, denoiser = self.family, self.denoiser
        if hasattr(denoiser, "_orig_mod"):
            raise ValueError(
                "the denoiser is compiled, which bypasses attention processors; pass it uncompiled to steer"
            )
        if any(p.is_inference() for p in denoiser.parameters()):
            raise ValueError(
                "the denoiser was loaded under torch.inference_mode and can't be differentiated; load it outside"
            )
        if family.joint and not allow_joint:
            raise ValueError(f"{family.pipeline} has joint text-video attention: pass allow_joint=True")
        if (denoiser.config.get("patch_size_t") or 1) > 1:
            raise ValueError(
                f"this {type(denoiser).__name__} joins {denoiser.config.patch_size_t} latent frames in one token "
                "(CogVideoX 1.5), which boxes can't be given for; take one with patch_size_t=1"
            )
        if options.get("clean_caption") and "clean_caption" in inspect.signature(type(stock).__call__).parameters:
            raise ValueError("clean_caption=True rewrites the prompt, so phrases can't be found in it; pass False")
        check_scheduler(self.scheduler)
        if not isinstance(trailing, Integral) or trailing < 0:
            raise ValueError(f"trailing_tokens={trailing!r}; a whole number, 0 or more")
        tapped = family.tapped(denoiser, taps)
        frames, height, width = self._token_grid(stock, num_frames, options)
        stride = _temporal_stride(stock)
        convert = _prompt_converter(stock, family)
        guides, boxes = [], []
        grids = family.grids(denoiser, list(tapped), height, width)
        for v, (prompt, items) in enumerate(zip(prompts, wanted, strict=True)):
            moving = object_boxes(items, num_frames)
            latent = latent_boxes(moving, frames, stride, first_alone=stride > 1)
            limit = self._token_limit(stock, options)
            guide = make_guide(
                self.tokenizer,
                prompt=prompt,
                objects=items,
                boxes=latent,
                trailing=trailing,
                convert=convert,
                limit=limit,
            )
            # a single prompt of Latte reaches the denoiser without its padding
            alone = family.name == "latte" and len(prompts) * per_video == 1 and options.get("mask_feature", True)
            if alone and len(guide.tokens) and guide.tokens.max() >= guide.length:
                raise ValueError(
                    f"trailing_tokens={trailing}; LattePipeline drops what follows the {guide.length} tokens of a "
                    "single prompt: ask for fewer, or pass mask_feature=False"
                )
            conflicts = find_conflicts(prompt, items, moving, grids)
            for copy in range(per_video):
                guides.append(guide.to(self._execution_device))
                boxes.append(moving)
                report = reports[v * per_video + copy]
                report.boxes, report.conflicts = latent, conflicts
                report.warnings += hidden_lines(items, num_frames)
        state = MotionState(guides, frozenset(tapped), renormalise=family.padded)
        return MotionGuide(family, denoiser=denoiser, scheduler=self.scheduler, state=state, settings=settings), boxes

    def _token_grid(self, stock: DiffusionPipeline, num_frames: int, options: dict[str, Any]) -> tuple[int, int, int]:
        """Latent frames, and rows and columns of tokens, of the clip to be."""
        takes = inspect.signature(type(stock).__call__).parameters
        spatial = next(
            getattr(stock, name)
            for name in ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")
            if hasattr(stock, name)
        )
        sides = []
        for name in ("height", "width"):
            side = options.get(name) or takes[name].default
            if side is None:
                size = self.denoiser.config.get(f"sample_{name}", None) or self.denoiser.config.sample_size
                side = (size if isinstance(size, int) else size[name == "width"]) * spatial
            if side % spatial:
                raise ValueError(f"{name}={side}; it must be a multiple of {spatial}")
            sides.append(side // spatial)
        frames = (num_frames - 1) // _temporal_stride(stock) + 1
        patch = self.denoiser.config.get("patch_size", 1) or 1
        patch = (1, patch, patch) if isinstance(patch, int) else tuple(patch)
        for name, side, p in zip(("height", "width"), sides, patch[1:], strict=True):
            if side % p:
                raise ValueError(f"{name}={side * spatial}; it must be a multiple of {spatial * p}")
        return frames, sides[0] // patch[1], sides[1] // patch[2]

    def _token_limit(self, stock: DiffusionPipeline, options: dict[str, Any]) -> int:
        takes = inspect.signature(type(stock).__call__).parameters
        if "max_sequence_length" in takes:
            return options.get("max_sequence_length") or takes["max_sequence_length"].default
        return 120 if self.family.name == "latte" else self.tokenizer.model_max_length

    def _finish(self, reports, guide, frames, output_type, detector, wanted, boxes, per_video) -> None:
        """Fill the reports from what the guide and the frames say."""
        videos = None if output_type == "latent" else [frames_tensor(video) for video in frames]
        for v, report in enumerate(reports):
            if guide is not None:
                report.energy, report.in_box = guide.energies[v], guide.in_box[v]
                report.iterations, report.forwards = guide.updates[v], guide.forwards
                items = wanted[v // per_video]
                report.warnings += [
                    f'no tapped layer attends to "{items[o].phrase}": the model may not know it'
                    for o in guide.unseen[v]
                ]
                if report.iterations > 1 and report.energy[-1][-1] > report.energy[0][0] - 0.01:
                    report.warnings.append(
                        f"energy did not fall ({report.energy[0][0]:.2f}->{report.energy[-1][-1]:.2f}) in "
                        f"{report.iterations} updates: raise guidance_eta or check the phrase"
                    )
            if videos is not None:
                report.flow = measured_flow(videos[v])
                if detector is not None and guide is not None:
                    report.iou = measured_iou(videos[v], wanted[v // per_video], boxes[v], detector)


def _stock_class(name: str) -> type[DiffusionPipeline]:
    if name == "TextToVideoPipeline":
        from wm_pipelines.mojito.text_to_video import TextToVideoPipeline

        return TextToVideoPipeline
    import diffusers

    return getattr(diffusers, name)


def _videos_per_prompt(family: Family, options: dict[str, Any]) -> int:
    name = family.several or "num_videos_per_prompt"
    count = options.get(name, 1)
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
        raise ValueError(f"{name}={count!r}; a whole number of at least 1")
    if family.several is None and count != 1:
        raise ValueError(f"{name}={count}, but {family.pipeline} makes one video of each prompt; repeat the prompt")
    return count


def _temporal_stride(stock: DiffusionPipeline) -> int:
    names = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")
    return next((int(getattr(stock, name)) for name in names if hasattr(stock, name)), 1)


def _prompt_converter(stock: DiffusionPipeline, family: Family) -> Callable[[str], str]:
    """What the stock pipeline makes of a prompt before it is encoded."""
    if family.name == "wan":
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        return prompt_clean
    if family.name == "latte":
        return lambda prompt: prompt.lower().strip()
    if hasattr(stock, "maybe_convert_prompt"):  # textual inversion
        return lambda prompt: stock.maybe_convert_prompt(prompt, stock.tokenizer)
    return str


def _per_prompt(objects: Objects | None, count: int) -> list[list[MotionObject]]:
    """One list of objects a prompt, from one list for all or one a prompt."""
    if objects is None:
        return [[]] * count
    if isinstance(objects, MotionObject) or not isinstance(objects, Sequence) or isinstance(objects, str):
        raise ValueError(f"objects must be a list of MotionObject, got {type(objects).__name__}")
    nested = [isinstance(item, Sequence) and not isinstance(item, str) for item in objects]
    if not any(nested):
        return [list(objects)] * count
    if not all(nested) or len(objects) != count:
        raise ValueError(f"objects must be one list for all prompts, or one list for each of the {count} prompts")
    if any(objects) and not all(objects):
        raise ValueError("objects has an empty list for one prompt and objects for another; sample them apart")
    return [list(item) for item in objects]


def _check_settings(settings: Settings) -> None:
    allowed = {
        "eta": ("guidance_eta", 0, math.inf),
        "fraction": ("guidance_fraction", 0, 1),
        "threshold": ("guidance_threshold", 0, 1),
        "smooth_weight": ("smooth_weight", 0, math.inf),
        "bias_in": ("bias_in", -math.inf, math.inf),
        "bias_out": ("bias_out", -math.inf, math.inf),
        "bias_fraction": ("bias_fraction", 0, 1),
    }
    for field, (name, low, high) in allowed.items():
        value = getattr(settings, field)
        if not isinstance(value, Real) or not math.isfinite(value) or not low <= value <= high:
            bounds = "a finite number" if low == -math.inf else f"from {low} to {high:g}"
            raise ValueError(f"{name}={value!r}; it must be {bounds}")
    if settings.bias_style not in STYLES:
        raise ValueError(f"bias_style={settings.bias_style!r}; choose from {', '.join(STYLES)}")
    if settings.bias_style != "logit" and (settings.bias_in or settings.bias_out):
        raise ValueError(f"bias_in and bias_out belong to bias_style='logit', not to {settings.bias_style!r}")
    if not isinstance(settings.iterations, Integral) or settings.iterations < 0:
        raise ValueError(f"guidance_iterations={settings.iterations!r}; a whole number, 0 or more")
