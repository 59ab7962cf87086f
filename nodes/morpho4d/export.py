"""WM_Export4D: a scene in time, written to a file that other viewers open."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from .._shared.guards import outside_inference_mode
from .._shared.types import CATEGORY, aliases
from ._sockets import Scene

FORMATS = ("glb", "4dgs", "html", "mp4", "ply sequence", "ply", "spz", "splat")
MOMENTS = ("ply", "spz", "splat")


class WM_Export4D(io.ComfyNode):
    """Writes a scene in time into ComfyUI's output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_Export4D",
            display_name="WM Export 4D",
            category=f"{CATEGORY}/world",
            **aliases("gaussian splatting, 4d, glb, ply, splat"),
            description="Write a scene in time: one animated file, a page with a viewer, a video, or splats.",
            is_output_node=True,
            inputs=[
                Scene.Input("scene4d", tooltip="A scene in time."),
                io.String.Input("filename_prefix", default="wm_scene", tooltip="Of the file, in the output folder."),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="glb",
                    tooltip="glb, 4dgs: the motion in one file; html: a page; mp4: a video; ply sequence: a folder "
                    "for SuperSplat; ply, spz, splat: one moment.",
                ),
                io.Float.Input("frame", default=0.0, min=0.0, max=1e5, step=1.0, tooltip="Of ply, spz and splat."),
                io.Int.Input("view", default=0, min=0, max=1023, tooltip="The scene's camera, of html and mp4."),
                io.Float.Input(
                    "tolerance",
                    default=0.1,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How far an object may be from rigid in glb and 4dgs, in its radii.",
                ),
                io.Boolean.Input("drop_sh", default=False, tooltip="Leave out what depends on the view, for splat."),
            ],
            outputs=[io.String.Output("file", tooltip="What was written, seen from the output folder.")],
        )

    @classmethod
    def execute(
        cls, scene4d: Any, filename_prefix: str, format: str, frame: float, view: int, tolerance: float, drop_sh: bool
    ) -> io.NodeOutput:
        import folder_paths

        from wm_pipelines.morpho4d.formats.export import export

        root = folder_paths.get_output_directory()
        folder, name, counter, *_ = folder_paths.get_save_image_path(filename_prefix, root)
        suffix = "" if format == "ply sequence" else f".{format}"
        path = Path(folder) / f"{name}_{counter:05}_{suffix}"
        times = [frame] if format in MOMENTS else None
        with outside_inference_mode():
            export(scene4d, path, times, view=view, drop_sh=drop_sh, tolerance=tolerance, title=name)
        file = path.relative_to(root).as_posix()
        return io.NodeOutput(file, ui={"text": (file,)})


NODES = (WM_Export4D,)
