"""WM_CPLExplain: what would have to change in a picture's feature for another text to win."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import check_pipeline
from ._shared.types import CATEGORY, Pipeline, aliases, one_picture, pil_image

SPACES = ("unit", "raw")


class WM_CPLExplain(io.ComfyNode):
    """Finds the few entries of a picture's feature that make it another class."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_CPLExplain",
            display_name="WM CPL Explain",
            category=f"{CATEGORY}/measure",
            **aliases("counterfactual, interpret, clip, explanation"),
            description="Show which entries of a picture's CLIP feature, replaced by another picture's, make the "
            "other text win: the counterfactual that CPL learns from.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="From WM CPL Fit, or a CPL checkpoint by WM Load Pipeline."),
                io.Image.Input("positive", tooltip="One picture that shows positive_text."),
                io.Image.Input("negative", tooltip="One picture that shows negative_text."),
                io.String.Input("positive_text", default="red cube", tooltip="What the first picture shows."),
                io.String.Input("negative_text", default="blue sphere", tooltip="What the second picture shows."),
                io.Combo.Input(
                    "mask_space",
                    options=list(SPACES),
                    default="unit",
                    tooltip="Features of length one, or as the tower gives them, as in the published code.",
                ),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="A square for each entry: grey kept, red swapped, dark early."),
                io.Boolean.Output("flipped", tooltip="Whether the other text won in the end."),
                io.Float.Output("sparsity", tooltip="Share of the entries that were swapped."),
                io.String.Output("report", tooltip="All of this in words, with the entries in their order."),
            ],
        )

    @classmethod
    def execute(
        cls, pipeline: Any, positive: Any, negative: Any, positive_text: str, negative_text: str, mask_space: str
    ) -> io.NodeOutput:
        from wm_pipelines import CPLPipeline

        check_pipeline(pipeline, CPLPipeline, "use WM CPL Fit, or load a CPL checkpoint")
        found = pipeline.load(2, 0, 0).explain(
            one_picture(positive, "positive"),
            negative=one_picture(negative, "negative"),
            positive_text=positive_text.strip(),
            negative_text=negative_text.strip(),
            mask_space=mask_space,
        )
        verdict = f"{negative_text!r} wins" if found.flipped else f"{negative_text!r} does not win"
        report = (
            f"{len(found.swapped)} of {len(found.mask)} entries swapped ({found.sparsity:.1%}): {verdict} over "
            f"{positive_text!r}\nin their order: {', '.join(map(str, found.swapped))}"
        )
        return io.NodeOutput(pil_image(found.image), found.flipped, found.sparsity, report)


NODES = (WM_CPLExplain,)
