"""WM_TrajectoryFromTracks: what others tracked or found becomes WM_TRAJECTORY."""

from typing import Any

from comfy_api.latest import io

from .._shared.detections import masks_of_segs
from .._shared.types import ADVANCED, CATEGORY, Segs, aliases, lines_of
from ._points import box_input, naming_outside, point_inputs, point_options
from ._sockets import Trajectory


class WM_TrajectoryFromTracks(io.ComfyNode):
    """Reads a trajectory from TRACKS, BBOX, MASK or SEGS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_TrajectoryFromTracks",
            display_name="WM Trajectory From Tracks",
            category=f"{CATEGORY}/video",
            **aliases("tracks, bbox, points, wan move, ati, mask to trajectory, segs, segmentation"),
            description="Make a trajectory of TRACKS, as the Wan Move nodes make them, of one box for each frame, of "
            "a batch of masks, or of SEGS.",
            inputs=[
                io.String.Input(
                    "phrases",
                    default="red cube",
                    multiline=True,
                    tooltip="Words of the prompt, one object a line: one for each track, or one for all together.",
                ),
                *point_inputs(),
                io.Tracks.Input("tracks", optional=True, tooltip="Points over time, in pixels of the canvas."),
                io.BBOX.Input(
                    "bboxes",
                    optional=True,
                    tooltip="In pixels of the canvas: one box, one for each frame, or one for each line of phrases.",
                ),
                Trajectory.Input("more", optional=True, tooltip="Objects of another trajectory, to put before these."),
                box_input(),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="One object's mask for each frame; the box around what is set is its place. A batch of "
                    "one holds. For further objects chain this node through more.",
                ),
                Segs.Input(
                    "segs",
                    optional=True,
                    tooltip="Segments of the Impact Pack, one object each: still, or with a mask for each frame. "
                    "Their own labels are the phrases where phrases is empty.",
                ),
                io.Float.Input(
                    "threshold",
                    **ADVANCED,
                    default=0.5,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    optional=True,
                    tooltip="Of masks and segs: a pixel above it is set.",
                ),
            ],
            outputs=[
                Trajectory.Output("trajectory", tooltip="The objects, for WM Mojito Sample and WM Mojito Apply."),
                io.String.Output("json", tooltip="The same as our own JSON, in fractions of the picture."),
            ],
        )

    @classmethod
    def execute(
        cls,
        phrases: str,
        num_frames: int,
        box_width: float,
        box_height: float,
        canvas_width: int,
        canvas_height: int,
        speed: str,
        outside: str,
        tracks: Any = None,
        bboxes: Any = None,
        more: tuple = (),
        box_format: str = "named",
        masks: Any = None,
        segs: Any = None,
        threshold: float = 0.5,
    ) -> io.NodeOutput:
        from wm_pipelines.mojito.trajectories.formats.boxes import read_bbox
        from wm_pipelines.mojito.trajectories.formats.canonical import write
        from wm_pipelines.mojito.trajectories.formats.masks import read_masks
        from wm_pipelines.mojito.trajectories.reading import read_trajectory

        given = {"tracks": tracks, "bboxes": bboxes, "masks": masks, "segs": segs}
        came = [name for name, value in given.items() if value is not None]
        if len(came) != 1:
            raise ValueError(f"connect one of {', '.join(given)}; {' and '.join(came) or 'none'} came in")
        words = lines_of(phrases, "phrases")
        if masks is not None:
            if len(words) != 1:
                raise ValueError(f"phrases has {len(words)} lines; masks are of one object, so give one")
            objects = [read_masks(masks, words[0], threshold)]
        elif segs is not None:
            found = masks_of_segs(segs, words)
            objects = [read_masks(shown, label, threshold) for label, shown in found]
        else:
            box, canvas = (box_width, box_height), (canvas_width, canvas_height)
            options = point_options(num_frames=num_frames, box=box, canvas=canvas, speed=speed, outside=outside)
            if options["canvas"] is None:
                raise ValueError("canvas_width and canvas_height must be set: tracks and boxes are pixels of a canvas")
            if tracks is not None:
                with naming_outside(outside):
                    objects = read_trajectory(tracks, "tracks", words, **options)
            else:
                objects = read_bbox(
                    bboxes,
                    words,
                    options["canvas"],
                    outside=outside,
                    box_format=None if box_format == "named" else box_format,
                    num_frames=num_frames,
                )
        objects = (*(more or ()), *objects)
        return io.NodeOutput(objects, write(objects))


NODES = (WM_TrajectoryFromTracks,)
