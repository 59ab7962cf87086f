"""The exact boxes of a scene's objects, in the form in which detectors give theirs."""

from wm_pipelines.diorama.language import scene_graph
from wm_pipelines.diorama.scene import Scene
from wm_pipelines.media.boxes import Box


def diorama_boxes(scene: Scene, t: float = 0.0, size: int = 64) -> dict[str, list[Box]]:
    """The exact boxes of a Diorama scene's visible objects, by their full words ("small red cube"), in pixels.

    Args:
        t: frame. size: side of the picture in pixels.
    """
    found: dict[str, list[Box]] = {}
    for node in scene_graph(scene, t, size).nodes:
        x0, y0, x1, y1 = (value * size for value in node.box)
        label = " ".join((*node.attributes, node.name))
        found.setdefault(label, []).append((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)))
    return found
