"""WM_KroneckerApply: a Kronecker adapter patches a native ComfyUI model."""

from typing import Any

from comfy_api.latest import io

from ._shared import folders
from ._shared.guards import outside_inference_mode
from ._shared.types import CATEGORY, aliases


class WM_KroneckerApply(io.ComfyNode):
    """Adds a Kronecker adapter to a MODEL, as LoraLoader adds a LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_KroneckerApply",
            display_name="WM Kronecker Apply",
            category=f"{CATEGORY}/adapt",
            **aliases("lora, lokr, lycoris, adapter"),
            description="Patch a native model with a Kronecker adapter trained on its diffusers twin, without "
            "converting it to LoRA.",
            inputs=[
                io.Model.Input("model", tooltip="A diffusion model from any of ComfyUI's loaders."),
                io.Combo.Input(
                    "adapter",
                    options=folders.list_adapters(folders.model_roots()),
                    tooltip="An embedded adapter, or a folder under models/wm_pipelines with adapter_config.json and "
                    "adapter_model.safetensors, as save_adapter and PEFT write it.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Weight of the update; 1 is as trained, 0 leaves the model as it is.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The patched model; the one that came in is left alone.")],
        )

    @classmethod
    def fingerprint_inputs(cls, adapter: str, **_: Any) -> str:
        return repr(folders.fingerprint(folders.resolve_adapter(adapter, folders.model_roots())))

    @classmethod
    def execute(cls, model: Any, adapter: str, strength: float) -> io.NodeOutput:
        from wm_pipelines.adapters.kronecker import read_layers

        from ._shared.native_patch import patches_for

        folder = folders.resolve_adapter(adapter, folders.model_roots())
        with outside_inference_mode():
            layers = read_layers(folder)
        patches = patches_for(model.model, layers)
        patched = model.clone()
        patched.add_patches(patches, strength)
        return io.NodeOutput(patched)


NODES = (WM_KroneckerApply,)
