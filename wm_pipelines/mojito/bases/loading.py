"""What a base's stock pipeline can load into its components and switch on, for a pipeline that samples through it.

LoRA, IP-Adapter and textual inversion change components, which both pipelines share; FreeInit (arXiv 2312.07537) and
FreeNoise (arXiv 2310.15169) are settings of the stock pipeline, which are handed to each one that is made.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.loaders import FromSingleFileMixin

from wm_pipelines.hub.stock import safetensors_only


class StockLoading(FromSingleFileMixin):
    """Methods of diffusers' loaders under their own names; a base without one refuses it by name."""

    def load_lora_weights(self, weights: Any, *args: Any, **kwargs: Any) -> None:
        """As the base's stock pipeline, from safetensors or a dict of tensors."""
        self._by_stock("load_lora_weights", weights, *args, **_safe(weights, kwargs))

    def unload_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """As the base's stock pipeline."""
        self._by_stock("unload_lora_weights", *args, **kwargs)

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """As the base's stock pipeline."""
        self._by_stock("fuse_lora", *args, **kwargs)

    def unfuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """As the base's stock pipeline."""
        self._by_stock("unfuse_lora", *args, **kwargs)

    def set_adapters(self, *args: Any, **kwargs: Any) -> None:
        """As the base's stock pipeline."""
        self._by_stock("set_adapters", *args, **kwargs)

    def delete_adapters(self, *args: Any, **kwargs: Any) -> None:
        """As the base's stock pipeline."""
        self._by_stock("delete_adapters", *args, **kwargs)

    def get_active_adapters(self) -> list[str]:
        """As the base's stock pipeline."""
        return self._by_stock("get_active_adapters")

    def get_list_adapters(self) -> dict[str, list[str]]:
        """As the base's stock pipeline."""
        return self._by_stock("get_list_adapters")

    def enable_lora(self) -> None:
        """As the base's stock pipeline."""
        self._by_stock("enable_lora")

    def disable_lora(self) -> None:
        """As the base's stock pipeline."""
        self._by_stock("disable_lora")

    def load_textual_inversion(self, weights: Any, *args: Any, **kwargs: Any) -> None:
        """As the base's stock pipeline, from safetensors or a dict of tensors. Its words are then part of prompts."""
        self._by_stock("load_textual_inversion", weights, *args, **_safe(weights, kwargs))

    def unload_textual_inversion(self, *args: Any, **kwargs: Any) -> None:
        """As the base's stock pipeline."""
        self._by_stock("unload_textual_inversion", *args, **kwargs)

    def load_ip_adapter(
        self, weights: Any, subfolder: Any, weight_name: Any, image_encoder_folder: None = None, **kwargs: Any
    ) -> None:
        """As the base's stock pipeline, from safetensors. Objects can't be steered while it is loaded.

        Args:
            image_encoder_folder: only None, as diffusers would read it pickled too; give the pipeline an
                `image_encoder`, or the call `ip_adapter_image_embeds`.
        """
        for name in weight_name if isinstance(weight_name, list) else [weight_name]:
            _refuse_pickle(name)
        if image_encoder_folder is not None:
            raise ValueError(f"image_encoder_folder={image_encoder_folder!r}; load it and pass it as image_encoder")
        kwargs["image_encoder_folder"] = None
        self._by_stock("load_ip_adapter", weights, subfolder, weight_name, **kwargs)

    def set_ip_adapter_scale(self, scale: Any) -> None:
        """As the base's stock pipeline."""
        self._by_stock("set_ip_adapter_scale", scale)

    def unload_ip_adapter(self) -> None:
        """As the base's stock pipeline."""
        self._by_stock("unload_ip_adapter")

    def enable_free_init(self, *args: Any, **kwargs: Any) -> None:
        """As the base's stock pipeline; each of its rounds is steered."""
        self._by_stock("enable_free_init", *args, **kwargs)

    def disable_free_init(self) -> None:
        """As the base's stock pipeline."""
        self._by_stock("disable_free_init")

    def enable_free_noise(self, *args: Any, **kwargs: Any) -> None:
        """As the base's stock pipeline; clips may then be longer than the motion adapter has positions for."""
        self._by_stock("enable_free_noise", *args, **kwargs)

    def disable_free_noise(self) -> None:
        """As the base's stock pipeline."""
        self._by_stock("disable_free_noise")

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """As the base's stock pipeline."""
        self._by_stock("enable_freeu", s1=s1, s2=s2, b1=b1, b2=b2)

    def disable_freeu(self) -> None:
        """As the base's stock pipeline."""
        self._by_stock("disable_freeu")

    def fuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """As the base's stock pipeline. Objects can't be steered while the denoiser's are fused."""
        self._by_stock("fuse_qkv_projections", unet=unet, vae=vae)

    def unfuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """As the base's stock pipeline."""
        self._by_stock("unfuse_qkv_projections", unet=unet, vae=vae)

    @contextmanager
    def windows(self, length: int, stride: int) -> Iterator[None]:
        """Calls inside the block make their clips in FreeNoise's windows, so that they may be longer than the motion
        adapter has positions for.

        Args:
            length: frames of a window.
            stride: frames from one to the next; where windows overlap, they are weighed into one another.

        Raises:
            ValueError: a base that has no such windows, no whole number from 1, or a stride that leaves frames out.
        """
        for name, value in (("length", length), ("stride", stride)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}; a whole number of frames, 1 or more")
        if stride > length:
            raise ValueError(f"stride={stride} leaves out frames between windows of {length}; at most {length}")
        self.enable_free_noise(context_length=length, context_stride=stride)
        try:
            yield
        finally:
            self.disable_free_noise()

    @classmethod
    def from_single_file(cls, file: str | os.PathLike, **kwargs: Any) -> "DiffusionPipeline":
        """As in diffusers, from .safetensors alone: a Stable Diffusion checkpoint beside a `motion_adapter`, say.

        Args:
            kwargs: components, and `config`, a folder or Hub id of a pipeline of that kind.
        """
        _refuse_pickle(file)
        return super().from_single_file(os.fspath(file), **kwargs)

    def encode_prompt(self, *args: Any, **kwargs: Any) -> tuple:
        """As the base's stock pipeline, with its own arguments."""
        return self._by_stock("encode_prompt", *args, **kwargs)

    def _by_stock(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What the stock pipeline's method gives; parts and settings that it leaves there are kept here.

        Raises:
            ValueError: the base's stock pipeline has no such method.
        """
        stock = self.stock()
        if not hasattr(stock, name):
            raise ValueError(f"{type(stock).__name__} has no {name}")
        try:
            return getattr(stock, name)(*args, **kwargs)
        finally:
            found = {part: value for part, value in stock.components.items() if part in self.components}
            new = {part: value for part, value in found.items() if value is not self.components[part]}
            if new:
                self.register_modules(**new)
            self.stock_settings = {k: v for k, v in vars(stock).items() if k.startswith(("_free_", "fusing_"))}


def _safe(weights: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a loader of diffusers with which nothing pickled is read."""
    if isinstance(weights, dict):
        return kwargs
    if isinstance(weights, str | os.PathLike) and os.path.isfile(weights):
        _refuse_pickle(weights)
    _refuse_pickle(kwargs.get("weight_name"))
    return safetensors_only(kwargs)


def _refuse_pickle(name: Any) -> None:
    if name is not None and not os.fspath(name).endswith(".safetensors"):
        raise ValueError(f"{os.fspath(name)!r} is not allowed: weights are read from .safetensors alone")
