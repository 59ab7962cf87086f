"""WM_Morpho4DFit: words, or video with cameras, depth and masks, become a scene in time."""

from typing import Any

from comfy_api.latest import io

from .._shared.guards import outside_inference_mode
from .._shared.types import CATEGORY, aliases, lines_of, rgb_of
from ._sockets import Scene


class WM_Morpho4DFit(io.ComfyNode):
    """Fits moving Gaussians to what happens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_Morpho4DFit",
            display_name="WM Morpho4D Fit",
            category=f"{CATEGORY}/world",
            **aliases("gaussian splatting, 4d, video to 3d"),
            description="Make a scene in time: of words in the miniature world, or of a video with its geometry.",
            inputs=[
                io.String.Input(
                    "prompt",
                    default="a red cube slides right and a ball bounces",
                    multiline=True,
                    tooltip="What happens in the miniature world. Empty where a video is connected.",
                ),
                io.Int.Input("steps", default=1500, min=1, max=1_000_000, tooltip="Of the fit; about 20 ms each."),
                io.Int.Input("size", default=64, min=16, max=512, tooltip="Side of the pictures of a prompt, pixels."),
                io.Int.Input("frames", default=12, min=4, max=120, tooltip="Length of the clip of a prompt."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="The same seed fits the same scene.",
                ),
                io.Video.Input("video", optional=True, tooltip="Of one camera, instead of a prompt."),
                io.Mask.Input("depth", optional=True, tooltip="Metres along the optical axis, one mask a frame."),
                io.Mask.Input("masks", optional=True, tooltip="Whole numbers, one mask a frame: 0 the background."),
                io.String.Input(
                    "cameras",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip='JSON: "K" (3 x 3, pixels) and "T_cw" (4 x 4 for each frame, world to camera, y down).',
                ),
                io.String.Input(
                    "names",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What the objects of the masks are called: a line each, from 1.",
                ),
            ],
            outputs=[
                Scene.Output("scene4d", tooltip="The scene in time."),
                io.String.Output("report", tooltip="Objects, Gaussians, and what the fit took."),
            ],
        )

    @classmethod
    def execute(
        cls,
        prompt: str,
        steps: int,
        size: int,
        frames: int,
        seed: int,
        video: Any = None,
        depth: Any = None,
        masks: Any = None,
        cameras: str = "",
        names: str = "",
    ) -> io.NodeOutput:
        import comfy.model_management
        import comfy.utils

        from wm_pipelines.morpho4d.pipeline import Morpho4DPipeline
        from wm_pipelines.morpho4d.worlds import prompt_capture

        bar = comfy.utils.ProgressBar(100)

        def show(progress: float) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(round(100 * progress))

        with outside_inference_mode(gradients=True):
            pipe = Morpho4DPipeline(source=lambda text: prompt_capture(text, size, frames))
            given = {"depth": depth, "masks": masks}
            if video is not None:
                given = {**_of_video(video), **_geometry(depth, masks), "cameras": _cameras(cameras)}
                given["names"] = dict(enumerate(lines_of(names, "names"), 1))
            said = prompt if prompt.strip() else None
            made = pipe(said, **given, on_step=show, steps=steps, seed=seed)
        scene, report = made.scene, made.report
        lines = [f"{number}: {name}" for number, name in scene.names.items()]
        lines.append(f"{len(scene)} Gaussians, {scene.frames} frames")
        lines.append(f"{report.steps} steps, {report.seconds:.1f} s, loss {report.losses[-1]:.4g}")
        return io.NodeOutput(scene, "\n".join(lines))


def _of_video(video: Any) -> dict[str, Any]:
    parts = video.get_components()
    return {"video": rgb_of(parts.images, "video").clone(), "fps": float(parts.frame_rate)}


def _geometry(depth: Any, masks: Any) -> dict[str, Any]:
    return {
        "depth": None if depth is None else depth.float().clone(),
        "masks": None if masks is None else masks.round().long(),
    }


def _cameras(text: str) -> tuple | None:
    """K and T_cw of the JSON of a text box; None where it is empty."""
    import torch

    from wm_pipelines.runtime.readers import parse_json

    if not text.strip():
        return None
    said = parse_json(text)
    if not isinstance(said, dict) or set(said) != {"K", "T_cw"}:
        raise ValueError('`cameras` must be a JSON object of "K" and "T_cw"')
    try:
        return torch.tensor(said["K"], dtype=torch.float32), torch.tensor(said["T_cw"], dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`cameras` holds something that is no matrix of numbers: {error}") from None


NODES = (WM_Morpho4DFit,)
