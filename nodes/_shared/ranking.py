"""How ranked pictures leave a node."""

from typing import Any

from comfy_api.latest import io

from .types import to_image


def ranked(out: Any) -> io.NodeOutput:
    """Pictures of one source, the best first; their scores, a line each; heat maps; whether the best was accepted."""
    from wm_pipelines.world_model.overlay import heat_maps, order_of, report_lines

    order = order_of(out)
    pictures = out.images[0][order]
    maps = heat_maps(pictures, out.change[0][order])
    return io.NodeOutput(to_image(pictures), "\n".join(report_lines(out)), to_image(maps), bool(out.accepted[0]))
