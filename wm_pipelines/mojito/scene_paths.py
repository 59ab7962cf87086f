"""Where the solids of a Diorama scene go, as objects that a video can be made to follow."""

from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene
from wm_pipelines.mojito.trajectories.objects import MotionObject


def scene_objects(scene: Scene, frames: int, size: int = 64) -> tuple[MotionObject, ...]:
    """The visible box of each solid in frames 0 to `frames - 1`, with its words in `caption(scene)`.

    A frame that shows no pixel of a solid takes the box of the nearest one that does, and is told as hidden; a solid
    that is never seen, or that the caption does not name, is left out.

    Args:
        size: side of the picture in pixels in which it is looked at.
    """
    truth = render(scene, range(frames), size, maps=("boxes",)).boxes[0]
    said = caption(scene)
    found = []
    for n, o in enumerate(scene.objects):
        boxes = truth[:, n]
        seen = [t for t in range(frames) if not boxes[t].isnan().any()]
        if seen and o.id in said.spans:
            nearest = [min(seen, key=lambda s, t=t: abs(s - t)) for t in range(frames)]
            start, end = said.spans[o.id]
            hidden = [t for t in range(frames) if t not in seen]
            path = boxes[nearest].clamp(0, 1).tolist()
            found.append(MotionObject(said.text[start:end], boxes=path, span=(start, end), hidden=hidden or None))
    return tuple(found)
