"""WM_ExportLoRA: a Kronecker adapter becomes a plain LoRA that every other tool loads."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ._shared import folders
from ._shared.guards import outside_inference_mode
from ._shared.types import CATEGORY, aliases

NONE = "none"
FORMATS = ("kohya", "diffusers", "peft")
DTYPES = ("float16", "float32", "bfloat16")


class WM_ExportLoRA(io.ComfyNode):
    """Writes Kronecker adapters into output/loras, where LoraLoader looks too."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        adapters = folders.list_kronecker(folders.model_roots())
        return io.Schema(
            node_id="WM_ExportLoRA",
            display_name="WM Export LoRA",
            category=f"{CATEGORY}/adapt",
            **aliases("lora, lokr, kronecker, convert, save lora"),
            description="Write a Kronecker adapter as a plain LoRA, exactly: with a strength for each block, and with "
            "the text encoder's adapter beside the model's.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=adapters,
                    tooltip="A folder with adapter_config.json and adapter_model.safetensors, under "
                    "models/wm_pipelines or embedded; the embedded one is of an image tower, which only peft takes.",
                ),
                io.String.Input(
                    "filename_prefix", default="wm_lora", tooltip="Of the file, or of the folder, in output/loras."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Multiplied into the update; 1 is as trained.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    multiline=True,
                    tooltip="Further strength of single blocks, a line each: down_blocks.1 = 0.5. A block at 0 is "
                    "left out.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="kohya",
                    tooltip="kohya for ComfyUI and the web UIs, diffusers for load_lora_weights, peft for any model "
                    "under PEFT.",
                ),
                io.Int.Input(
                    "rank",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Of the file. 0 takes the smallest that is exact; a smaller one must be allowed to lose.",
                ),
                io.Boolean.Input(
                    "allow_lossy",
                    default=False,
                    tooltip="With a rank that is too small, write the nearest update that it can hold.",
                ),
                io.Combo.Input("dtype", options=list(DTYPES), default="float16", tooltip="Number format of the file."),
                io.Combo.Input(
                    "text_encoder",
                    options=[NONE, *folders.list_kronecker(folders.model_roots())],
                    default=NONE,
                    tooltip="An adapter of the text encoder, to go into the same file; not for peft.",
                ),
                io.Float.Input(
                    "text_encoder_strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Multiplied into the text encoder's update. Read only when there is one.",
                ),
            ],
            outputs=[
                io.String.Output("file", tooltip="Name of the file in output/loras, as LoraLoader offers it."),
                io.String.Output("report", tooltip="How many modules it changes, and its rank."),
            ],
        )

    @classmethod
    def validate_inputs(cls, blocks: str = "") -> bool | str:
        from wm_pipelines.adapters.kronecker.lora_file import read_block_strengths

        try:
            read_block_strengths(blocks)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, adapter: str, text_encoder: str, **_: Any) -> str:
        names = [name for name in (adapter, text_encoder) if name != NONE]
        return repr([folders.fingerprint(folders.resolve_kronecker(name, folders.model_roots())) for name in names])

    @classmethod
    def execute(
        cls,
        adapter: str,
        filename_prefix: str,
        strength: float,
        blocks: str,
        format: str,
        rank: int,
        allow_lossy: bool,
        dtype: str,
        text_encoder: str,
        text_encoder_strength: float,
    ) -> io.NodeOutput:
        import folder_paths
        import torch

        from wm_pipelines.adapters.kronecker.lora_file import export_lora, read_block_strengths

        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is unknown; choose from {', '.join(DTYPES)}")
        roots = folders.model_roots()
        source = folders.resolve_kronecker(adapter, roots)
        text = None if text_encoder == NONE else folders.resolve_kronecker(text_encoder, roots)
        root = Path(folder_paths.get_output_directory()) / "loras"
        folder, name, counter, *_ = folder_paths.get_save_image_path(filename_prefix, str(root))
        path = Path(folder) / f"{name}_{counter:05}_{'' if format == 'peft' else '.safetensors'}"
        with outside_inference_mode():
            made = export_lora(
                source,
                path,
                text_encoder=text,
                strength=strength,
                text_encoder_strength=text_encoder_strength,
                blocks=read_block_strengths(blocks),
                format=format,
                rank=rank or None,
                allow_lossy=allow_lossy,
                dtype=getattr(torch, dtype),
            )
        file = path.relative_to(root).as_posix()
        report = f"{file}: {made['modules']} modules at rank {made['rank']}, {format}, {dtype}"
        return io.NodeOutput(file, report, ui={"text": (report,)})


NODES = (WM_ExportLoRA,)
