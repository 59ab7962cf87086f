"""WM_LoadVideoModel, WM_VideoQuiz and WM_DioramaClip: a question about a video, and clips whose truth is known."""

from typing import Any

from comfy_api.latest import io

from ._shared import folders
from ._shared.guards import check_pipeline, outside_inference_mode
from ._shared.types import CATEGORY, Pipeline, aliases, lines_of, rgb_of, to_image
from .mojito._sockets import Trajectory

NONE = "none found"
LAYOUTS = ("images", "grid")
DTYPES = ("auto", "float32", "float16", "bfloat16")
FAMILIES = (
    "translation", "translation_picture", "translation_object", "rotation", "counting", "absent", "order", "procedure",
    "explanation", "attribution", "counterfactual", "future",
)  # fmt: skip

Quiz = io.Custom("WM_QUIZ")
"""A `wm_pipelines.evaluation.mcq.items.Item`."""


class WM_LoadVideoModel(io.ComfyNode):
    """Loads a model that reads pictures and text, and hands its weights to ComfyUI's memory manager."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        models = folders.list_vlms(folders.model_roots()) or [NONE]
        return io.Schema(
            node_id="WM_LoadVideoModel",
            display_name="WM Load Video Model",
            category=f"{CATEGORY}/measure",
            **aliases("vlm, llava, qwen, load"),
            description="Load a vision-language model: an embedded one, or a folder under models/wm_pipelines as "
            "transformers keeps it.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=models,
                    default=models[0],
                    tooltip="An embedded model, or a folder under models/wm_pipelines.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="images",
                    tooltip="How frames are given: one by one, or all on one picture for a model that takes only one.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="Number format of the weights; auto is what the checkpoint says.",
                ),
            ],
            outputs=[Pipeline.Output("pipeline", tooltip="The loaded model, for WM Video Quiz.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, **_: Any) -> str:
        return repr(folders.fingerprint(folders.resolve_vlm(model, folders.model_roots())))

    @classmethod
    def execute(cls, model: str, layout: str, dtype: str) -> io.NodeOutput:
        from wm_pipelines.evaluation.mcq.pipeline import VideoMCQPipeline

        from ._shared.memory import PipelineHandle

        source = folders.resolve_vlm(model, folders.model_roots())
        with outside_inference_mode():
            kind = None if dtype == "auto" else dtype
            pipeline = VideoMCQPipeline.from_model(source, layout, device="cpu", dtype=kind)
        return io.NodeOutput(PipelineHandle(pipeline, model))


class WM_VideoQuiz(io.ComfyNode):
    """Asks a multiple-choice question about a clip, about the clip reversed and mirrored, and without it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_VideoQuiz",
            display_name="WM Video Quiz",
            category=f"{CATEGORY}/measure",
            **aliases("vqa, benchmark, video question, vlm"),
            description="Ask a question about a video, and again about the video reversed, mirrored and left out: "
            "which tells whether the model sees it or guesses.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A model from WM Load Video Model."),
                io.String.Input(
                    "question",
                    default="which way does the red cube move over the floor?",
                    multiline=True,
                    tooltip="One question about the clip.",
                ),
                io.String.Input(
                    "options",
                    default="left\nright\ntowards the camera\naway from the camera",
                    multiline=True,
                    tooltip="Two to five answers to choose from, one on each line.",
                ),
                io.Int.Input(
                    "num_frames", default=8, min=1, max=64, tooltip="Frames that the model is shown, evenly spread."
                ),
                io.Image.Input("images", optional=True, tooltip="The frames of the clip in order; or give a video."),
                io.Video.Input("video", optional=True, tooltip="The clip; or give its frames as images."),
                Quiz.Input(
                    "quiz",
                    optional=True,
                    tooltip="From WM Diorama Clip: its question and options are asked in place of the texts here, and "
                    "the report says what is right.",
                ),
            ],
            outputs=[
                io.String.Output("answer", tooltip="The likeliest option for the clip as it is."),
                io.String.Output("probabilities", tooltip="Each option with its probability for the clip as it is."),
                io.String.Output("reversed", tooltip="The likeliest option for the clip played backwards."),
                io.String.Output("mirrored", tooltip="The likeliest option with left and right exchanged."),
                io.String.Output("report", tooltip="All options and probabilities for all four, as a table."),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline: Any,
        question: str,
        options: str,
        num_frames: int,
        images: Any = None,
        video: Any = None,
        quiz: Any = None,
    ) -> io.NodeOutput:
        from wm_pipelines.evaluation.mcq.pipeline import VideoMCQPipeline

        check_pipeline(pipeline, VideoMCQPipeline, "load a model with WM Load Video Model")
        if (images is None) == (video is None):
            raise ValueError("connect either images or video, and not both")
        frames = images if video is None else video.get_components().images
        shown = rgb_of(frames, "images" if video is None else "video").movedim(1, -1)
        clip = (shown.clamp(0, 1) * 255).round().byte().cpu().numpy()
        choices = lines_of(options, "options") if quiz is None else list(quiz.options.values())
        question = question if quiz is None else quiz.question
        found = {one.shown: one for one in pipeline.load(num_frames, 0, 0).quiz(clip, question, choices, num_frames)}
        lines = [f"{choice}: {p:.3f}" for choice, p in zip(choices, found["as it is"].probabilities, strict=True)]
        table = ["as it is / reversed / mirrored / without it"]
        for n, choice in enumerate(choices):
            table.append(f"{choice}: " + " / ".join(f"{one.probabilities[n]:.3f}" for one in found.values()))
        table += [] if quiz is None else [f"right: {' / '.join(right_answers(quiz))}"]
        answers = [found[name].answer for name in ("reversed", "mirrored")]
        return io.NodeOutput(found["as it is"].answer, "\n".join(lines), *answers, "\n".join(table))


def right_answers(item: Any) -> list[str]:
    """What is right of a clip, of it reversed and of it mirrored; a dash where nothing is."""
    twins = [item.twin("reverse"), item.twin("mirror")]
    return [item.options[item.answer], *("-" if twin is None else item.options[twin[1][0]] for twin in twins)]


class WM_DioramaClip(io.ComfyNode):
    """Makes a clip of the miniature world with a question whose truth is known exactly."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_DioramaClip",
            display_name="WM Diorama Clip",
            category=f"{CATEGORY}/measure",
            **aliases("test video, benchmark, synthetic"),
            description="Make a clip of a miniature world, a question about it, its right answer, and the boxes of "
            "what is in it.",
            inputs=[
                io.Combo.Input(
                    "family",
                    options=list(FAMILIES),
                    default="translation",
                    tooltip="What is asked. The last four are about pushes and falls and need the physics engine.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=True,
                    tooltip="Which clip and question; the same seed gives the same on every machine.",
                ),
                io.Int.Input("frames", default=16, min=8, max=64, tooltip="Frames of the clip."),
                io.Int.Input("size", default=128, min=16, max=512, tooltip="Side of a frame in pixels."),
                io.Boolean.Input(
                    "counter_world",
                    default=False,
                    tooltip="The same in a world against common sense; for counterfactual and future only.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The frames in order."),
                io.Video.Output("video", tooltip="The same frames as a video, 8 a second."),
                io.String.Output("question", tooltip="What is asked about the clip."),
                io.String.Output("options", tooltip="The answers to choose from, one on each line."),
                io.String.Output("answer", tooltip="The right one."),
                Trajectory.Output("trajectory", tooltip="The box of each thing in every frame, for Mojito's nodes."),
                Quiz.Output("quiz", tooltip="Question, options and all truths together, for WM Video Quiz."),
            ],
        )

    @classmethod
    def execute(cls, family: str, seed: int, frames: int, size: int, counter_world: bool) -> io.NodeOutput:
        from fractions import Fraction

        import torch
        from comfy_api.latest import InputImpl, Types

        from wm_pipelines.diorama.questions import sample_question
        from wm_pipelines.diorama.quiz import boxes_of, quiz_item
        from wm_pipelines.mojito.trajectories.objects import MotionObject

        world = "counter" if counter_world else "normal"
        drawn = sample_question(family, "quiz", seed, 0, frames=frames, world=world)
        item = quiz_item(drawn, subset=world, id=str(seed), size=size)
        images = to_image(torch.from_numpy(item.video()).permute(0, 3, 1, 2) / 255)
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(8)))
        options = "\n".join(item.options.values())
        boxes = tuple(MotionObject(words, boxes=b) for words, b in boxes_of(drawn).items())
        outputs = (images, video, item.question, options, item.options[item.answer], boxes, item)
        return io.NodeOutput(*outputs)


NODES = (WM_LoadVideoModel, WM_VideoQuiz, WM_DioramaClip)
