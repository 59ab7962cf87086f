"""The miniature world as a source of captures: exact video, cameras, depth and masks of its scenes."""

from collections.abc import Sequence

import torch

from wm_pipelines.diorama.cameras import camera_matrices
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Camera, Scene, SceneObject
from wm_pipelines.morpho4d.capture import Capture
from wm_pipelines.morpho4d.gaussians import Cameras


def capture_scene(
    scene: Scene,
    cameras: Sequence[Camera],
    times: Sequence[float] | None = None,
    size: int | tuple[int, int] = 64,
    lit: bool = False,
) -> Capture:
    """What cameras see of a scene.

    Args:
        times: frames; None: each of the scene's own.
        size: H = W, or (H, W).
        lit: with light and shadows; without, the plain colours.
    """
    times = [float(t) for t in (range(scene.duration) if times is None else times)]
    colour = "rgb" if lit else "albedo"
    out = render(scene, times, size, (colour, "ids", "depth"), cameras=cameras)
    k, poses = camera_matrices(scene, times, size, cameras)
    video = getattr(out, colour)[0]
    return Capture(
        video,
        Cameras(k.float(), poses.float(), tuple(video.shape[-2:])),
        out.depth[0],
        out.ids[0],
        object_names(scene),
        scene.fps,
    )


def object_names(scene: Scene) -> dict[int, str]:
    """What each object is called: colour and shape, and more words where two would be called the same."""
    names = {}
    for o in scene.objects:
        words = {"size": o.size, "material": o.material, "pattern": o.pattern, "colour": o.colour, "shape": o.shape}
        said = {"colour", "shape"}
        for kind in ("size", "pattern", "material"):
            if sum(_called(other, said) == _called(o, said) for other in scene.objects) > 1:
                said.add(kind)
        names[o.id] = " ".join(word for kind, word in words.items() if kind in said)
    return names


def _called(o: SceneObject, said: set[str]) -> tuple[str, ...]:
    return tuple(getattr(o, kind) for kind in sorted(said))
