"""WM_CPLFit and WM_CPLClassify: a few labelled pictures make a prompt, which then reads any class names."""

from typing import Any

from comfy_api.latest import io

from ._shared import folders
from ._shared.classifiers import clip_fingerprint, clip_input, ranked_lines
from ._shared.guards import check_pipeline, outside_inference_mode
from ._shared.types import CATEGORY, Pipeline, aliases, lines_of, pictures_of

VARIANTS = ("released", "paper")


class WM_CPLFit(io.ComfyNode):
    """Fits a soft prompt for a frozen CLIP to a few labelled pictures, with counterfactual negatives."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_CPLFit",
            display_name="WM CPL Fit",
            category=f"{CATEGORY}/adapt",
            **aliases("few-shot, classifier, prompt learning, clip, train"),
            description="Fit a prompt to a few labelled pictures of each class. Use the result with WM CPL Classify, "
            "for these classes and for new ones.",
            inputs=[
                clip_input(
                    "The CLIP to fit on: the embedded one, or a folder under models/wm_pipelines as the Hub "
                    "keeps a CLIPModel. It stays as it is."
                ),
                io.Image.Input("images", tooltip="The labelled pictures, as a batch; one to sixteen a class."),
                io.String.Input(
                    "labels",
                    default="red cube\nblue sphere",
                    multiline=True,
                    tooltip="One line for each picture of the batch, in its order: the name of its class.",
                ),
                io.Combo.Input(
                    "variant",
                    options=list(VARIANTS),
                    default="released",
                    tooltip="Form of the counterfactual loss: that of the published code, or that of the paper.",
                ),
                io.Float.Input(
                    "lambda_cf",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Weight of the counterfactual loss; 0 is CoCoOp, the method without it.",
                ),
                io.Int.Input("epochs", default=10, min=1, max=1000, tooltip="How often to go through the pictures."),
                io.Float.Input(
                    "learning_rate",
                    default=0.002,
                    min=0.00001,
                    max=1.0,
                    step=0.0005,
                    round=0.00001,
                    tooltip="Step size of the optimiser; the authors' value is 0.002.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Order, crops and negatives of the fit; the same seed fits the same.",
                ),
            ],
            outputs=[
                Pipeline.Output("pipeline", tooltip="The fitted prompt on its CLIP, for WM CPL Classify."),
                io.String.Output(
                    "report", tooltip="The classes, which was the other's negative, and loss of each epoch."
                ),
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
        variant: str,
        lambda_cf: float,
        epochs: int,
        learning_rate: float,
        seed: int,
    ) -> io.NodeOutput:
        from wm_pipelines import CPLPipeline

        from ._shared.memory import PipelineHandle
        from ._shared.progress import FitReporter

        folder = folders.resolve_clip(base, folders.model_roots())
        with outside_inference_mode(gradients=True):
            pipeline = CPLPipeline.from_clip(folder, local_files_only=True)
            pictures, named = pictures_of(images, "images"), lines_of(labels, "labels")
            handle = PipelineHandle(pipeline, base)
            handle.load(len(pictures), 0, 0, training=True).fit(
                pictures,
                named,
                variant=variant,
                lambda_cf=lambda_cf,
                epochs=epochs,
                learning_rate=learning_rate,
                seed=seed,
                callback_on_step_end=FitReporter(epochs * len(pictures)),
            )
            handle.refitted(f"{base} (fitted)")
        lines = [f"{len(pictures)} pictures, classes: {', '.join(sorted(set(named)))}"]
        lines += [f"negative of {name}: {other}" for name, other in pipeline.negatives.items()]
        lines += [f"epoch {i + 1}: loss {row['loss']:.4f}" for i, row in enumerate(pipeline.history)]
        return io.NodeOutput(handle, "\n".join(lines))


class WM_CPLClassify(io.ComfyNode):
    """Compares each picture of a batch with class names, known or new."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_CPLClassify",
            display_name="WM CPL Classify",
            category=f"{CATEGORY}/adapt",
            **aliases("few-shot, classifier, clip, tag"),
            description="Compare each picture with class names, those of the fit or new ones, and name the likeliest.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="From WM CPL Fit, or a CPL checkpoint by WM Load Pipeline."),
                io.Image.Input("images", tooltip="The pictures to classify, as a batch."),
                io.String.Input(
                    "class_names",
                    default="red cube\nblue sphere",
                    multiline=True,
                    tooltip="What to compare with, one a line: class names, captions or statements.",
                ),
            ],
            outputs=[
                io.String.Output("labels", tooltip="The likeliest text for each picture, one a line."),
                io.String.Output("report", tooltip="A line for each picture: every text with its probability."),
            ],
        )

    @classmethod
    def execute(cls, pipeline: Any, images: Any, class_names: str) -> io.NodeOutput:
        from wm_pipelines import CPLPipeline

        check_pipeline(pipeline, CPLPipeline, "use WM CPL Fit, or load a CPL checkpoint")
        pictures, names = pictures_of(images, "images"), lines_of(class_names, "class_names")
        output = pipeline.load(len(pictures), 0, 0)(pictures, names)
        return io.NodeOutput("\n".join(output.labels), ranked_lines(output.probs, names))


NODES = (WM_CPLFit, WM_CPLClassify)
