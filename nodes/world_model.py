"""WM_WorldStep and WM_WorldRollout: what actions make of a picture."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import check_pipeline
from ._shared.ranking import ranked
from ._shared.types import CATEGORY, Pipeline, aliases, lines_of, one_picture, to_image

RESIZES = ("none", "pad", "crop")
WORLD, DYNAMICS = "load a world model", "load a dynamics model"


def _sampling() -> list:
    return [
        io.Int.Input(
            "num_candidates", default=4, min=1, max=64, tooltip="How many to draw; four are the first four of eight."
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**63 - 1,
            control_after_generate=True,
            tooltip="The same seed draws the same candidates.",
        ),
        io.Float.Input(
            "temperature",
            default=1.0,
            min=0.0,
            max=2.0,
            step=0.05,
            tooltip="How freely codes are drawn; 0 takes the likeliest, and low values copy the source.",
        ),
    ]


def _resize() -> Any:
    return io.Combo.Input(
        "resize",
        options=list(RESIZES),
        default="none",
        tooltip="What to do with a picture of another size than the model's: refuse, pad or crop it.",
    )


def _verifier() -> Any:
    return Pipeline.Input(
        "verifier", optional=True, tooltip="A dynamics model that ranks the candidates; without one nothing is ranked."
    )


def _loaded(handle: Any, count: int) -> Any:
    from wm_pipelines import DynamicsModelPipeline

    if handle is None:
        return None
    check_pipeline(handle, DynamicsModelPipeline, DYNAMICS)
    return handle.load(count + 1, 0, 0)


class WM_WorldStep(io.ComfyNode):
    """Draws what an action makes of a picture, best candidate first."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_WorldStep",
            display_name="WM World Step",
            category=f"{CATEGORY}/world",
            **aliases("image edit, action, next frame"),
            description="Draw what an action in words makes of a picture, several times, and rank the candidates.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A world model from WM Load Pipeline."),
                io.Image.Input("image", tooltip="One picture, the state before the action."),
                io.String.Input(
                    "action",
                    default="move the red cube to the left",
                    multiline=True,
                    tooltip="What happens, in words: one action.",
                ),
                *_sampling(),
                io.Int.Input(
                    "min_changed",
                    default=1,
                    min=0,
                    max=4096,
                    tooltip="Places that must differ from the source; a candidate with fewer is a near copy.",
                ),
                io.Float.Input(
                    "min_margin",
                    default=0.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    tooltip="By how much the best score must lie above that of the source itself to be accepted.",
                ),
                _resize(),
                _verifier(),
            ],
            outputs=[
                io.Image.Output("images", tooltip="All candidates, the best one first."),
                io.String.Output("scores", tooltip="A line for each candidate in that order, then the verdict."),
                io.Image.Output("heat_map", tooltip="Each candidate in grey, with what changed in red."),
                io.Boolean.Output("accepted", tooltip="Whether the best one changed enough and beats the copy."),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline: Any,
        image: Any,
        action: str,
        num_candidates: int,
        seed: int,
        temperature: float,
        min_changed: int,
        min_margin: float,
        resize: str,
        verifier: Any = None,
    ) -> io.NodeOutput:
        import torch

        from wm_pipelines import WorldModelPipeline
        from wm_pipelines.world_model.selection import Gate

        check_pipeline(pipeline, WorldModelPipeline, WORLD)
        judge = _loaded(verifier, num_candidates)
        out = pipeline.load(num_candidates, 0, 0)(
            one_picture(image, "image"),
            action,
            num_candidates=num_candidates,
            verifier=judge,
            generator=torch.Generator("cpu").manual_seed(seed),
            temperature=temperature,
            gate=Gate(min_changed=min_changed, min_margin=min_margin),
            resize=None if resize == "none" else resize,
            output_type="pt",
        )
        return ranked(out)


class WM_WorldRollout(io.ComfyNode):
    """Draws one picture after another, each from an action on the one before."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_WorldRollout",
            display_name="WM World Rollout",
            category=f"{CATEGORY}/world",
            **aliases("actions, video, planning"),
            description="Carry out actions one after another, each on the picture that the one before left.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A world model from WM Load Pipeline."),
                io.Image.Input("image", tooltip="One picture, the first state."),
                io.String.Input(
                    "actions",
                    default="move the red cube to the left\nmake the red cube blue",
                    multiline=True,
                    tooltip="One action on each line, in the order in which they happen.",
                ),
                *_sampling(),
                io.Int.Input(
                    "history", default=0, min=0, max=16, tooltip="How many earlier steps the model sees too."
                ),
                _resize(),
                _verifier(),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The picture that each action left, in order."),
                io.String.Output("report", tooltip="A line for each action, and whether a candidate passed."),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline: Any,
        image: Any,
        actions: str,
        num_candidates: int,
        seed: int,
        temperature: float,
        history: int,
        resize: str,
        verifier: Any = None,
    ) -> io.NodeOutput:
        import torch

        from wm_pipelines import WorldModelPipeline

        check_pipeline(pipeline, WorldModelPipeline, WORLD)
        said, judge = lines_of(actions, "actions"), _loaded(verifier, num_candidates)
        steps = pipeline.load(num_candidates, 0, 0).rollout(
            one_picture(image, "image"),
            said,
            num_candidates=num_candidates,
            verifier=judge,
            generator=torch.Generator("cpu").manual_seed(seed),
            temperature=temperature,
            history=history,
            resize=None if resize == "none" else resize,
            output_type="pt",
        )
        pictures = torch.cat([step.images[0] for step in steps])
        words = {True: "accepted", False: "no candidate passes"}
        lines = [f"{action}: {words[bool(step.accepted[0])]}" for action, step in zip(said, steps, strict=True)]
        return io.NodeOutput(to_image(pictures), "\n".join(lines))


NODES = (WM_WorldStep, WM_WorldRollout)
