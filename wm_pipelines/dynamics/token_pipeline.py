"""What both directions share: a token model, its tokeniser of pictures, its layout and its adapters in one folder."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import VQModel

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME, WMConfig
from wm_pipelines.dynamics.adapters import active, adapter_names, bare, load_adapter, save_adapter
from wm_pipelines.dynamics.backend import TokenBackend
from wm_pipelines.dynamics.families import make_backend
from wm_pipelines.dynamics.layout import Layout
from wm_pipelines.dynamics.pictures import to_size
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.runtime.readers import located

ADAPTERS = "adapters"  # folder of a checkpoint that holds an adapter for each direction


class TokenPipeline(WMPipeline):
    """A token model that reads and writes pictures as codes; base of the dynamics and the world model's pipelines.

    Args:
        model: a causal model of transformers; see `families.make_backend`.
        tokenizer: of its words.
        vq: what makes codes of pictures and back; None for a model that holds its own (Emu3).
        layout: a `Layout`, its values, or the name of one that ships; None is that of the model's class.

    Raises:
        ValueError: parts that don't fit one another, or a class that can't make pictures.
    """

    _optional_components = ["vq"]
    model_cpu_offload_seq = "model->vq"
    direction = ""  # name of the adapter that a subclass reads with, where the model has it

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        vq: VQModel | None = None,
        layout: Layout | Mapping[str, Any] | str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(layout, Mapping):
            with located("`layout`"):
                layout = Layout.model_validate(dict(layout))
        self.register_modules(model=model, tokenizer=tokenizer, vq=vq)
        self.backend: TokenBackend = make_backend(model, vq, tokenizer, layout)
        self.register_to_config(layout=self.backend.layout.model_dump(mode="json"))
        model.eval().requires_grad_(False)
        self.backend.pictures.vq.float().eval().requires_grad_(False)  # half precision flips codes

    @property
    def layout(self) -> Layout:
        return self.backend.layout

    @property
    def adapter(self) -> str | None:
        """The adapter that this direction reads with; None where the model has none of its name."""
        return self.direction if self.direction in adapter_names(self.model) else None

    def reading(self) -> AbstractContextManager[None]:
        """Context in which this direction's adapter acts; what acted before acts again after it."""
        return active(self.model, self.adapter)

    def activation_bytes(self, pictures: int, training: bool = False) -> int:
        """Bytes to keep free for reading `pictures` candidates at once: cache and activations of a sequence of two
        pictures each, an estimate with room to spare."""
        config, factor = self.model.config.get_text_config(), self.backend.pictures.factor
        tokens = 3 * (self.layout.size[0] // factor) * (self.layout.size[1] // factor) + 256
        wide = config.num_hidden_layers * 2 * config.hidden_size + 4 * config.intermediate_size
        return pictures * tokens * wide * 4 * (4 if training else 1)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Codes `(B, h, w)` of pictures `(B, 3, H, W)`, on the CPU."""
        device = self.backend.pictures.codebook.device
        return self.backend.pictures.encode(pictures.to(device)).cpu()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Pictures `(B, 3, H, W)` of codes `(B, h, w)`, on the CPU."""
        with torch.no_grad():
            return self.backend.pictures.decode(codes.to(self.backend.pictures.codebook.device)).cpu()

    def fitted(self, pictures: list, resize: str | None, name: str) -> torch.Tensor:
        """Pictures at the model's size; see `pictures.to_size`."""
        return to_size(pictures, self.layout.size, resize, self.layout.pad_colour, name)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "TokenPipeline":
        """As in diffusers, with the adapters of the folder's `adapters/`."""
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        folder = pipeline.source_folder
        for path in sorted((folder / ADAPTERS).glob("*/")) if folder is not None else []:
            if path.name not in adapter_names(pipeline.model):
                load_adapter(pipeline.model, path, path.name)
        return pipeline

    @classmethod
    def from_base(cls, base: str | os.PathLike, folder: str | os.PathLike, **kwargs: Any) -> "TokenPipeline":
        """The adapter `folder` on the base `base`, under this direction's name.

        Args:
            kwargs: passed to the pipeline's `from_pretrained`, for example `dtype`.
        """
        folder = hub.resolve(folder)
        pipeline = cls.from_pretrained(hub.resolve(base), **kwargs)
        load_adapter(pipeline.model, folder, cls.direction)
        if (folder / CONFIG_NAME).is_file():
            pipeline.wm_config = WMConfig.load(folder)
        return pipeline

    def save_components(self, folder: Path, **kwargs: Any) -> None:
        with bare(self.model):
            super().save_components(folder, **kwargs)
        for name in adapter_names(self.model):
            save_adapter(self.model, name, Path(folder) / ADAPTERS / name)
