"""WM_Render4D: a scene in time, played from any camera."""

from typing import Any

from comfy_api.latest import io

from .._shared.guards import outside_inference_mode
from .._shared.types import CATEGORY, aliases, to_image
from ._sockets import Scene, Splat

PATHS = ("own", "hold", "orbit", "swing", "dolly")


class WM_Render4D(io.ComfyNode):
    """Plays a scene in time along a camera's path."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_Render4D",
            display_name="WM Render 4D",
            category=f"{CATEGORY}/world",
            **aliases("gaussian splatting, 4d, camera"),
            description="Play a scene in time from its own camera or along a path, as a batch of frames.",
            inputs=[
                Scene.Input("scene4d", tooltip="A scene in time."),
                io.Combo.Input(
                    "path",
                    options=list(PATHS),
                    default="own",
                    tooltip="How the camera goes: as the scene's own did, not at all, around the middle, to and fro, "
                    "or towards the middle.",
                ),
                io.Int.Input("view", default=0, min=0, max=1023, tooltip="The scene's camera that it starts at."),
                io.Float.Input(
                    "degrees", default=30.0, min=-3600.0, max=3600.0, step=1.0, tooltip="Of orbit and swing."
                ),
                io.Float.Input(
                    "approach",
                    default=0.3,
                    min=-10.0,
                    max=0.95,
                    step=0.05,
                    tooltip="Of dolly: the share of the way to the middle; below 0 it goes back.",
                ),
                io.Int.Input("width", default=0, min=0, max=8192, tooltip="Pixels; 0: as the scene's cameras."),
                io.Int.Input("height", default=0, min=0, max=8192, tooltip="Pixels; 0: as the scene's cameras."),
            ],
            outputs=[
                io.Image.Output("images", tooltip="A picture for each frame."),
                io.Mask.Output("alpha", tooltip="How much of each pixel is covered."),
                io.Float.Output("fps", tooltip="Frames a second, for a video."),
                Splat.Output("splat", tooltip="ComfyUI's own splats, one item a frame; nothing in an older ComfyUI."),
            ],
        )

    @classmethod
    def execute(
        cls,
        scene4d: Any,
        path: str,
        view: int,
        degrees: float,
        approach: float,
        width: int,
        height: int,
    ) -> io.NodeOutput:
        from wm_pipelines.morpho4d.paths import camera_path

        own = scene4d.cameras.size
        size = (height or own[0], width or own[1])
        with outside_inference_mode():
            camera = camera_path(scene4d, path, view, degrees=degrees, approach=approach, size=size)
            shown = scene4d.render(camera, size=size)
            return io.NodeOutput(to_image(shown.frames), shown.alpha, float(scene4d.fps), splats_of(scene4d))


def splats_of(scene: Any) -> Any:
    """ComfyUI's `SPLAT` with an item for each frame, y down; None where ComfyUI has no such type."""
    import torch
    from comfy_api.latest import Types

    from wm_pipelines.morpho4d.formats.clip import Clip

    if not hasattr(Types, "SPLAT"):
        return None
    frames = Clip.of(scene).with_up("-y").frames
    return Types.SPLAT(
        positions=torch.stack([frame.means for frame in frames]),
        scales=torch.stack([frame.scales for frame in frames]),
        rotations=torch.stack([frame.quats for frame in frames]),
        opacities=torch.stack([frame.opacities for frame in frames])[..., None],
        sh=torch.stack([frame.sh for frame in frames]),
    )


NODES = (WM_Render4D,)
