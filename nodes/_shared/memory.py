"""A loaded pipeline under ComfyUI's memory manager.

ComfyUI's `ModelPatcher` sets attributes such as `device` on the module it moves, which diffusers models refuse. So
the handle gives it a plain container module that holds the pipeline's own modules: ComfyUI counts them, loads them
before a run and moves them away when it needs room. Nothing here, nor in any node, moves weights by itself.
The handle is referenced by ComfyUI's output cache only, so dropping that cache (`/free`) frees every tensor.
"""

import weakref
from typing import Any

import torch

_handles: "weakref.WeakSet[PipelineHandle]" = weakref.WeakSet()


class PipelineWeights(torch.nn.Module):
    """The modules of a pipeline side by side; it is moved, never called."""


class PipelineHandle:
    """What travels on a WM_PIPELINE socket: a pipeline and the patcher through which ComfyUI moves its weights.

    Args:
        pipeline: a `DiffusionPipeline` on the CPU.
        name: what the user chose in the loader, for messages.
    """

    def __init__(self, pipeline: Any, name: str):
        import comfy.model_management
        import comfy.model_patcher

        self.pipeline = pipeline
        self.name = name
        self.weights = PipelineWeights()
        self._add_modules()
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.weights,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        _handles.add(self)

    def _add_modules(self) -> None:
        for key, component in self.pipeline.components.items():
            if isinstance(component, torch.nn.Module):
                self.weights.add_module(key, component)

    def refitted(self, name: str) -> None:
        """After a fit: counts the modules that it made or replaced too, and takes another name.

        The weights leave ComfyUI's device, so that it counts all of them when it brings them back.
        """
        self.name = name
        self._add_modules()
        self.patcher.detach()
        self.patcher.size = 0  # ComfyUI measures once; a fit adds weights

    def load(self, pictures: int, height: int, width: int, training: bool = False) -> Any:
        """Have ComfyUI bring the weights to its device, with room for a run; returns the pipeline.

        Args:
            pictures: how many are made at once.
            height, width: of each, in pixels; 0 for the model's own size.
            training: the run keeps what its backward pass needs.
        """
        import comfy.model_management

        if hasattr(self.pipeline, "activation_bytes"):
            needed = self.pipeline.activation_bytes(pictures, training)
        else:
            needed = self.memory_required(pictures, height, width) * (3 if training else 1)
        # All of it or nothing: stock diffusers layers can't run with part of their weights elsewhere.
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed, force_full_load=True)
        return self.pipeline

    def memory_required(self, pictures: int, height: int, width: int) -> int:
        """Bytes of activations of a diffusion model to keep free: an estimate with room to spare.

        The UNet and its adapter see each picture (each frame of a video) twice (guidance) at a few kilobytes per
        latent cell and channel; the VAE decodes at full size, a picture at a time. A transformer has at most one token
        for 16 x 16 pixels.
        """
        element = next(self.weights.parameters()).element_size()
        if getattr(self.pipeline, "unet", None) is None:
            transformer = self.pipeline.transformer.config
            wide = transformer.num_attention_heads * transformer.attention_head_dim
            return 2 * pictures * (height or 512) * (width or 512) // 256 * wide * 16 * element
        unet, vae = self.pipeline.unet.config, self.pipeline.vae.config
        own = unet.sample_size if isinstance(unet.sample_size, int) else max(unet.sample_size)
        factor = 2 ** (len(vae.block_out_channels) - 1)
        area = (height or own * factor) * (width or own * factor)
        steps = 2 * pictures * area // factor**2 * sum(unet.block_out_channels) * 8 * element
        decoding = area * max(vae.block_out_channels) * 8 * element
        return max(steps, decoding)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights and buffers."""
        tensors = [*self.weights.parameters(), *self.weights.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def device(self) -> torch.device:
        """Where the weights are now."""
        return next(self.weights.parameters()).device


def resident() -> list[str]:
    """One line for each pipeline that is still in memory."""
    return sorted(
        f"{handle.name}: {type(handle.pipeline).__name__}, {handle.nbytes / 2**20:.1f} MiB on {handle.device}"
        for handle in _handles
    )
