"""WM_KAdaptationFit and WM_KAdaptationClassify: a few labelled pictures make a classifier for more of them."""

from typing import Any

from comfy_api.latest import io

from ._shared import folders
from ._shared.classifiers import clip_fingerprint, clip_input, ranked_lines
from ._shared.guards import check_pipeline, outside_inference_mode
from ._shared.types import CATEGORY, Pipeline, aliases, lines_of, pictures_of


class WM_KAdaptationFit(io.ComfyNode):
    """Fits a CLIP to a few labelled pictures by a Kronecker adapter and a head."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_KAdaptationFit",
            display_name="WM KAdaptation Fit",
            category=f"{CATEGORY}/adapt",
            **aliases("few-shot, classifier, train, fine-tune, clip, lora"),
            description="Fit a CLIP to a few labelled pictures of each class. Use the result with WM KAdaptation "
            "Classify.",
            inputs=[
                clip_input(
                    "The CLIP to fit: the embedded one, or a folder under models/wm_pipelines as the Hub "
                    "keeps a CLIPModel."
                ),
                io.Image.Input("images", tooltip="The labelled pictures, as a batch; five to sixteen a class."),
                io.String.Input(
                    "labels",
                    default="red\nblue",
                    multiline=True,
                    tooltip="One line for each picture of the batch, in its order: the name of its class.",
                ),
                io.String.Input(
                    "template",
                    default="a photo of a {}.",
                    tooltip="A sentence with {} for the name of the class: the classifier starts from it.",
                ),
                io.Int.Input(
                    "epochs",
                    default=50,
                    min=0,
                    max=10_000,
                    tooltip="How often to go through the pictures; 0 classifies by the names alone.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Start of the adapter and order of the pictures; the same seed fits the same.",
                ),
                io.Int.Input(
                    "n",
                    default=32,
                    min=1,
                    max=1024,
                    tooltip="Size of the factors that all layers share; it must divide the width of the CLIP.",
                ),
                io.String.Input(
                    "class_names",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="The classes, one a line, to fix their order or to name one without a picture. Empty "
                    "takes the names in labels.",
                ),
            ],
            outputs=[
                Pipeline.Output("pipeline", tooltip="The classifier, for WM KAdaptation Classify."),
                io.String.Output("report", tooltip="The classes, and loss and accuracy of the last epoch."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, base: str, **_: Any) -> str:
        return clip_fingerprint(base)

    @classmethod
    def execute(
        cls,
        base: str,
        images: Any,
        labels: str,
        template: str,
        epochs: int,
        seed: int,
        n: int,
        class_names: str = "",
    ) -> io.NodeOutput:
        from wm_pipelines import KAdaptationPipeline, KroneckerConfig

        from ._shared.memory import PipelineHandle
        from ._shared.progress import FitReporter

        folder = folders.resolve_clip(base, folders.model_roots())
        with outside_inference_mode(gradients=True):
            pipeline = KAdaptationPipeline.from_clip(folder, local_files_only=True)
            pictures = pictures_of(images, "images")
            handle = PipelineHandle(pipeline, base)
            handle.load(len(pictures), 0, 0, training=True).fit(
                pictures,
                lines_of(labels, "labels"),
                class_names=lines_of(class_names, "class_names") or None,
                templates=(template,),
                epochs=epochs,
                seed=seed,
                config=KroneckerConfig(n=n),
                callback_on_epoch_end=FitReporter(epochs),
            )
            handle.refitted(f"{base} (fitted)")
        lines = [f"{len(pictures)} pictures, classes: {', '.join(pipeline.head.config.class_names)}"]
        lines += [f"epoch {row['epoch']}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.2%}"
                  for row in pipeline.history[-1:]]  # fmt: skip
        return io.NodeOutput(handle, "\n".join(lines))


class WM_KAdaptationClassify(io.ComfyNode):
    """Names the class of each picture of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_KAdaptationClassify",
            display_name="WM KAdaptation Classify",
            category=f"{CATEGORY}/adapt",
            **aliases("few-shot, classifier, clip, tag"),
            description="Name the class of each picture, with its probabilities.",
            inputs=[
                Pipeline.Input(
                    "pipeline", tooltip="From WM KAdaptation Fit, or a KAdaptation checkpoint by WM Load Pipeline."
                ),
                io.Image.Input("images", tooltip="The pictures to classify, as a batch."),
            ],
            outputs=[
                io.String.Output("labels", tooltip="The likeliest class of each picture, one a line."),
                io.String.Output("report", tooltip="A line for each picture: every class with its probability."),
            ],
        )

    @classmethod
    def execute(cls, pipeline: Any, images: Any) -> io.NodeOutput:
        from wm_pipelines import KAdaptationPipeline

        check_pipeline(pipeline, KAdaptationPipeline, "use WM KAdaptation Fit, or load a KAdaptation checkpoint")
        pictures = pictures_of(images, "images")
        output = pipeline.load(len(pictures), 0, 0)(pictures)
        names = pipeline.pipeline.head.config.class_names
        return io.NodeOutput("\n".join(output.labels), ranked_lines(output.probs, names))


NODES = (WM_KAdaptationFit, WM_KAdaptationClassify)
