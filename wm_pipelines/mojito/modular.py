"""Mojito as Modular Diffusers blocks (inputs, plan, guide, denoise, decode): the pipeline's steps, bit for bit.

`MojitoModularPipeline.from_parts(**parts)` holds the components of a base; its `save_pretrained(folder)` writes a
modular repository, `from_pretrained(folder)` reads one. No code is in the folder, and none is run from it.
"""

import inspect
from typing import Any

import torch
from diffusers import ModelMixin, MotionAdapter, SchedulerMixin
from diffusers.modular_pipelines import SequentialPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from wm_pipelines.hub.modular import Block, WMModularPipeline
from wm_pipelines.mojito.bases.decoding import decoded
from wm_pipelines.mojito.guidance.dual_clock import make_clock
from wm_pipelines.mojito.modeling import MotionIntensityModel
from wm_pipelines.mojito.outputs import frames_tensor, measure_frames, motion_reports
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.sampling import sample, surrounded
from wm_pipelines.mojito.videocrafter import FpsEmbedding, VideoCrafterDDIMScheduler

PARTS = {
    "vae": ModelMixin,
    "text_encoder": PreTrainedModel,
    "tokenizer": PreTrainedTokenizerBase,
    "scheduler": SchedulerMixin,
    "unet": ModelMixin,
    "motion_adapter": MotionAdapter,
    "transformer": ModelMixin,
    "transformer_2": ModelMixin,
    "intensity": MotionIntensityModel,
    "fps_embedding": FpsEmbedding,
    "feature_extractor": ImageProcessingMixin,
    "image_encoder": PreTrainedModel,
}
REQUIRED = ("vae", "text_encoder", "tokenizer", "scheduler")

# Arguments of the pipeline's call: their defaults, and which are whose.
DEFAULTS = {name: p.default for name, p in inspect.signature(MojitoPipeline.__call__).parameters.items()}
CHECKED = (
    "prompt", "objects", "motion_intensity", "num_frames", "fps", "allow_joint", "detector", "output_type",
    "dual_clock", "reference", "temporal_weight", "truncate", "intensity_schedule",
)  # fmt: skip
SETTINGS = {
    "guidance_eta": "eta", "guidance_iterations": "iterations", "guidance_fraction": "fraction",
    "guidance_threshold": "threshold", "smooth_weight": "smooth_weight", "bias_in": "bias_in", "bias_out": "bias_out",
    "bias_fraction": "bias_fraction", "bias_style": "bias_style", "temporal_weight": "temporal_weight",
}  # fmt: skip
ELSEWHERE = (
    "self", "return_dict", "callback_on_step_end", "callback_on_step_end_tensor_inputs", "guidance_taps",
    "trailing_tokens",
)  # fmt: skip
STOCK = tuple(name for name in DEFAULTS if name not in (*CHECKED, *SETTINGS, *ELSEWHERE))


def _taken(*names: str) -> dict[str, Any]:
    return {name: DEFAULTS[name] for name in names}


class _Step(Block):
    model_name = "mojito"
    kinds = PARTS
    settings = {"boundary_ratio": None, "expand_timesteps": False}
    parts = tuple(PARTS)

    def __call__(
        self, components: "MojitoModularPipeline", state: PipelineState
    ) -> tuple["MojitoModularPipeline", PipelineState]:
        with torch.inference_mode(False):  # guidance needs gradients, which inference mode forbids
            return super().__call__(components, state)


class MojitoInputStep(_Step):
    about = "Refuses what can't work; the call of the base's stock pipeline, and what the objects ask of it."
    takes = _taken(*CHECKED, *STOCK)
    gives = ("call", "inputs")

    def run(self, pipe: "MojitoModularPipeline", block: Any) -> None:
        block.call = pipe.steps.stock_call(**{name: getattr(block, name) for name in STOCK})
        block.inputs = pipe.steps.check_inputs(block.call, **{name: getattr(block, name) for name in CHECKED})


class MojitoPlanStep(_Step):
    about = "Each object's phrase in the prompt, its boxes on the latent's grid, what text and paths disagree about."
    takes = {"call": ..., "inputs": ..., **_taken("guidance_taps", "trailing_tokens")}
    gives = ("plan",)

    def run(self, pipe: "MojitoModularPipeline", block: Any) -> None:
        block.plan = pipe.steps.plan(
            block.call, block.inputs, taps=block.guidance_taps, trailing_tokens=block.trailing_tokens
        )


class MojitoGuideStep(_Step):
    about = "What stands around the denoiser: the guide that moves the latents, and the clocks."
    takes = {"call": ..., "plan": ..., **_taken("guidance_taps", "dual_clock", "reference", *SETTINGS)}
    gives = ("guide", "clock")

    def run(self, pipe: "MojitoModularPipeline", block: Any) -> None:
        settings = pipe.steps.guidance_settings(**{field: getattr(block, name) for name, field in SETTINGS.items()})
        block.guide = pipe.steps.make_guide(block.call, block.plan, settings=settings, taps=block.guidance_taps)
        reference = None if block.reference is None else frames_tensor(block.reference)
        clocks = block.dual_clock
        block.clock = None if clocks is None else make_clock(block.call, block.plan, clocks, reference)


class MojitoDenoiseStep(_Step):
    about = "From noise to latents: the base's stock pipeline, steered."
    takes = {"call": ..., "inputs": ..., "guide": None, "clock": None, **_taken("prompt", "fps")}
    gives = ("latents",)

    def run(self, pipe: "MojitoModularPipeline", block: Any) -> None:
        inputs = block.inputs
        levels = [level for level in inputs.levels for _ in range(inputs.per_prompt)]
        asked = pipe.steps.asked(block.call, block.prompt, inputs=inputs, output_type="latent")
        with surrounded(pipe.steps, block.guide, levels, fps=block.fps, schedule=inputs.schedule):
            block.latents = sample(
                pipe.steps, block.call, asked, callback=None, tensor_inputs=("latents",), clock=block.clock
            )


class MojitoDecodeStep(_Step):
    about = "Latents to frames, and what was measured: while sampling, and of the frames."
    takes = {
        "latents": ...,
        "call": ...,
        "inputs": ...,
        "plan": ...,
        "guide": None,
        **_taken("output_type", "detector"),
    }
    gives = ("frames", "report")

    def run(self, pipe: "MojitoModularPipeline", block: Any) -> None:
        inputs = block.inputs
        block.frames = decoded(block.call, block.latents, inputs.num_frames, block.output_type)
        block.report = motion_reports(len(inputs.objects) * inputs.per_prompt, block.plan, block.guide)
        if block.output_type != "latent":
            measure_frames(block.report, block.plan, block.frames, block.detector)


class MojitoBlocks(SequentialPipelineBlocks):
    """The whole call; take a block out, or put one in between, by its name."""

    model_name = "mojito"
    block_classes = [MojitoInputStep, MojitoPlanStep, MojitoGuideStep, MojitoDenoiseStep, MojitoDecodeStep]
    block_names = ["inputs", "plan", "guide", "denoise", "decode"]

    @property
    def description(self) -> str:
        return "Text to video with objects that follow boxes (Mojito, arXiv 2412.08948)."


class MojitoModularPipeline(WMModularPipeline):
    """The holder of the parts that the blocks work with; callbacks, FreeInit and FreeNoise are the pipeline's.

    Args:
        blocks: `MojitoBlocks` by default.
    """

    made_of = MojitoBlocks
    kinds = PARTS
    own = (VideoCrafterDDIMScheduler,)
    optional = frozenset(PARTS) - frozenset(REQUIRED)
    _steps: MojitoPipeline | None = None

    @property
    def steps(self) -> MojitoPipeline:
        """The pipeline over the same components, whose steps the blocks take one by one."""
        parts = self.components
        if self._steps is None or any(getattr(self._steps, name) is not part for name, part in parts.items()):
            settings = {name: self.config[name] for name in _Step.settings}
            self._steps = MojitoPipeline(**parts, **settings)
            self._steps.wm_config = self.wm_config
        self._steps.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return self._steps

    def fitted(self, parts: dict[str, Any]) -> dict[str, Any]:
        whole = MojitoPipeline(**parts)
        self.wm_config = whole.wm_config
        return {name: getattr(whole, name) for name in PARTS if getattr(whole, name) is not None}
