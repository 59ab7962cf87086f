"""WM_Edit4D: a scene in time is edited by words."""

import json
from typing import Any

from comfy_api.latest import io

from .._shared.guards import outside_inference_mode
from .._shared.types import CATEGORY, aliases
from ._sockets import Scene


class WM_Edit4D(io.ComfyNode):
    """Edits a scene in time, object by object; nothing is generated again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_Edit4D",
            display_name="WM Edit 4D",
            category=f"{CATEGORY}/world",
            **aliases("gaussian splatting, 4d"),
            description="Remove, extract, recolour, move, retime, copy or scale objects of a scene in time, by words.",
            inputs=[
                Scene.Input("scene4d", tooltip="A scene in time; it stays as it is."),
                io.String.Input(
                    "instruction",
                    default="remove the red cube",
                    multiline=True,
                    tooltip="What to do, in English, or the operations as JSON.",
                ),
            ],
            outputs=[
                Scene.Output("scene4d", tooltip="The edited scene, for another edit, a picture or a file."),
                io.String.Output("log", tooltip="Every edit so far as JSON, with how many Gaussians it chose."),
            ],
        )

    @classmethod
    def execute(cls, scene4d: Any, instruction: str) -> io.NodeOutput:
        from wm_pipelines.runtime.readers import parse_json

        what = parse_json(instruction) if instruction.lstrip()[:1] in ("[", "{") else instruction
        with outside_inference_mode():
            edited = scene4d.edit(what)
            log = "\n".join(json.dumps(edit, ensure_ascii=False) for edit in edited.edits)
        return io.NodeOutput(edited, log)


NODES = (WM_Edit4D,)
