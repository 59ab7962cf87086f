"""WM_IntrinsicDimension: how few directions each part of a CLIP needs to learn a task."""

from types import SimpleNamespace
from typing import Any

from comfy_api.latest import io

from ._shared import folders
from ._shared.classifiers import clip_fingerprint, clip_input
from ._shared.guards import outside_inference_mode
from ._shared.types import CATEGORY, aliases, lines_of, pictures_of, pil_image

PROJECTIONS = ("fastfood", "dense", "sparse")


class WM_IntrinsicDimension(io.ComfyNode):
    """Measures the local intrinsic dimension of a CLIP image tower's layers on labelled pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_IntrinsicDimension",
            display_name="WM Intrinsic Dimension",
            category=f"{CATEGORY}/measure",
            **aliases("lid, subspace training, which layers, kadaptation"),
            description="Measure which layers of a CLIP learn your classes in the fewest directions: those to adapt. "
            "Trains many times, so it takes long.",
            inputs=[
                clip_input(
                    "The CLIP to measure: the embedded one, or a folder under models/wm_pipelines. It stays as it is."
                ),
                io.Image.Input("images", tooltip="Labelled pictures as a batch, three of each class or more."),
                io.String.Input("labels", default="red\nblue", multiline=True, tooltip="Their classes, one a line."),
                io.Int.Input("seeds", default=3, min=1, max=20, tooltip="How often everything is repeated."),
                io.Int.Input("steps", default=100, min=1, max=100_000, tooltip="Of every training."),
                io.Int.Input(
                    "max_dim",
                    default=256,
                    min=1,
                    max=1_000_000,
                    tooltip="The most directions that are tried; a layer that needs more has no dimension.",
                ),
                io.Combo.Input(
                    "projection",
                    options=list(PROJECTIONS),
                    default="fastfood",
                    tooltip="How the random directions are made; fastfood keeps none of them in memory.",
                ),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="Accuracy over the number of directions, a line for each layer."),
                io.String.Output("report", tooltip="The layers, lowest first, with what training all of each gains."),
                io.String.Output("json", tooltip="Everything that was measured."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, base: str, **_: Any) -> str:
        return clip_fingerprint(base)

    @classmethod
    def execute(
        cls, base: str, images: Any, labels: str, seeds: int, steps: int, max_dim: int, projection: str
    ) -> io.NodeOutput:
        import json

        from wm_pipelines.clip.parts import image_processor, preprocess
        from wm_pipelines.kadaptation.subspace.labelled import measure_labelled
        from wm_pipelines.kadaptation.subspace.run import load_tower

        from ._shared.memory import PipelineHandle

        folder = folders.resolve_clip(base, folders.model_roots())
        pictures, names = pictures_of(images, "images"), lines_of(labels, "labels")
        processor = image_processor(folder)
        with outside_inference_mode(gradients=True):
            tower = load_tower(folder, len(set(names)))
            parts = SimpleNamespace(components={"tower": tower}, activation_bytes=lambda count, training: 2**28)
            PipelineHandle(parts, base).load(len(pictures), 0, 0, training=True)
            found = measure_labelled(
                tower,
                lambda some: preprocess(processor, some),
                pictures,
                labels=names,
                projection=projection,
                seeds=seeds,
                steps=steps,
                max_dim=max_dim,
                points=_Points(),
            )
        return io.NodeOutput(pil_image(found.picture()), "\n".join(found.describe()), json.dumps(found.to_dict()))


class _Points(dict):
    """Points of the measurement as they come: between two of them Cancel works."""

    def __setitem__(self, key: Any, scores: list[float]) -> None:
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()
        super().__setitem__(key, scores)


NODES = (WM_IntrinsicDimension,)
