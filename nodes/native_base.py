"""WM_NativeBase: the base of a pipeline becomes MODEL, CLIP and VAE."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import outside_inference_mode
from ._shared.types import CATEGORY, Pipeline, aliases


class WM_NativeBase(io.ComfyNode):
    """The base of a pipeline for KSampler and whatever goes with it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_NativeBase",
            display_name="WM Native Base",
            category=f"{CATEGORY}/control",
            **aliases("load checkpoint, diffusers loader, convert, ksampler"),
            description="Give the base of a loaded pipeline to KSampler and other native nodes: a model, a text "
            "encoder and a VAE with the same weights.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A pipeline on a base of the kind of Stable Diffusion 1.x or 2.x.")
            ],
            outputs=[
                io.Model.Output("model", tooltip="For KSampler, LoRA, WM FlexEControl Apply and WM Mojito Apply."),
                io.Clip.Output("clip", tooltip="The base's own words: the embedded one knows a small vocabulary."),
                io.Vae.Output("vae", tooltip="Its latents may be another part of the picture's size than an eighth."),
                io.String.Output(
                    "report", tooltip="Pixels of a picture for one cell of its latent, and the own size."
                ),
            ],
        )

    @classmethod
    def execute(cls, pipeline: Any) -> io.NodeOutput:
        from ._native_base import check_shape, clip_of, model_of, vae_of

        base = pipeline.pipeline
        check_shape(base)
        with outside_inference_mode():
            vae = vae_of(base)
            made = model_of(base), clip_of(base), vae
        cell, side = vae.downscale_ratio, base.unet.config.sample_size
        report = f"{cell} pixels a cell, {side * cell} x {side * cell}: {side * 8} x {side * 8} in Empty Latent Image"
        return io.NodeOutput(*made, report)


NODES = (WM_NativeBase,)
