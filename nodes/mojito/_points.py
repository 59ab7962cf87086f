"""What a path of points needs to become boxes: inputs of two nodes, and the library's options."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from comfy_api.latest import io

SPEEDS = ("points", "constant")
OUTSIDE = ("error", "clip")
BOXES = ("named", "xywh", "xyxy")


def point_inputs(**folded: bool) -> list[Any]:
    """The widgets, in the order that saved workflows rely on.

    Args:
        folded: `ADVANCED` where few need any but the first.
    """
    side = {"default": 0.3, "min": 0.01, "max": 1.0, "step": 0.01}
    canvas = {"default": 0, "min": 0, "max": 16384}
    return [
        io.Int.Input(
            "num_frames",
            default=16,
            min=1,
            max=4096,
            tooltip="Frames of the clip. Where a path is at each of them says the tool that the format is from.",
        ),
        io.Float.Input(
            "box_width", **folded, **side, tooltip="Width of the box around a point, in fractions of the picture."
        ),
        io.Float.Input(
            "box_height", **folded, **side, tooltip="Height of the box around a point, in fractions of the picture."
        ),
        io.Int.Input(
            "canvas_width", **folded, **canvas, tooltip="Pixels of the canvas the points were drawn on; 0: its own."
        ),
        io.Int.Input(
            "canvas_height", **folded, **canvas, tooltip="Pixels of the canvas the points were drawn on; 0: its own."
        ),
        io.Combo.Input(
            "speed",
            **folded,
            options=list(SPEEDS),
            default="points",
            tooltip="'points' times the points as the format's own tool does, 'constant' goes along the path evenly.",
        ),
        io.Combo.Input(
            "outside",
            **folded,
            options=list(OUTSIDE),
            default="error",
            tooltip="What to do when a point or its box leaves the picture: refuse, or cut at the border.",
        ),
    ]


def box_input() -> Any:
    """The widget that says what four numbers of a box are, for nodes whose other inputs stand before it."""
    return io.Combo.Input(
        "box_format",
        options=list(BOXES),
        default="named",
        optional=True,
        tooltip="What a box is. 'named': a dict that names its sides, as core's x, y, width, height. Four numbers "
        "don't say it: 'xyxy' for corners, as KJNodes' points editor lists them, 'xywh' for x, y, width, height.",
    )


@contextmanager
def naming_outside(outside: str) -> Iterator[None]:
    """Name the widget that decides, where a box around a point leaves the picture."""
    try:
        yield
    except ValueError as error:
        if outside == "error" and "leaves the picture" in str(error):
            raise ValueError(f"{error}; set outside to 'clip' to cut it at the border") from None
        raise


def point_options(*, num_frames: int, box: tuple, canvas: tuple, speed: str, outside: str) -> dict[str, Any]:
    """Values of the widgets as the library takes them.

    Args:
        box: width and height, in fractions of the picture.
        canvas: width and height in pixels; zeros: none.

    Raises:
        ValueError: one side of the canvas is 0 and the other is not.
    """
    if (canvas[0] == 0) != (canvas[1] == 0):
        raise ValueError(f"canvas_width={canvas[0]}, canvas_height={canvas[1]}; set both, or leave both 0")
    return {
        "num_frames": num_frames,
        "size": box,
        "canvas": canvas if canvas[0] else None,
        "speed": speed,
        "outside": outside,
    }
