"""WM_SavePipeline: a fitted or loaded pipeline becomes a folder that WM_LoadPipeline reads."""

from typing import Any

from comfy_api.latest import io

from ._shared import folders
from ._shared.guards import outside_inference_mode
from ._shared.saving import EXISTING, saved_folder, saving_root
from ._shared.types import CATEGORY, Pipeline, aliases

WHOLE = "whole pipeline"
FITTED = "what was fitted"
PARTS = (WHOLE, FITTED)


class WM_SavePipeline(io.ComfyNode):
    """Writes a pipeline into ComfyUI's output folder, as safetensors and JSON."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_SavePipeline",
            display_name="WM Save Pipeline",
            category=CATEGORY,
            **aliases("save checkpoint, save model, export, diffusers"),
            description="Save a pipeline, such as one that was just fitted, so that WM Load Pipeline offers it.",
            is_output_node=True,
            inputs=[
                Pipeline.Input("pipeline", tooltip="What to save: from a fit, or from WM Load Pipeline."),
                io.String.Input(
                    "name",
                    default="my_pipeline",
                    tooltip="Of the folder, made in output/wm_pipelines; owner/name makes one in another.",
                ),
                io.Combo.Input(
                    "what",
                    options=list(PARTS),
                    default=WHOLE,
                    tooltip="All parts, or only what a fit made: small, and loaded on the base that it was fitted to.",
                ),
                io.Combo.Input(
                    "existing",
                    options=list(EXISTING),
                    default=EXISTING[0],
                    tooltip="When the name is taken: save beside it, put this in its place, or stop.",
                ),
            ],
            outputs=[io.String.Output("folder", tooltip="Name under which WM Load Pipeline offers it.")],
        )

    @classmethod
    def execute(cls, pipeline: Any, name: str, what: str, existing: str) -> io.NodeOutput:
        from wm_pipelines.hub.user_parts import save_whole

        if what not in PARTS:
            raise ValueError(f"what {what!r} is unknown; choose from {', '.join(PARTS)}")
        root = saving_root()
        folder = saved_folder(root, name, existing)
        if what == FITTED:
            _check_fitted(pipeline)
        with outside_inference_mode():
            if what == FITTED:
                pipeline.pipeline.save_adapter(folder)
            else:
                save_whole(pipeline.pipeline, folder)
        saved = folder.relative_to(root).as_posix()
        return io.NodeOutput(saved, ui={"text": (f"{folders.KEY}/{saved}",)})


def _check_fitted(handle: Any) -> None:
    """Refuse a pipeline without a fit of its own, or on a base that its record can't name."""
    pipeline = handle.pipeline
    if not hasattr(pipeline, "save_adapter"):
        raise ValueError(
            f"pipeline {handle.name!r} is a {type(pipeline).__name__}, whose parts can't be saved alone; "
            f"set what to {WHOLE!r}"
        )
    if pipeline.wm_config is None or pipeline.wm_config.base_model is None:
        raise ValueError(
            f"pipeline {handle.name!r} stands on a base that is neither embedded nor from the Hub, so nothing could "
            f"name it again; set what to {WHOLE!r}"
        )


NODES = (WM_SavePipeline,)
