"""WM_ExtractCondition, WM_Condition and WM_StackConditions: pictures become WM_CONDITIONS."""

from typing import Any

from comfy_api.latest import io

from ._shared import routes
from ._shared.background import background_ui
from ._shared.types import CATEGORY, Conditions, aliases, masks_of, numbers_of, pictures_of, rgb_of, to_image

# In slot order. A type is only ever appended; a test holds both lists against the library.
TYPES = ("canny", "lines", "softedge", "sketch", "pose", "depth", "seg")
EXTRACTABLE = ("canny", "lines", "softedge", "sketch", "seg")
FITS = ("error", "crop", "pad", "stretch")


class WM_ExtractCondition(io.ComfyNode):
    """Makes a condition map from photos, offline."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_ExtractCondition",
            display_name="WM Extract Condition",
            category=f"{CATEGORY}/control",
            **aliases("canny, preprocessor, controlnet, edges, softedge, sketch"),
            description="Make a condition map from a photo. Runs offline and needs no model.",
            inputs=[
                io.Image.Input("image", tooltip="One photo or a batch."),
                io.Combo.Input(
                    "type",
                    options=list(EXTRACTABLE),
                    default="canny",
                    tooltip="What to extract. Depth and pose need an estimator, so bring those maps ready-made.",
                ),
                io.Float.Input(
                    "canny_low",
                    default=100.0,
                    min=0.0,
                    max=1000.0,
                    step=1.0,
                    tooltip="Canny only: weakest edge that is kept when it continues a strong one.",
                ),
                io.Float.Input(
                    "canny_high",
                    default=200.0,
                    min=0.0,
                    max=1000.0,
                    step=1.0,
                    tooltip="Canny only: an edge above this is always kept. Must not be below canny_low.",
                ),
            ],
            outputs=[io.Image.Output("map", tooltip="The condition map, as large as the photo.")],
        )

    @classmethod
    def execute(cls, image: Any, type: str, canny_low: float, canny_high: float) -> io.NodeOutput:
        from wm_pipelines.media.conditions import extract

        options = {"low": canny_low, "high": canny_high} if type == "canny" else {}
        return io.NodeOutput(to_image(extract(type, rgb_of(image, "image"), **options)))


class WM_Condition(io.ComfyNode):
    """One map with its strength, place, phrase and time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_Condition",
            display_name="WM Condition",
            category=f"{CATEGORY}/control",
            **aliases("controlnet, regional, control map, phrase"),
            description="A condition map, where and when it holds, and the words of the prompt that it shows.",
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="A finished map; edges, lines and sketches are white on black. Of a batch each is for one "
                    "picture of the sampler.",
                ),
                io.Combo.Input("type", options=list(TYPES), default="canny", tooltip="What the map is."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip="How much it weighs; 0 removes it."
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Fraction of the sampling from which it acts.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Fraction of the sampling until which it acts; must be above start.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="error",
                    tooltip="What to do when the map has not the output's size: refuse, crop, pad or stretch.",
                ),
                io.String.Input(
                    "phrase",
                    default="",
                    optional=True,
                    tooltip="Words of the prompt, exactly as they stand there; they are bound to the region.",
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="Where the condition holds; without it, everywhere. One, or one for each map of a batch.",
                ),
                Conditions.Input("conditions", optional=True, tooltip="A list to put this condition behind."),
                io.String.Input(
                    "span",
                    default="",
                    optional=True,
                    tooltip="Which of two equal phrases: the places of its first letter and of the one after its "
                    "last in the prompt, from 0, as 2, 10.",
                ),
                io.String.Input(
                    "shapes",
                    default="",
                    optional=True,
                    tooltip="The region as it is drawn below: boxes and free shapes, as JSON. Empty: not drawn.",
                ),
                io.String.Input(
                    "schedule",
                    default="",
                    optional=True,
                    tooltip="Factors on the strength from the first step to the last, 0 to 1, as 1, 0.5, 0; linear "
                    "between. Empty: the same strength all the time.",
                ),
            ],
            outputs=[Conditions.Output("conditions", tooltip="The list that came in, and this condition behind it.")],
        )

    @classmethod
    def execute(
        cls,
        image: Any,
        type: str,
        strength: float,
        start: float,
        end: float,
        fit: str,
        phrase: str = "",
        region: Any = None,
        conditions: tuple = (),
        span: str = "",
        shapes: str = "",
        schedule: str = "",
    ) -> io.NodeOutput:
        from wm_pipelines import Condition

        pictures = pictures_of(image, "image")
        if region is not None and shapes.strip():
            raise ValueError("region is connected and drawn; take the link away, or empty shapes")
        if shapes.strip():
            masks = [_drawn(shapes, pictures[0])]
        else:
            masks = [None] if region is None else masks_of(region)
        count = max(len(pictures), len(masks))
        if {len(pictures), len(masks)} - {1, count}:
            raise ValueError(f"image holds {len(pictures)} maps and region {len(masks)} masks; one, or as many")
        made = [
            Condition(
                type,
                pictures[n % len(pictures)],
                strength=strength,
                region=masks[n % len(masks)],
                phrase=phrase.strip() or None,
                span=_span_of(span),
                start=start,
                end=end,
                fit=fit,
                schedule=numbers_of(schedule, "schedule") or None,
            )
            for n in range(count)
        ]
        condition = made[0] if count == 1 else tuple(made)
        return io.NodeOutput((*(conditions or ()), condition), ui=background_ui(image))


def _drawn(shapes: str, picture: Any) -> Any:
    """The mask of the drawn shapes at a picture's size."""
    from wm_pipelines.media.regions import read_regions, region_mask

    return region_mask(read_regions(shapes), *picture.shape[1:])


def _read_shapes(asked: dict[str, Any]) -> dict[str, Any]:
    """What the painter shows of the text field: the `shapes` of its JSON."""
    from wm_pipelines.media.regions import read_regions, write_regions
    from wm_pipelines.runtime.readers import parse_json

    text = routes.text_of(asked, "shapes")
    return {"shapes": parse_json(write_regions(read_regions(text)))["shapes"] if text.strip() else []}


routes.ANSWERS["region"] = _read_shapes


def _span_of(text: str) -> tuple[int, int] | None:
    """The span of the text field, None where it is empty; brackets as in a message may stay around it."""
    if not text.strip():
        return None
    ends = text.strip().strip("()[]").replace(":", ",").split(",")
    if len(ends) != 2 or not all(end.strip().isascii() and end.strip().isdigit() for end in ends):
        raise ValueError(f"span is {text.strip()!r}; two whole numbers such as 2, 10")
    return int(ends[0]), int(ends[1])


class WM_StackConditions(io.ComfyNode):
    """Joins lists of conditions, in order."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        lists = [
            Conditions.Input(f"conditions_{index}", optional=True, tooltip="Conditions of the list, in this order.")
            for index in range(1, 7)
        ]
        return io.Schema(
            node_id="WM_StackConditions",
            display_name="WM Stack Conditions",
            category=f"{CATEGORY}/control",
            **aliases("controlnet, join, combine conditions"),
            description="Join conditions into one list. Stack again for more than six.",
            inputs=lists,
            outputs=[Conditions.Output("conditions", tooltip="All conditions, in the order of the inputs.")],
        )

    @classmethod
    def execute(cls, **given: tuple | None) -> io.NodeOutput:
        # By name: ComfyUI passes linked inputs in no promised order.
        lists = [given[name] for name in sorted(given) if given[name]]
        return io.NodeOutput(tuple(condition for conditions in lists for condition in conditions))


NODES = (WM_ExtractCondition, WM_Condition, WM_StackConditions)
