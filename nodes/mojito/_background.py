"""Pictures behind the trajectory editor: they are shown, and go nowhere else."""

from typing import Any

from comfy_api.latest import UI, io

SHOWN_FRAMES = 48
SHOWN_SIDE = 512


def background_inputs() -> list[Any]:
    """The sockets, in the order that saved workflows rely on."""
    return [
        io.Image.Input(
            "images", optional=True, tooltip="One picture or a clip to draw on. Shown in the editor alone."
        ),
        io.Video.Input("video", optional=True, tooltip="A video to draw on. Shown in the editor alone."),
    ]


def background_ui(images: Any, video: Any) -> dict[str, Any] | None:
    """What the editor is sent: at most `SHOWN_FRAMES` frames, the longer side at most about `SHOWN_SIDE` pixels.

    Raises:
        ValueError: both are given.
    """
    if images is not None and video is not None:
        raise ValueError("connect images or video behind the editor; both came in")
    if video is not None:
        images = video.get_components().images
    if images is None:
        return None
    count = len(images)
    stride = max(1, -(-max(images.shape[1:3]) // SHOWN_SIDE))
    chosen = sorted({round(n * (count - 1) / max(1, SHOWN_FRAMES - 1)) for n in range(SHOWN_FRAMES)})
    shown = images[chosen][:, ::stride, ::stride, :3].float().cpu()
    return {"wm_background": UI.PreviewImage(shown).as_dict()["images"], "wm_frames": [count]}
