"""WM_Trajectory and WM_TrajectoryPreview: a text becomes WM_TRAJECTORY, and is shown."""

from typing import Any

from comfy_api.latest import io

from .._shared.background import background_ui
from .._shared.types import ADVANCED, CATEGORY, aliases, rgb_of, to_image
from ._points import point_inputs
from ._reading import FORMATS, objects_of
from ._sockets import Trajectory

EXAMPLE = """{
  "version": 1,
  "canvas": [64, 64],
  "objects": [
    {
      "phrase": "red cube",
      "keyframes": [
        {"frame": 0, "box": [4, 24, 28, 48]},
        {"frame": 15, "box": [36, 24, 60, 48]}
      ]
    }
  ]
}"""


class WM_Trajectory(io.ComfyNode):
    """Reads a trajectory from text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_Trajectory",
            display_name="WM Trajectory",
            category=f"{CATEGORY}/video",
            **aliases("spline, path, motion, boxes, keyframes, kjnodes, drag"),
            description="Say where the objects of a prompt are over time: by our JSON, or by the text of another "
            "tool, such as KJNodes' spline editor.",
            inputs=[
                io.String.Input(
                    "text",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip="The trajectory, in the chosen format. KJNodes' coord_str can be connected here.",
                ),
                io.Combo.Input("format", options=list(FORMATS), default="json", tooltip="How to read the text."),
                io.String.Input(
                    "phrases",
                    default="",
                    multiline=True,
                    tooltip="Words of the prompt, one object a line, in the order of the paths. Empty for 'json'.",
                ),
                *point_inputs(**ADVANCED),
                Trajectory.Input("more", optional=True, tooltip="Objects of another trajectory, to put before these."),
                io.Image.Input(
                    "images", optional=True, tooltip="A picture or a clip to draw on. Shown in the editor alone."
                ),
                io.Video.Input("video", optional=True, tooltip="A video to draw on. Shown in the editor alone."),
            ],
            outputs=[
                Trajectory.Output("trajectory", tooltip="The objects, for WM Mojito Sample and WM Mojito Apply."),
                io.String.Output("json", tooltip="The same as our own JSON, in fractions of the picture."),
            ],
        )

    @classmethod
    def execute(
        cls,
        text: str,
        format: str,
        phrases: str,
        num_frames: int,
        box_width: float,
        box_height: float,
        canvas_width: int,
        canvas_height: int,
        speed: str,
        outside: str,
        more: tuple = (),
        images: Any = None,
        video: Any = None,
    ) -> io.NodeOutput:
        from wm_pipelines.mojito.trajectories.formats.canonical import write

        found = objects_of(
            text=text,
            format=format,
            phrases=phrases,
            num_frames=num_frames,
            box_width=box_width,
            box_height=box_height,
            canvas_width=canvas_width,
            canvas_height=canvas_height,
            speed=speed,
            outside=outside,
        )
        if images is not None and video is not None:
            raise ValueError("connect images or video behind the editor; both came in")
        shown = video.get_components().images if video is not None else images
        objects = (*(more or ()), *found)
        return io.NodeOutput(objects, write(objects), ui=None if shown is None else background_ui(shown))


class WM_TrajectoryPreview(io.ComfyNode):
    """Draws a trajectory over the cells of an attention grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 512, "min": 16, "max": 4096}
        cells = {"default": 8, "min": 1, "max": 256}
        return io.Schema(
            node_id="WM_TrajectoryPreview",
            display_name="WM Trajectory Preview",
            category=f"{CATEGORY}/video",
            **aliases("spline, path, draw boxes"),
            description="Draw the boxes of a trajectory on the grid that attention can tell apart. A cell is "
            "tinted by the share that a box covers.",
            inputs=[
                Trajectory.Input("trajectory", tooltip="From WM Trajectory or WM Trajectory From Tracks."),
                io.Int.Input("num_frames", default=16, min=1, max=4096, tooltip="Frames of the clip."),
                io.Int.Input("rows", **cells, tooltip="Cells from top to bottom. For the embedded model 4 and 8."),
                io.Int.Input("columns", **cells, tooltip="Cells from left to right. For the embedded model 4 and 8."),
                io.Int.Input("width", **side, tooltip="Pixels of the tracks, and of the preview without images."),
                io.Int.Input("height", **side, tooltip="Pixels of the tracks, and of the preview without images."),
                io.Image.Input(
                    "images", optional=True, tooltip="What to draw on: one picture for all frames, or one for each."
                ),
            ],
            outputs=[
                io.Image.Output("preview", tooltip="One picture for each frame."),
                io.Tracks.Output("tracks", tooltip="The middles of the boxes in pixels, for other nodes."),
            ],
        )

    @classmethod
    def execute(
        cls, trajectory: tuple, num_frames: int, rows: int, columns: int, width: int, height: int, images: Any = None
    ) -> io.NodeOutput:
        from wm_pipelines.mojito.overlay import trajectory_preview

        frames = None if images is None else rgb_of(images, "images").cpu()
        preview, tracks = trajectory_preview(
            trajectory, num_frames, grid=(rows, columns), size=(height, width), frames=frames
        )
        return io.NodeOutput(to_image(preview), tracks)


NODES = (WM_Trajectory, WM_TrajectoryPreview)
