"""Texts of WM_Trajectory as objects, for the node and for its editor."""

from typing import Any

from .._shared import routes
from .._shared.types import lines_of
from ._points import naming_outside, point_options

# A test holds the formats against the library.
FORMATS = ("json", "freetraj", "trailblazer", "kjnodes", "motionctrl", "tora", "dragnuwa")
POINTS = ("kjnodes", "motionctrl", "tora", "dragnuwa")
CLIP_OPTIONS = {"freetraj": ("num_frames", "outside")}


def objects_of(
    *,
    text: str,
    format: str,
    phrases: str = "",
    num_frames: int = 16,
    box_width: float = 0.3,
    box_height: float = 0.3,
    canvas_width: int = 0,
    canvas_height: int = 0,
    speed: str = "points",
    outside: str = "error",
) -> list[Any]:
    """The objects that the widgets of WM_Trajectory describe.

    Raises:
        ValueError: as `wm_pipelines.mojito.trajectories.reading.read_trajectory`.
    """
    from wm_pipelines.mojito.trajectories.reading import read_trajectory

    box, canvas = (box_width, box_height), (canvas_width, canvas_height)
    options: dict[str, Any] = {}
    if format in POINTS or format in CLIP_OPTIONS:
        options = point_options(num_frames=num_frames, box=box, canvas=canvas, speed=speed, outside=outside)
        options = {name: options[name] for name in CLIP_OPTIONS.get(format, options)}
    with naming_outside(outside):
        return read_trajectory(text, format, lines_of(phrases, "phrases") or None, **options)


def drawn(asked: dict[str, Any]) -> dict[str, Any]:
    """What the editor shows of the widgets' values: `objects` of our own JSON in fractions, and the `canvas`."""
    from wm_pipelines.mojito.trajectories.formats.canonical import write
    from wm_pipelines.runtime.readers import parse_json

    names = ("text", "format", "phrases", "speed", "outside")
    given = {name: routes.text_of(asked, name) for name in names if name in ("text", "format") or name in asked}
    for name in ("num_frames", "box_width", "box_height", "canvas_width", "canvas_height"):
        if name in asked:
            given[name] = routes.number_of(asked, name)
    objects = parse_json(write(objects_of(**given)))["objects"]
    canvas = parse_json(given["text"])["canvas"] if given["format"] == "json" else None
    return {"objects": objects, "canvas": canvas or [given.get("canvas_width") or 1, given.get("canvas_height") or 1]}


routes.ANSWERS["trajectory"] = drawn
