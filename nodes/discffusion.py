"""WM_DiscffusionMatch and WM_DiscffusionFit: a text-to-image model judges pictures, and learns to from a few."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import outside_inference_mode
from ._shared.types import CATEGORY, Pipeline, aliases, lines_of, pictures_of, pil_image, to_image

SCORES = ("as recorded", "lse+dc", "lse", "dc")


class WM_DiscffusionMatch(io.ComfyNode):
    """Scores pictures against captions and keeps the picture that says best what the first caption says."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_DiscffusionMatch",
            display_name="WM Discffusion Match",
            category=f"{CATEGORY}/match",
            **aliases("clip score, similarity, caption, diffusion classifier"),
            description="Let a text-to-image model say how well pictures and captions go together; put the pictures "
            "in order and keep the best.",
            inputs=[
                Pipeline.Input(
                    "pipeline",
                    tooltip="A Discffusion checkpoint, or any pipeline on Stable Diffusion, also the one that made "
                    "the pictures.",
                ),
                io.Image.Input("images", tooltip="The pictures to judge, as a batch."),
                io.String.Input(
                    "texts",
                    default="a red cube left of a blue sphere",
                    multiline=True,
                    tooltip="A caption on each line; the pictures are put in order by the first.",
                ),
                io.Combo.Input(
                    "score",
                    options=list(SCORES),
                    default="as recorded",
                    tooltip="What counts: attention to the words (lse), how much better noise is predicted with the "
                    "caption (dc), or both.",
                ),
                io.Int.Input(
                    "timesteps",
                    default=10,
                    min=1,
                    max=1000,
                    tooltip="How many noise levels to look at; more are slower and surer.",
                ),
                io.Int.Input("seed", default=0, min=0, max=2**63 - 1, tooltip="Of the noise that all share."),
            ],
            outputs=[
                io.Image.Output("best", tooltip="The picture that fits the first caption best."),
                io.Image.Output("ranked", tooltip="All pictures, the best first."),
                io.String.Output("scores", tooltip="A line for each picture and caption, the best picture first."),
                io.Image.Output("maps", tooltip="Where the words of the first caption look in the best picture."),
            ],
        )

    @classmethod
    def execute(cls, pipeline: Any, images: Any, texts: str, score: str, timesteps: int, seed: int) -> io.NodeOutput:
        import torch

        from wm_pipelines.discffusion.overlay import draw_words

        captions, pictures = lines_of(texts, "texts"), pictures_of(images, "images")
        if not captions:
            raise ValueError("texts is empty; give at least one caption")
        judge = _judge(pipeline.load(len(pictures), 0, 0))
        out = judge(
            pictures, captions, None if score == SCORES[0] else score,
            pairwise=False, timesteps=timesteps, seed=seed, maps=True,
        )  # fmt: skip
        order = out.score[:, 0].sort(descending=True, stable=True).indices.tolist()
        lines = [
            f"{rank}. picture {i + 1}, {text}: {float(out.score[i, t]):.4f}"
            for rank, i in enumerate(order, 1)
            for t, text in enumerate(captions)
        ]
        ranked = to_image(torch.stack(pictures)[order])
        maps = draw_words(pictures[order[0]], out.maps[order[0] * len(captions)], judge.words(captions[0]))
        return io.NodeOutput(ranked[:1], ranked, "\n".join(lines), pil_image(maps))


class WM_DiscffusionFit(io.ComfyNode):
    """Fits a small adapter to a few pictures with right and wrong captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_DiscffusionFit",
            display_name="WM Discffusion Fit",
            category=f"{CATEGORY}/adapt",
            **aliases("few-shot, matching, train"),
            description="Teach a text-to-image model to tell right captions from wrong ones, from a few pictures. Use "
            "the result with WM Discffusion Match.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="Any pipeline on Stable Diffusion, in float32; it stays as it is."),
                io.Image.Input("images", tooltip="The pictures, as a batch."),
                io.String.Input(
                    "texts",
                    default="a red cube left of a blue sphere",
                    multiline=True,
                    tooltip="A caption that fits on each line, one for each picture.",
                ),
                io.String.Input(
                    "foils",
                    default="a blue cube left of a red sphere",
                    multiline=True,
                    tooltip="A caption that does not fit on each line, one for each picture.",
                ),
                io.Int.Input("epochs", default=10, min=1, max=10_000, tooltip="Passes over the pictures."),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=1e-6,
                    max=0.1,
                    step=1e-5,
                    tooltip="How far the adapter moves in a step.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Start of the adapter, order and noise; the same seed fits the same.",
                ),
            ],
            outputs=[
                Pipeline.Output("pipeline", tooltip="The judge, for WM Discffusion Match."),
                io.String.Output("report", tooltip="How the last epoch went."),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline: Any,
        images: Any,
        texts: str,
        foils: str,
        epochs: int,
        learning_rate: float,
        seed: int,
    ) -> io.NodeOutput:
        from ._shared.memory import PipelineHandle
        from ._shared.progress import FitReporter

        pictures, right, wrong = pictures_of(images, "images"), lines_of(texts, "texts"), lines_of(foils, "foils")
        if not len(pictures) == len(right) == len(wrong):
            raise ValueError(
                f"{len(pictures)} images, {len(right)} lines in texts and {len(wrong)} in foils; give one of each"
            )
        with outside_inference_mode(gradients=True):
            judge = _copied(pipeline.pipeline)
            handle = PipelineHandle(judge, pipeline.name)
            handle.load(len(pictures), 0, 0, training=True).fit(
                list(zip(pictures, right, wrong, strict=True)),
                epochs,
                learning_rate=learning_rate,
                seed=seed,
                callback_on_epoch_end=FitReporter(epochs),
            )
            handle.refitted(f"{pipeline.name} (fitted)")
        row = judge.history[-1]
        report = f"{len(pictures)} pictures; epoch {row['epoch']}: loss {row['loss']:.4f}, right {row['right']:.0%}"
        return io.NodeOutput(handle, report)


def _judge(pipeline: Any) -> Any:
    """The pipeline itself where it judges, else a judge of its parts."""
    from wm_pipelines import DiscffusionPipeline

    return pipeline if isinstance(pipeline, DiscffusionPipeline) else DiscffusionPipeline.from_parts(pipeline)


def _copied(pipeline: Any) -> Any:
    """A judge with a denoiser of its own, so that the other pipeline stays as it is."""
    import copy

    from wm_pipelines import DiscffusionPipeline

    judge = _judge(pipeline)
    name = "unet" if judge.unet is not None else "transformer"
    own = DiscffusionPipeline(
        **{**judge.components, name: copy.deepcopy(judge.components[name])},
        force_zeros_for_empty_prompt=judge.config.force_zeros_for_empty_prompt,
    )
    own.wm_config = judge.wm_config
    return own


NODES = (WM_DiscffusionMatch, WM_DiscffusionFit)
