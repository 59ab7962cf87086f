"""The base of pipelines made of Modular Diffusers blocks: what a block says of itself, and folders read without code.

A block's class says what it needs and gives; a pipeline's class says which components it holds. A folder that
`save_pretrained` wrote holds safetensors and JSON alone, and its blocks are the package's own.
"""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import DiffusionPipeline
from diffusers.modular_pipelines import ModularPipeline, ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, ConfigSpec, InputParam, OutputParam
from torch import nn

from wm_pipelines.config import CONFIG_NAME, WMConfig
from wm_pipelines.hub.checking import check_folder
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.hub.store import seal
from wm_pipelines.runtime.readers import read_json


class Block(ModularPipelineBlocks, ABC):
    """A block whose class says what it needs (`parts`, `takes`: name -> default, or `...` if it must be given) and
    `gives`; `run` works on the state of one call.

    Attributes:
        kinds: the class of each component that may be in `parts`. settings: name -> default of what a folder's index
            says beside its components.
    """

    about = ""
    kinds: ClassVar[dict[str, type]] = {}
    parts: tuple[str, ...] = ()
    settings: ClassVar[dict[str, Any]] = {}
    takes: ClassVar[dict[str, Any]] = {}
    gives: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        return self.about

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec(name, self.kinds[name]) for name in self.parts]

    @property
    def expected_configs(self) -> list[ConfigSpec]:
        return [ConfigSpec(name, default) for name, default in self.settings.items()]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam(name, required=default is ..., default=None if default is ... else default)
            for name, default in self.takes.items()
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam(name) for name in self.gives]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block = self.get_block_state(state)
        self.run(components, block)
        self.set_block_state(state, block)
        return components, state

    @abstractmethod
    def run(self, pipe: Any, block: Any) -> None:
        """Reads what it `takes` from `block` and writes what it `gives` there.

        Args:
            pipe: holds the components of `parts`. block: the state of one call, by attribute.
        """


class WMModularPipeline(ModularPipeline):
    """A `ModularPipeline` over components that are at hand, saved and loaded as a folder without code.

    Attributes:
        made_of: the blocks that stand where none are given.
        kinds: class of each component; the index of a folder may name one that derives from it, of diffusers,
            transformers or `own`.
        optional: components that need not be there.
        wm_config: the record of the checkpoint that the components were loaded from, if it has one.
    """

    made_of: ClassVar[type[ModularPipelineBlocks]]
    kinds: ClassVar[dict[str, type]] = {}
    own: ClassVar[tuple[type, ...]] = ()
    optional: ClassVar[frozenset[str]] = frozenset()

    wm_config: WMConfig | None = None
    progress_bar = DiffusionPipeline.progress_bar
    set_progress_bar_config = DiffusionPipeline.set_progress_bar_config

    def __init__(self, blocks: ModularPipelineBlocks | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(self.made_of() if blocks is None else blocks, *args, **kwargs)

    @classmethod
    def from_parts(cls, blocks: ModularPipelineBlocks | None = None, **parts: Any) -> Self:
        """A pipeline over loaded components, by the names of `kinds`.

        Raises:
            ValueError: a component is missing or unknown, or they don't fit together.
        """
        pipe = cls(blocks)
        settings = {name: parts.pop(name) for name in pipe._config_specs if name in parts}
        parts = {name: part for name, part in parts.items() if part is not None}
        missing = sorted(set(cls.kinds) - cls.optional - set(parts))
        unknown = sorted(set(parts) - set(cls.kinds))
        if missing or unknown:
            what = f"lacks {missing[0]}" if missing else f"has no use for {unknown[0]}"
            raise ValueError(f"parts: the pipeline {what}; it takes {', '.join([*cls.kinds, *pipe._config_specs])}")
        pipe.update_components(**settings)
        pipe.update_components(**pipe.fitted(parts))
        return pipe

    def fitted(self, parts: dict[str, Any]) -> dict[str, Any]:
        """The components as the pipeline holds them.

        Raises:
            ValueError: they don't fit together.
        """
        return parts

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """As in diffusers, its index anew, with the record beside the components where there is one."""
        super().save_pretrained(os.fspath(save_directory), **{"overwrite_modular_index": True, **kwargs})
        if self.wm_config is not None:
            seal(save_directory, self.wm_config)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, blocks: ModularPipelineBlocks | None = None, **kwargs: Any
    ) -> Self:
        """A folder that `save_pretrained` wrote, from its safetensors and JSON alone; nothing in it is run.

        Args:
            kwargs: of the models' loaders, for example `dtype`.

        Raises:
            ValueError: there is no modular index, a part is missing, or a file is damaged.
        """
        folder = Path(folder)
        if not (folder / cls.config_name).is_file():
            raise ValueError(f"{folder} has no {cls.config_name}")
        check_folder(folder)
        index = read_json(folder / cls.config_name)
        if "auto_map" in index or (folder / ModularPipelineBlocks.config_name).is_file():
            raise ValueError(f"{folder} names blocks of its own; only the package's blocks are run")
        found: dict[str, type] = {}
        for name in cls.kinds:
            if (folder / name).is_dir():
                found[name] = cls._class_of(name, index)
            elif name not in cls.optional:
                raise ValueError(f"{folder} has no {name}/")
        parts: dict[str, Any] = {}
        for name, kind in found.items():
            if issubclass(kind, nn.Module):
                parts[name] = load_model(kind, folder, subfolder=name, **kwargs)
            else:
                parts[name] = load_part(kind, folder, subfolder=name)
        made = cls.made_of() if blocks is None else blocks
        settings = {spec.name: index[spec.name] for spec in made.expected_configs if spec.name in index}
        pipe = cls.from_parts(made, **parts, **settings)
        if (folder / CONFIG_NAME).is_file():
            pipe.wm_config = WMConfig.load(folder)
        return pipe

    @classmethod
    def _class_of(cls, name: str, index: dict[str, Any]) -> type:
        """The class that the index names for a component; of diffusers, transformers or this package, none else."""
        import diffusers
        import transformers

        entry = index.get(name)
        wanted = entry[1] if isinstance(entry, list) and len(entry) == 3 else None
        base = cls.kinds[name]
        for known in (base, *cls.own):
            if known.__name__ == wanted and issubclass(known, base):
                return known
        for library in (diffusers, transformers):
            found = getattr(library, wanted, None) if isinstance(wanted, str) and wanted.isidentifier() else None
            if isinstance(found, type) and issubclass(found, base):
                return found
        raise ValueError(
            f"the modular index names the {name} {wanted!r}; it must be a {base.__name__} of diffusers or transformers"
        )
