"""The base class of modules that a method adds: diffusers' own, from safetensors alone."""

import os
from collections.abc import Mapping
from typing import Any

from diffusers import ModelMixin

from wm_pipelines.hub.checking import check_folder, translated
from wm_pipelines.hub.stock import check_complete, safetensors_only
from wm_pipelines.hub.weights import align
from wm_pipelines.record import check_values


class WMModel(ModelMixin):
    """A `ModelMixin` that never reads a pickle. A module that defines one imports the name `ModelMixin` beside it: the
    loader of pipelines looks it up there."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in diffusers; a loaded model computes what the saved one did, bit for bit (`align`).

        Raises:
            ValueError: pickled weights or code were asked for, a file is damaged or says what no model can be, or
                weights of the model are not in it (under `output_loading_info` it's for the caller to look).
        """
        kwargs = safetensors_only(kwargs, may_be_none=True)
        shown = kwargs.pop("output_loading_info", False)
        with translated(pretrained_model_name_or_path):
            folder = os.path.join(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
            if os.path.isdir(folder):
                check_folder(folder)
            model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        if not shown:
            check_complete(info, folder)
        align(model)
        return (model, info) if shown else model

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Any:
        """As in diffusers.

        Raises:
            ValueError: no configuration, a value of another type than the model takes, or one that makes no model.
        """
        if not isinstance(config, Mapping):
            raise ValueError(f"`config` must be a configuration, got {type(config).__name__}")
        check_values(cls, config)
        with translated(f"the configuration of {cls.__name__}"):
            return super().from_config(config, **kwargs)
