"""The base class of every pipeline here, and the loader that reads `wm_config.json` to pick one.

`WMPipeline` changes three things of `DiffusionPipeline`: what is fetched and read (never code, never pickle), what
is saved (the record with the hashes, beside the weights), and where weights lie in memory (so that a loaded pipeline
gives what the saved one gave, bit for bit).
"""

import os
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME, BaseModelRef, WMConfig
from wm_pipelines.hub.checking import check_folder, translated
from wm_pipelines.hub.stock import refuse_code, safetensors_only
from wm_pipelines.hub.weights import align
from wm_pipelines.methods import AUTO_USAGE, load, methods, pipelines
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.quiet import leave_out_superfluous_lines

MODEL_INDEX = "model_index.json"

leave_out_superfluous_lines()


class WMPipeline(DiffusionPipeline):
    """A `DiffusionPipeline` whose checkpoints are safetensors and JSON only, with a record beside them.

    `wm_config` is the record of the checkpoint that the pipeline was loaded from (None without one); set it to have
    `save_pretrained` write another.

    Example:
        >>> from wm_pipelines import AutoWMPipeline, WMPipeline
        >>> pipe = AutoWMPipeline.from_pretrained("cpl")
        >>> isinstance(pipe, WMPipeline), pipe.wm_config.method
        (True, 'cpl')
    """

    _wm_config: WMConfig | None = None
    _interrupt = False

    @property
    def interrupt(self) -> bool:
        """Whether a callback asked to stop; it sets `pipe._interrupt = True`, as for any pipeline of diffusers."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value

    @property
    def wm_config(self) -> WMConfig | None:
        if self._wm_config is None:
            self._wm_config = self._read_record()
        return self._wm_config

    @wm_config.setter
    def wm_config(self, value: WMConfig | None) -> None:
        self._wm_config = value

    def recommended(self, name: str, given: Any, otherwise: Any) -> Any:
        """`given`; without one, what the checkpoint's record recommends as `name`, or `otherwise`."""
        if given is not None:
            return given
        settings = self.wm_config.method_config if self.wm_config is not None else None
        return getattr(settings, name, otherwise)

    @property
    def source_folder(self) -> Path | None:
        """Local folder that the pipeline was read from, in the Hub cache for a Hub id; None if built in memory."""
        # diffusers keeps the Hub id as the pipeline's own path, but a folder as the path of each component.
        own = self.config.get("_name_or_path")
        folders = [Path(own)] if own else []
        folders += [path.parent for name, path in self._component_folders().items() if path.name == name]
        return next((folder for folder in folders if (folder / MODEL_INDEX).is_file()), None)

    @property
    def source_revisions(self) -> dict[str, str]:
        """Commit shas on the Hub that the parts were read from: `"pipeline"`, and each adapter by its component."""
        folders = {"pipeline": self.source_folder, **self._component_folders()}
        found = {name: hub.resolved_revision(folder) for name, folder in folders.items() if folder}
        return {name: sha for name, sha in found.items() if sha}

    def _component_folders(self) -> dict[str, Path]:
        paths = {
            name: getattr(getattr(component, "config", None), "_name_or_path", None)
            for name, component in self.components.items()
        }
        return {name: Path(path) for name, path in paths.items() if path}

    def _read_record(self) -> WMConfig | None:
        """The adapter's record with the base's vocabulary where a component is an adapter of this class, else the
        base's own."""
        folder = self.source_folder
        base = WMConfig.load(folder) if folder and (folder / CONFIG_NAME).is_file() else None
        classes = {kind.__name__ for kind in type(self).__mro__}
        for path in self._component_folders().values():
            if (path / CONFIG_NAME).is_file() and (record := WMConfig.load(path)).pipeline in classes:
                return record.model_copy(update={"vocabulary": base.vocabulary if base else None})
        return base

    def register_modules(self, **kwargs: Any) -> None:
        """As in diffusers, with every component's CPU weights aligned."""
        for component in kwargs.values():
            if isinstance(component, nn.Module):
                align(component)
        super().register_modules(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "WMPipeline":
        """As in diffusers, from safetensors alone and without a folder's code.

        Raises:
            ValueError: remote code or pickled weights were asked for, a file is damaged, or one lacks weights.
        """
        kwargs = safetensors_only(kwargs, may_be_none=True)
        with translated(pretrained_model_name_or_path):
            if os.path.isdir(pretrained_model_name_or_path):
                _refuse_adapter(Path(pretrained_model_name_or_path), pretrained_model_name_or_path)
                check_folder(pretrained_model_name_or_path)
            pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if kwargs.get("device_map") is None:  # under one, weights without values are accelerate's
            for name, part in pipeline.components.items():
                lacking = [n for n, p in part.named_parameters() if p.is_meta] if isinstance(part, nn.Module) else []
                if lacking:
                    raise ValueError(f"{pretrained_model_name_or_path} lacks weights of {name}, first {lacking[0]!r}")
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> "WMPipeline":
        """As in diffusers, without a folder's code.

        Raises:
            ValueError: remote code was asked for.
        """
        refuse_code(kwargs)
        return super().from_pipe(pipeline, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a repository's JSON, text and safetensors files and return their folder; takes embedded names too.

        Raises:
            ValueError: remote code or pickled weights were asked for, there are no safetensors, or an embedded
                checkpoint differs from its record.
            HubError: the Hub refused or was not reached.
        """
        safetensors_only(kwargs, may_be_none=True)
        if not hub.REPO_ID.match(pretrained_model_name):
            local = hub.resolve(pretrained_model_name, revision=kwargs.get("revision"))
            if pretrained_model_name in hub.embedded_names():
                hub.verify(local)
            _refuse_adapter(local, pretrained_model_name)
            check_folder(local)
            return str(local)
        folder = hub.download(
            pretrained_model_name,
            revision=kwargs.get("revision"),
            token=kwargs.get("token"),
            cache_dir=kwargs.get("cache_dir"),
            local_files_only=bool(kwargs.get("local_files_only")),
            force_download=bool(kwargs.get("force_download")),
            variant=kwargs.get("variant"),
        )
        check_folder(folder)
        return str(folder)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save all components as safetensors, and `wm_config.json` with their hashes if there is a record.

        Everything is written beside the target first, so a run that dies leaves no half checkpoint under its name.

        Raises:
            ValueError: `safe_serialization=False` or `push_to_hub=True`; use `wm_pipelines.hub.publish` to upload.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError("push_to_hub=True is not supported; save first, then wm_pipelines.hub.publish(folder)")
        if not kwargs.pop("safe_serialization", True):
            raise ValueError("safe_serialization=False is not supported: pickled weights are never written")
        config = self.wm_config
        with atomic_folder(save_directory, last=CONFIG_NAME, listed=hub.recorded_files) as partial:
            self.save_components(partial, **kwargs)
            if config is not None:
                hub.seal(partial, config.model_copy(update={"pipeline": type(self).__name__}))

    def save_components(self, folder: Path, **kwargs: Any) -> None:
        """Everything that `save_pretrained` writes except the record; for pipelines that keep more than components."""
        super().save_pretrained(folder, **kwargs)


class AutoWMPipeline:
    """Loads the right pipeline for a checkpoint from its `wm_config.json`.

    Example:
        >>> pipe = AutoWMPipeline.from_pretrained("flexecontrol")
        >>> type(pipe).__name__, pipe.wm_config.base_model.embedded
        ('FlexEControlPipeline', 'diorama-sd')
    """

    def __init__(self) -> None:
        raise OSError("AutoWMPipeline is not built directly; call AutoWMPipeline.from_pretrained(path_or_repo)")

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        base: str | os.PathLike | None = None,
        verify: bool = True,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> DiffusionPipeline:
        """Load a whole pipeline, or an adapter together with the base that its record names.

        Args:
            source: embedded name, folder or Hub id of a checkpoint with a `wm_config.json`.
            base: where to find the adapter's base instead of the name in the record; it must be the same base. For a
                local `source` whose base is on the Hub and not in the cache, name it here to have it downloaded.
            verify: compare every file with its recorded hash before any tensor is read.
            revision: of `source`, for a Hub id.
            kwargs: passed to the pipeline's `from_pretrained`, for example `dtype`.

        Raises:
            ValueError: no record, unknown schema or pipeline, altered or truncated file, or another base.
            HubError: the Hub refused or was not reached.
        """
        kwargs = safetensors_only(kwargs)
        cache = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder = hub.resolve(source, revision=revision, **cache)
        config = _checked(folder, verify)
        pipeline_class = _pipeline_class(config, folder)
        check_folder(folder)
        if (folder / MODEL_INDEX).is_file():
            if base is not None:
                raise ValueError(f"{source} is a whole pipeline and takes no base, got base={os.fspath(base)!r}")
            with translated(source):
                return pipeline_class.from_pretrained(str(folder), **kwargs)
        from_base = getattr(pipeline_class, "from_base", None)  # a stock class has none
        if from_base is None or config.base_model is None:
            raise ValueError(f"{folder} has no {MODEL_INDEX} and its record names no base to put it on")
        if base is not None:
            base_folder = hub.resolve(base, **cache)
        else:  # a folder of one's own reaches for the Hub only when it is told to
            on_hub = hub.resolved_revision(folder) is not None
            base_folder = hub.resolve_ref(
                config.base_model, **{**cache, "local_files_only": local_files_only or not on_hub}
            )
        _refuse_other_base(config.base_model, source, base or config.base_model.name, base_folder)
        if (base_folder / CONFIG_NAME).is_file():
            _checked(base_folder, verify)
        with translated(source):
            return from_base(base_folder, folder, **kwargs)


def _refuse_adapter(folder: Path, source: str | os.PathLike) -> None:
    """Refuse a checkpoint that stands on a base where a whole pipeline is read."""
    if (folder / CONFIG_NAME).is_file() and not (folder / MODEL_INDEX).is_file():
        base = WMConfig.load(folder).base_model
        if base is not None:
            name = os.fspath(source)
            raise ValueError(
                f"{name!r} is no whole pipeline: it stands on {base.name!r}; AutoWMPipeline.from_pretrained({name!r}) "
                "loads both"
            )


def _checked(folder: Path, verify: bool) -> WMConfig:
    """The record of a folder whose files are whole, and equal to the record if `verify`."""
    if verify:
        return hub.verify(folder)
    hub.check_weights(folder)
    return WMConfig.load(folder)


def _pipeline_class(config: WMConfig, folder: Path) -> type[DiffusionPipeline]:
    known = pipelines()
    method = methods().get(config.method)
    if config.pipeline is None and method is not None and method.usage != AUTO_USAGE:
        usage = "; ".join(filter(None, method.usage.splitlines()))
        raise ValueError(f"{folder} holds no pipeline; what is there is loaded so: {usage}")
    if config.pipeline not in known:
        raise ValueError(
            f"{folder / CONFIG_NAME} names the pipeline {config.pipeline!r}; known are {', '.join(sorted(known))}"
        )
    return load(known[config.pipeline])


def _refuse_other_base(
    wanted: BaseModelRef, source: str | os.PathLike, given: str | os.PathLike, folder: Path
) -> None:
    """Refuse a base that is not the one in the adapter's record; a stock local folder carries no name and passes."""
    record = WMConfig.load(folder) if (folder / CONFIG_NAME).is_file() else None
    given = os.fspath(given)
    found = hub.fingerprint(record) if record else None
    if wanted.fingerprint is not None:
        same = found == wanted.fingerprint
    elif wanted.embedded is not None:
        same = given == wanted.embedded or (record is not None and record.method == wanted.embedded)
    else:
        same = given == wanted.repo_id or (Path(given).is_dir() and record is None)
    if not same:
        marks = [f"fingerprint {mark[:12]}" if mark else "no fingerprint" for mark in (wanted.fingerprint, found)]
        raise ValueError(
            f"{os.fspath(source)} is an adapter for {wanted.name!r} ({marks[0]}), but the base is {given!r} "
            f"({record.method if record else 'without a record'}, {marks[1]}); "
            "to try it there all the same, give both to the pipeline class yourself"
        )
