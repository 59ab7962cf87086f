"""WM_ComCLIPMatch: how well pictures and captions go together, by the parts that the captions name."""

from typing import Any

from comfy_api.latest import io

from ._shared.detections import boxes_of_bbox, boxes_of_segs
from ._shared.guards import check_pipeline
from ._shared.types import CATEGORY, Pipeline, Segs, aliases, lines_of, pictures_of, to_image
from ._shared.wording import reworded

FUSIONS = ("released", "gclip", "late", "equal")
MISSING = ("full", "blank")
NAMED = "named"
BOX_FORMATS = (NAMED, "xywh", "xyxy")


class WM_ComCLIPMatch(io.ComfyNode):
    """Scores every picture against every caption and shows what each part of the first caption saw in the best."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_ComCLIPMatch",
            display_name="WM ComCLIP Match",
            category=f"{CATEGORY}/match",
            **aliases("clip score, similarity, caption, composition"),
            description="Score pictures against captions by the things and relations that a caption names, beside "
            "the plain similarity; put the pictures in order and keep the best.",
            inputs=[
                Pipeline.Input("pipeline", tooltip="A ComCLIP checkpoint from WM Load Pipeline."),
                io.Image.Input("image", tooltip="One picture, or a batch that is put in order by the first caption."),
                io.String.Input(
                    "text",
                    default="a red cube left of a blue sphere",
                    multiline=True,
                    tooltip="A caption on each line. Its nouns, verbs and prepositions become the parts.",
                ),
                io.String.Input(
                    "boxes",
                    default="",
                    multiline=True,
                    tooltip='Where things are, as JSON in pixels: {"red cube": [[x0, y0, x1, y1]]}, or a list of such,'
                    " one for each picture. Empty: no boxes.",
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
                io.BBOX.Input("bboxes", optional=True, tooltip="Boxes in one picture, in place of the text above."),
                Segs.Input(
                    "segs", optional=True, tooltip="Segments of the Impact Pack in one picture: boxes with labels."
                ),
                io.String.Input(
                    "box_labels",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What each of bboxes shows, one a line; for segs only in place of their own labels.",
                ),
                io.Combo.Input(
                    "box_format",
                    options=list(BOX_FORMATS),
                    default=NAMED,
                    optional=True,
                    tooltip="What four bare numbers of bboxes are; named: the boxes say it themselves.",
                ),
            ],
            outputs=[
                io.Float.Output("score", tooltip="How well best picture and first caption go together, in [-1, 1]."),
                io.Float.Output("baseline", tooltip="The plain similarity of the same picture and caption."),
                io.Image.Output("subimages", tooltip="What each part saw in it; the picture where there is no part."),
                io.String.Output("report", tooltip="The weight of each sub-image, then what was missing."),
                io.Image.Output("best", tooltip="The picture that fits the first caption best."),
                io.Image.Output("ranked", tooltip="All pictures, the best first."),
                io.String.Output("scores", tooltip="A line for each picture and caption, the best picture first."),
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
    def execute(
        cls,
        pipeline: Any,
        image: Any,
        text: str,
        boxes: str,
        fusion: str,
        missing: str,
        bboxes: Any = None,
        segs: Any = None,
        box_labels: str = "",
        box_format: str = NAMED,
    ) -> io.NodeOutput:
        import warnings

        import torch

        from wm_pipelines import ComCLIPPipeline
        from wm_pipelines.comclip.fusion import Rule
        from wm_pipelines.comclip.overlay import stack_subimages

        check_pipeline(pipeline, ComCLIPPipeline, "load a ComCLIP checkpoint")
        pictures, captions = pictures_of(image, "image"), lines_of(text, "text")
        if not captions:
            raise ValueError("text is empty; give at least one caption")
        named = lines_of(box_labels, "box_labels")
        where = _boxes(boxes, bboxes=bboxes, segs=segs, labels=named, box_format=box_format, pictures=pictures)
        comclip = pipeline.load(len(pictures), 0, 0)
        with warnings.catch_warnings(action="ignore"):  # the report says it
            grid = comclip.matrix(pictures, captions, where, rule=Rule(fusion, missing=missing))
            order = grid.score[:, 0].sort(descending=True, stable=True).indices.tolist()
            best = order[0]
            own = where[best] if where else None
            one = comclip(pictures[best], captions[0], own, fusion=fusion, missing=missing)
        subimages, lines = stack_subimages(pictures[best], one)
        pairs = [[f"{s:.4f}, plain {b:.4f}" for s, b in zip(*row, strict=True)] for row in _rows(grid)]
        scores = [
            f"{rank}. picture {n + 1}, {caption}: {pairs[n][t]}"
            for rank, n in enumerate(order, 1)
            for t, caption in enumerate(captions)
        ]
        ranked = to_image(torch.stack(pictures)[order])
        notes = [reworded(failure.message) for failure in one.failures] + _unused(own, one.components[0])
        lines += [note for note in notes if note not in "\n".join(lines)]
        found = (to_image(subimages), "\n".join(lines), ranked[:1], ranked, "\n".join(scores))
        return io.NodeOutput(float(one.score[0]), float(one.baseline[0]), *found, ui={"wm_notes": notes})


def _rows(grid: Any) -> list[tuple[list[float], list[float]]]:
    """Scores and plain similarities of each picture."""
    return list(zip(grid.score.tolist(), grid.baseline.tolist(), strict=True))


def _boxes(text: str, bboxes: Any, segs: Any, labels: list[str], box_format: str, pictures: list) -> list | None:
    """Boxes of each picture, from whichever of the three says them; None where none does."""
    given = [name for name, came in (("boxes", text.strip()), ("bboxes", bboxes), ("segs", segs)) if came]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} say where things are; keep one of them")
    if not given:
        return None
    if given == ["boxes"]:
        read = _read(text)
        listed = [read] if isinstance(read, dict) else read
    else:
        size = tuple(pictures[0].shape[1:])
        form = None if box_format == NAMED else box_format
        listed = [
            boxes_of_bbox(bboxes, labels, size, form) if given == ["bboxes"] else boxes_of_segs(segs, size, labels)
        ]
    if len(listed) != len(pictures):
        raise ValueError(f"{given[0]} is of {len(listed)} pictures, but {len(pictures)} came; give boxes for each")
    return listed


def _read(boxes: str) -> dict | list | None:
    """The boxes of the text field, None where it is empty."""
    from wm_pipelines.runtime.readers import parse_json

    if not boxes.strip():
        return None
    try:
        read = parse_json(boxes)
    except ValueError as error:
        raise ValueError(f"boxes is no JSON: {error}") from None
    each = read if isinstance(read, list) and read else [read]
    if not all(isinstance(one, dict) for one in each):
        raise ValueError(
            f'boxes must be a JSON object such as {{"red cube": [[0, 0, 9, 9]]}}, got {boxes.strip()!r:.500}'
        )
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
