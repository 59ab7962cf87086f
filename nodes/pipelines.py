"""WM_LoadPipeline: a checkpoint becomes a WM_PIPELINE."""

import re
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ._shared import folders
from ._shared.guards import outside_inference_mode
from ._shared.hub import blaming_fields
from ._shared.types import CATEGORY, Pipeline, aliases

FROM_HUB = "from the Hub"
AS_RECORDED = "as recorded"
NONE = "none"
LORAS, VAES = "loras", "vae"
DTYPES = ("auto", "float32", "float16", "bfloat16")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class WM_LoadPipeline(io.ComfyNode):
    """Loads a pipeline and hands its weights to ComfyUI's memory manager."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        models = folders.list_models(folders.model_roots())
        preferred = folders.EMBEDDED + "flexecontrol"
        return io.Schema(
            node_id="WM_LoadPipeline",
            display_name="WM Load Pipeline",
            category=CATEGORY,
            **aliases("checkpoint, load model, diffusers"),
            description="Load a checkpoint: embedded, from models/wm_pipelines, or by Hub id when you ask for it.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[*models, FROM_HUB],
                    default=preferred if preferred in models else [*models, FROM_HUB][0],
                    tooltip="An embedded checkpoint, a folder under models/wm_pipelines, or 'from the Hub' to "
                    "download the repository named in hub_id. Nothing is downloaded otherwise.",
                ),
                io.Combo.Input(
                    "base",
                    options=[AS_RECORDED, *models],
                    default=AS_RECORDED,
                    tooltip="Where to find the base model of an adapter. 'as recorded' takes the one that its "
                    "wm_config.json names. Must stay 'as recorded' for a whole pipeline.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="Number format of the weights. 'auto' is float16 where the device is good at it, "
                    "else float32.",
                ),
                io.String.Input(
                    "hub_id",
                    default="",
                    optional=True,
                    placeholder="owner/name",
                    tooltip="Hub repository as owner/name. Read only when model is 'from the Hub'.",
                ),
                io.String.Input(
                    "revision",
                    default="",
                    optional=True,
                    placeholder="main",
                    tooltip="Branch, tag or commit of the Hub repository; empty takes its main branch.",
                ),
                io.Combo.Input(
                    "lora",
                    options=[NONE, *folders.list_files(LORAS)],
                    default=NONE,
                    optional=True,
                    tooltip="A LoRA from models/loras, merged into the base: its denoiser and text encoder.",
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip="Weight of the LoRA; 1 is as trained. Read only when there is one.",
                ),
                io.Combo.Input(
                    "vae",
                    options=[NONE, *folders.list_files(VAES)],
                    default=NONE,
                    optional=True,
                    tooltip="A VAE from models/vae in place of the base's; it must be built alike.",
                ),
                io.Combo.Input(
                    "motion_adapter",
                    options=[NONE, *folders.list_motion_adapters(folders.model_roots())],
                    default=NONE,
                    optional=True,
                    tooltip="A motion adapter of AnimateDiff. A Mojito pipeline takes it in place of its own; one "
                    "that makes pictures becomes a Mojito pipeline.",
                ),
            ],
            outputs=[Pipeline.Output("pipeline", tooltip="The loaded pipeline, for the sampling nodes.")],
        )

    @classmethod
    def validate_inputs(cls, hub_id: str = "", revision: str = "") -> bool | str:
        if hub_id and not HUB_ID.fullmatch(hub_id):
            return f"hub_id {hub_id!r} is not of the form owner/name"
        if revision and not re.fullmatch(r"[\w./-]+", revision, re.ASCII):
            return f"revision {revision!r} is not a branch, tag or commit"
        return True

    @classmethod
    def fingerprint_inputs(
        cls, model: str, base: str, lora: str = NONE, vae: str = NONE, motion_adapter: str = NONE, **_: Any
    ) -> str:
        roots = folders.model_roots()
        local = [name for name in (model, base) if name not in (FROM_HUB, AS_RECORDED)]
        read = [folders.resolve_model(name, roots) for name in local]
        return repr([folders.fingerprint(path) for path in [*read, *_files(lora, vae, motion_adapter).values()]])

    @classmethod
    def execute(
        cls,
        model: str,
        base: str,
        dtype: str,
        hub_id: str = "",
        revision: str = "",
        lora: str = NONE,
        lora_strength: float = 1.0,
        vae: str = NONE,
        motion_adapter: str = NONE,
    ) -> io.NodeOutput:
        from wm_pipelines import AutoWMPipeline

        from ._shared.memory import PipelineHandle

        roots = folders.model_roots()
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is unknown; choose from {', '.join(DTYPES)}")
        if model == FROM_HUB:
            if not HUB_ID.fullmatch(hub_id):
                raise ValueError(f"model is {FROM_HUB!r}, so hub_id must be owner/name, got {hub_id!r}")
            source = hub_id
        else:
            source = folders.resolve_model(model, roots)
        files = _files(lora, vae, motion_adapter)
        with outside_inference_mode(), blaming_fields():
            pipeline = AutoWMPipeline.from_pretrained(
                source,
                base=None if base == AS_RECORDED else folders.resolve_model(base, roots),
                revision=revision or None if model == FROM_HUB else None,
                local_files_only=model != FROM_HUB,
                dtype=_torch_dtype(dtype),
            )
            pipeline = _with_files(pipeline, files, lora_strength)
        name = hub_id if model == FROM_HUB else model
        return io.NodeOutput(PipelineHandle(pipeline, " + ".join([name, *(path.name for path in files.values())])))


def _files(lora: str, vae: str, motion_adapter: str) -> dict[str, Path]:
    """The files of the user's that were chosen, by the input that names them."""
    found = {}
    if lora != NONE:
        found["lora"] = folders.resolve_file("lora", LORAS, lora)
    if vae != NONE:
        found["vae"] = folders.resolve_file("vae", VAES, vae)
    if motion_adapter != NONE:
        found["motion_adapter"] = folders.resolve_motion_adapter(motion_adapter, folders.model_roots())
    return found


def _with_files(pipeline: Any, files: dict[str, Path], strength: float) -> Any:
    """The pipeline with the user's parts in it; the figures of its record are those of other weights, so they go."""
    from wm_pipelines.hub.user_parts import add_lora, read_vae

    if "lora" in files:
        add_lora(pipeline, files["lora"], strength)
    if "vae" in files:
        pipeline.register_modules(vae=read_vae(files["vae"], getattr(pipeline, "vae", None)))
    if "motion_adapter" in files:
        from wm_pipelines.mojito.user_motion import read_motion_adapter, with_motion

        pipeline = with_motion(pipeline, read_motion_adapter(files["motion_adapter"]))
    if files and getattr(pipeline, "wm_config", None) is not None:
        pipeline.wm_config = pipeline.wm_config.model_copy(update={"evaluation": []})
    return pipeline


def _torch_dtype(name: str) -> Any:
    import comfy.model_management
    import torch

    if name == "auto":
        good = comfy.model_management.should_use_fp16(comfy.model_management.get_torch_device())
        name = "float16" if good else "float32"
    return getattr(torch, name)


NODES = (WM_LoadPipeline,)
