"""WM_EditScore: how much of the asked change an edit made, and how much it left alone."""

from typing import Any

from comfy_api.latest import io

from ._shared.types import CATEGORY, aliases, one_picture, pil_image


class WM_EditScore(io.ComfyNode):
    """Measures one edit against the truth, or against the source where there is none."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_EditScore",
            display_name="WM Edit Score",
            category=f"{CATEGORY}/measure",
            **aliases("benchmark, image edit, change"),
            description="Measure an edit: how much of the change it made, and how much else it left alone.",
            inputs=[
                io.Image.Input("source", tooltip="One picture, before the edit."),
                io.Image.Input("edited", tooltip="The edited picture, of the same size."),
                io.String.Input("action", default="", multiline=True, tooltip="What was asked for; for the table."),
                io.Image.Input("truth", optional=True, tooltip="What the action should lead to, if known."),
            ],
            outputs=[
                io.Float.Output("change", tooltip="Share of the change that was made; 0 for a copy, 1 for the truth."),
                io.Float.Output("preserve", tooltip="Share of what should stay that is as it should be."),
                io.Boolean.Output("copy", tooltip="Whether fewer than 0.5 % of the pixels differ from the source."),
                io.Image.Output("table", tooltip="The pictures with all figures beside those of a copy."),
            ],
        )

    @classmethod
    def execute(cls, source: Any, edited: Any, action: str, truth: Any = None) -> io.NodeOutput:
        from wm_pipelines.aurora_bench.measures import edit_score
        from wm_pipelines.aurora_bench.table import score_lines, score_sheet

        before, after = one_picture(source, "source"), one_picture(edited, "edited")
        wanted = None if truth is None else one_picture(truth, "truth")
        score = edit_score(before, after, wanted)
        if score.change is None:
            raise ValueError("truth is the source itself: nothing was asked for, so no change can be measured")
        lines = score_lines(score, edit_score(before, before, wanted))
        table = pil_image(score_sheet(before, after, wanted, action=action.strip(), lines=lines))
        return io.NodeOutput(score.change, score.preserve, score.copied, table)


NODES = (WM_EditScore,)
