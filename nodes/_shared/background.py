"""Pictures behind a drawn widget: they are shown, and go nowhere else."""

from typing import Any

from comfy_api.latest import UI

from .types import rgb_of, to_image

SHOWN_FRAMES = 48
SHOWN_SIDE = 512


def background_ui(images: Any) -> dict[str, Any]:
    """What an editor is sent of an IMAGE: so many frames, and sides, at most."""
    count = len(images)
    stride = max(1, -(-max(images.shape[1:3]) // SHOWN_SIDE))
    chosen = sorted({round(n * (count - 1) / max(1, SHOWN_FRAMES - 1)) for n in range(SHOWN_FRAMES)})
    shown = to_image(rgb_of(images[chosen][:, ::stride, ::stride], "images"))
    return {"wm_background": UI.PreviewImage(shown).as_dict()["images"]}
