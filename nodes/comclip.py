"""WM_ComCLIPMatch: how well a picture and a caption go together, by the parts that the caption names."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import check_pipeline
from ._shared.types import CATEGORY, Pipeline, aliases, one_picture, to_image
from ._shared.wording import reworded

FUSIONS = ("released", "gclip", "late", "equal")
MISSING = ("full", "blank")


class WM_ComCLIPMatch(io.ComfyNode):
    """Scores one picture against one caption and shows what each part of the caption saw."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_ComCLIPMatch",
            display_name="WM ComCLIP Match",
            category=f"{CATEGORY}/match",
            **aliases("clip score, similarity, caption, composition"),
            description="Score a picture against a caption by the things and relations that the caption names, beside "
            "the plain similarity.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A ComCLIP checkpoint from WM Load Pipeline."),
                io.Image.Input("image", tooltip="One picture, of any size."),
                io.String.Input(
                    "text",
                    default="a red cube left of a blue sphere",
                    multiline=True,
                    tooltip="The caption. Its nouns, verbs and prepositions become the parts.",
                ),
                io.String.Input(
                    "boxes",
                    default="",
                    multiline=True,
                    tooltip='Where things are, as JSON in pixels: {"red cube": [[x0, y0, x1, y1]]}. Empty: no boxes.',
                ),
                io.Combo.Input(
                    "fusion",
                    options=list(FUSIONS),
                    default="released",
                    tooltip="How parts join the whole: the authors' weighted sum, without normalisation (gclip), a "
                    "mean of cosines (late), or all alike (equal).",
                ),
                io.Combo.Input(
                    "missing",
                    options=list(MISSING),
                    default="full",
                    tooltip="What a part without a box sees: the whole picture, as in the authors' code, or black.",
                ),
            ],
            outputs=[
                io.Float.Output("score", tooltip="How well they go together, in [-1, 1]."),
                io.Float.Output("baseline", tooltip="The plain similarity of the same picture and caption."),
                io.Image.Output("subimages", tooltip="What each part saw; the picture where there is no part."),
                io.String.Output("report", tooltip="The weight of each sub-image, then what was missing."),
            ],
        )

    @classmethod
    def validate_inputs(cls, boxes: str = "") -> bool | str:
        try:
            _read(boxes)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, pipeline: Any, image: Any, text: str, boxes: str, fusion: str, missing: str) -> io.NodeOutput:
        import warnings

        from wm_pipelines import ComCLIPPipeline
        from wm_pipelines.comclip.overlay import stack_subimages

        check_pipeline(pipeline, ComCLIPPipeline, "load a ComCLIP checkpoint")
        picture = one_picture(image, "image")
        with warnings.catch_warnings(action="ignore"):  # the report says it
            out = pipeline.load(1, 0, 0)(picture, text, _read(boxes), fusion=fusion, missing=missing)
        subimages, lines = stack_subimages(picture, out)
        score, baseline = float(out.score[0]), float(out.baseline[0])
        notes = [reworded(failure.message) for failure in out.failures] + _unused(_read(boxes), out.components[0])
        lines += [note for note in notes if note not in "\n".join(lines)]
        return io.NodeOutput(score, baseline, to_image(subimages), "\n".join(lines), ui={"wm_notes": notes})


def _read(boxes: str) -> dict | None:
    """The boxes of the text field, None where it is empty."""
    from wm_pipelines.runtime.readers import parse_json

    if not boxes.strip():
        return None
    try:
        read = parse_json(boxes)
    except ValueError as error:
        raise ValueError(f"boxes is no JSON: {error}") from None
    if not isinstance(read, dict):
        raise ValueError(f'boxes must be a JSON object such as {{"red cube": [[0, 0, 9, 9]]}}, got {boxes.strip()!r}')
    return read


def _unused(boxes: dict | None, parts: Any) -> list[str]:
    """A sentence for each name with boxes that no part of the caption looked into."""
    seen = {tuple(map(float, box)) for part in parts for box in part.boxes}
    return [
        f"boxes names {name!r}, but no thing of the caption is called so: its boxes are not looked into"
        for name, listed in (boxes or {}).items()
        if not seen & {tuple(map(float, box)) for box in listed}
    ]


NODES = (WM_ComCLIPMatch,)
