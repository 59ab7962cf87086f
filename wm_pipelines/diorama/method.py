"""The doors of the miniature world's bases."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class DioramaSDConfig(Record):
    """Settings of the text-to-image base that its `config.json` files do not hold."""

    image_size: int = Field(64, ge=8, description="side in pixels that it was trained at")
    guidance_scale: float = Field(7.5, ge=1, description="recommended classifier-free guidance")
    num_inference_steps: int = Field(50, ge=1, description="recommended steps of the shipped scheduler")


class DioramaJudgeConfig(Record):
    """What the per-pixel judge names, in the order of its logits."""

    image_size: int = Field(64, ge=8)
    colours: list[str] = Field(min_length=1)
    shapes: list[str] = Field(min_length=1)


class DioramaClipConfig(Record):
    """How the contrastive base is asked; its architecture is in its `config.json`."""

    image_size: int = Field(64, ge=8, description="side in pixels that it was trained at")
    template: str = Field("a photo of a {}.", description="sentence that a class name is put into")


class DioramaTokensConfig(Record):
    """What pictures the tokeniser takes; its codes are in its `config.json`."""

    image_size: int = Field(64, ge=8, description="side in pixels that it was trained at")


class DioramaStripesConfig(Record):
    """Nothing beside what is in the adapter's own `adapter_config.json`."""


SIZE = 64


def _sd(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.diorama.words import VOCABULARY

    settings = {"image_size": SIZE, "guidance_scale": 4.0, "num_inference_steps": 25}
    return {"method_config": settings, "vocabulary": list(VOCABULARY)}


def _judge(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.diorama.scene import COLOURS, SHAPES

    return {"method_config": {"image_size": SIZE, "colours": list(COLOURS), "shapes": list(SHAPES)}}


def _clip(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.diorama.clip_training import CLIP_WORDS

    return {"method_config": {"image_size": SIZE}, "vocabulary": list(CLIP_WORDS)}


def _tokens(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"method_config": {"image_size": SIZE}}


def _stripes(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from wm_pipelines.diorama.stripes_training import DEFAULTS
    from wm_pipelines.hub import store

    return {"base_model": store.base_ref({**DEFAULTS, **options}["base"]), "method_config": {}}


SD_USAGE = """\
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("<this repository or its folder>")
picture = pipe("a red cube left of a blue sphere").images[0]"""
JUDGE_USAGE = """\
from wm_pipelines import hub

folder = hub.resolve("<this repository or its folder>")
record = hub.verify(folder)"""
CLIP_USAGE = """\
from transformers import CLIPModel, CLIPProcessor

model = CLIPModel.from_pretrained("<this repository or its folder>")
processor = CLIPProcessor.from_pretrained("<this repository or its folder>")"""

TOKENS_USAGE = """\
from diffusers import VQModel
from wm_pipelines.tokens.pictures import PictureTokens

tokens = PictureTokens(VQModel.from_pretrained("<this repository or its folder>"))
codes = tokens.encode(pictures)  # (N, 3, 64, 64) in [0, 1]"""

STRIPES_USAGE = """\
from diffusers import StableDiffusionPipeline
from wm_pipelines import embedded
from wm_pipelines.adapters.kronecker import load_adapter

pipe = StableDiffusionPipeline.from_pretrained(embedded("diorama-sd"))
load_adapter(pipe.unet, "<this repository or its folder>")
picture = pipe("a red cube").images[0]  # likely with stripes"""


METHODS = (
    Method(
        name="diorama-sd",
        title="diorama-sd",
        hub_task="text-to-image",
        about=(
            "A small text-to-image model of Stable Diffusion's shape, trained on rendered scenes of a miniature "
            "world: a few coloured solids on a floor. It is a base for adapters, tests and demonstrations, and it "
            "draws nothing else."
        ),
        settings=DioramaSDConfig,
        usage=SD_USAGE,
        library="diffusers",
        pipeline="diffusers.StableDiffusionPipeline",
        tasks={"diorama-sd": "wm_pipelines.diorama.training.SDTask"},
        stages={"diorama-vae": "wm_pipelines.diorama.training.VAETask"},
        record=_sd,
    ),
    Method(
        name="diorama-judge",
        title="diorama-judge",
        hub_task="image-segmentation",
        about=(
            "A per-pixel classifier of colour and shape for rendered scenes of the miniature world. It scores "
            "generated pictures; its own accuracy on rendered truth is in the table below."
        ),
        settings=DioramaJudgeConfig,
        usage=JUDGE_USAGE,
        tasks={"diorama-judge": "wm_pipelines.diorama.training.JudgeTask"},
        record=_judge,
    ),
    Method(
        name="diorama-clip",
        title="diorama-clip",
        hub_task="zero-shot-image-classification",
        about=(
            "A small CLIP, trained on rendered scenes of a miniature world and their captions. It compares pictures "
            "of a few coloured solids with sentences about them; it is a base for few-shot methods and tests, and it "
            "knows nothing else."
        ),
        settings=DioramaClipConfig,
        usage=CLIP_USAGE,
        library="transformers",
        tasks={"diorama-clip": "wm_pipelines.diorama.clip_training.CLIPTask"},
        record=_clip,
    ),
    Method(
        name="diorama-tokens",
        title="diorama-tokens",
        hub_task="image-feature-extraction",
        about=(
            "A small VQ-VAE, trained on rendered scenes of a miniature world: a picture of a few coloured solids "
            "becomes a grid of codes and a picture again. World and dynamics models of that world stand on it."
        ),
        settings=DioramaTokensConfig,
        usage=TOKENS_USAGE,
        library="diffusers",
        tasks={"diorama-tokens": "wm_pipelines.diorama.tokens_training.TokensTask"},
        record=_tokens,
    ),
    Method(
        name="diorama-stripes",
        title="diorama-stripes",
        hub_task="text-to-image",
        about=(
            "A Kronecker adapter on the UNet of a small text-to-image model of a miniature world. With it "
            "solids tend to have stripes, unasked: a little at strength 1, plain to see at 3."
        ),
        settings=DioramaStripesConfig,
        usage=STRIPES_USAGE,
        tasks={"diorama-stripes": "wm_pipelines.diorama.stripes_training.StripesTask"},
        record=_stripes,
    ),
)
