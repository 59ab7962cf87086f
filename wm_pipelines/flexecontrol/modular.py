"""FlexEControl as Modular Diffusers blocks (text, plan, noise, denoise, decode): the pipeline's steps, bit for bit.

`FlexEControlModularPipeline.from_parts(**parts)` holds the components; its `save_pretrained(folder)` writes a modular
repository, `from_pretrained(folder)` reads one. No code is in the folder, and none is run from it: the blocks are the
package's own.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.modular_pipelines import SequentialPipelineBlocks
from transformers import CLIPTextModel, CLIPTokenizer

from wm_pipelines.flexecontrol import checks
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.network.bases import check_parts, correct_outdated
from wm_pipelines.flexecontrol.steering.plan import Request, make_plan
from wm_pipelines.flexecontrol.steering.stages import Frame
from wm_pipelines.flexecontrol.steps import FlexEControlSteps, Run
from wm_pipelines.hub.modular import Block, WMModularPipeline

PARTS = {
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
    "unet": UNet2DConditionModel,
    "control": FlexEControlModel,
    "scheduler": SchedulerMixin,
}


class _Step(Block):
    model_name = "flexecontrol"
    kinds = PARTS


class FlexEControlTextStep(_Step):
    about = "Settles size, steps and guidance, refuses what can't work, encodes the prompt."
    parts = ("text_encoder", "tokenizer", "unet", "vae", "control")
    takes = {
        "prompt": ..., "negative_prompt": None, "conditions": None, "phrases": None, "height": None, "width": None,
        "num_inference_steps": 50, "guidance_scale": 7.5, "guidance_rescale": 0.0, "num_images_per_prompt": 1,
        "controlnet_conditioning_scale": 1.0, "cross_attention_kwargs": None, "clip_skip": None, "eta": 0.0,
        "binding": "attention", "on_conflict": "warn", "output_type": "pil", "truncate": False,
    }  # fmt: skip
    gives = ("height", "width", "text", "negative_prompt_embeds")

    def run(self, pipe: "FlexEControlModularPipeline", block: Any) -> None:
        own = pipe.unet.config.sample_size
        own = (own, own) if isinstance(own, int) else own
        block.height = own[0] * pipe.vae_scale_factor if block.height is None else block.height
        block.width = own[1] * pipe.vae_scale_factor if block.width is None else block.width
        words = checks.TextInputs(block.prompt, block.negative_prompt, clip_skip=block.clip_skip)
        pipe.check_inputs(
            words,
            size=(block.height, block.width),
            controlled=bool(block.conditions),
            whole=not block.truncate and bool(block.conditions or block.phrases),
            callback_on_step_end_tensor_inputs=(),
            variant="paper",
            global_strength=1.0,
            **{name: getattr(block, name) for name in CHECKED},
        )
        pipe.settle(block.guidance_scale, block.guidance_rescale, block.cross_attention_kwargs)
        block.text, block.negative_prompt_embeds = pipe.encode_prompt(
            block.prompt,
            num_images_per_prompt=block.num_images_per_prompt,
            do_classifier_free_guidance=pipe.do_classifier_free_guidance,
            negative_prompt=block.negative_prompt,
            lora_scale=(block.cross_attention_kwargs or {}).get("scale"),
            clip_skip=block.clip_skip,
        )


CHECKED = (
    "binding", "on_conflict", "output_type", "num_inference_steps", "num_images_per_prompt", "guidance_scale",
    "guidance_rescale", "controlnet_conditioning_scale", "eta",
)  # fmt: skip


class FlexEControlPlanStep(_Step):
    about = "Timesteps; conditions at size, phrases in place and apart in the text, what these disagree about."
    parts = ("control", "tokenizer", "text_encoder", "scheduler")
    takes = {
        "prompt": ..., "conditions": None, "phrases": None, "height": ..., "width": ..., "num_inference_steps": 50,
        "on_conflict": "warn", "text": ..., "negative_prompt_embeds": None, "binding": "attention",
        "cross_attention_kwargs": None, "clip_skip": None,
    }  # fmt: skip
    gives = ("timesteps", "plan", "text", "prompt_embeds", "negative_prompt_embeds")

    def run(self, pipe: "FlexEControlModularPipeline", block: Any) -> None:
        pipe.scheduler.set_timesteps(block.num_inference_steps, device=pipe._execution_device)
        block.timesteps = pipe.scheduler.timesteps
        request = Request(
            block.prompt,
            checks.count_prompts(block.prompt, None),
            conditions=block.conditions,
            phrases=block.phrases,
            graphs=None,
            size=(block.height, block.width),
            steps=len(block.timesteps),
            on_conflict=block.on_conflict,
        )
        block.plan = make_plan(pipe.control, pipe.tokenizer, convert=pipe.converted, request=request)
        if block.binding == "attention":
            scale = (block.cross_attention_kwargs or {}).get("scale")
            block.text, block.negative_prompt_embeds = pipe.keep_apart(
                block.text,
                block.negative_prompt_embeds,
                prompt=block.prompt,
                plan=block.plan,
                lora_scale=scale,
                clip_skip=block.clip_skip,
            )
        guided = pipe.do_classifier_free_guidance
        block.prompt_embeds = torch.cat([block.negative_prompt_embeds, block.text]) if guided else block.text


class FlexEControlNoiseStep(_Step):
    about = "Initial noise."
    parts = ("unet", "scheduler", "vae")
    takes = {"text": ..., "height": ..., "width": ..., "generator": None, "latents": None}
    gives = ("latents",)

    def run(self, pipe: "FlexEControlModularPipeline", block: Any) -> None:
        block.latents = pipe.prepare_latents(
            len(block.text),
            height=block.height,
            width=block.width,
            dtype=block.text.dtype,
            generator=block.generator,
            latents=block.latents,
        )


class FlexEControlDenoiseStep(_Step):
    about = "From noise to latents, guided by the text and steered by the plan."
    parts = ("unet", "control", "scheduler")
    takes = {
        "latents": ..., "text": ..., "prompt_embeds": ..., "negative_prompt_embeds": None, "plan": ...,
        "timesteps": ..., "height": ..., "width": ..., "num_inference_steps": 50, "controlnet_conditioning_scale": 1.0,
        "normalise_overlap": False, "binding": "attention", "output_attention": True, "generator": None, "eta": 0.0,
    }  # fmt: skip
    gives = ("latents", "attention_maps")

    def run(self, pipe: "FlexEControlModularPipeline", block: Any) -> None:
        frame = Frame(
            len(block.text),
            (block.height, block.width),
            scale=block.controlnet_conditioning_scale,
            normalise_overlap=block.normalise_overlap,
            device=pipe._execution_device,
        )
        run = Run(
            block.plan,
            frame,
            timesteps=block.timesteps,
            steps=block.num_inference_steps,
            text_length=block.text.shape[1],
            bind=block.binding == "attention",
            record=block.output_attention,
            step_kwargs=pipe.prepare_extra_step_kwargs(block.generator, block.eta),
        )
        block.latents, block.attention_maps, _ = pipe.denoise(
            block.latents, block.prompt_embeds, block.negative_prompt_embeds, run=run
        )


class FlexEControlDecodeStep(_Step):
    about = "Latents to pictures."
    parts = ("vae",)
    takes = {"latents": ..., "output_type": "pil", "generator": None}
    gives = ("images",)

    def run(self, pipe: "FlexEControlModularPipeline", block: Any) -> None:
        block.images, _ = pipe.decode(block.latents, block.output_type, block.generator)


class FlexEControlBlocks(SequentialPipelineBlocks):
    """The whole call; take a block out, or put one in between, by its name."""

    model_name = "flexecontrol"
    block_classes = [
        FlexEControlTextStep,
        FlexEControlPlanStep,
        FlexEControlNoiseStep,
        FlexEControlDenoiseStep,
        FlexEControlDecodeStep,
    ]
    block_names = ["text", "plan", "noise", "denoise", "decode"]

    @property
    def description(self) -> str:
        return "Text to image under any number of spatial conditions (FlexEControl, arXiv 2405.04834)."


class FlexEControlModularPipeline(FlexEControlSteps, TextualInversionLoaderMixin, WMModularPipeline):
    """The holder of the parts that the blocks work with.

    Args:
        blocks: `FlexEControlBlocks` by default.
    """

    made_of = FlexEControlBlocks
    kinds = PARTS
    safety_checker = None
    interrupt = False

    @property
    def vae_scale_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_processor(self) -> VaeImageProcessor:
        return VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    def settle(self, guidance_scale: float, guidance_rescale: float, cross_attention_kwargs: dict | None) -> None:
        """What the steps of this call read."""
        self._guidance_scale, self._guidance_rescale = guidance_scale, guidance_rescale
        self._cross_attention_kwargs = cross_attention_kwargs

    def fitted(self, parts: dict[str, Any]) -> dict[str, Any]:
        check_parts(**{name: parts[name] for name in ("vae", "text_encoder", "unet", "control")})
        correct_outdated(parts["scheduler"], parts["unet"])
        return parts
