"""The base class of modules that a method adds: diffusers' own, from safetensors alone."""

from typing import Any

from diffusers import ModelMixin

from wm_pipelines.hub.stock import safetensors_only


class WMModel(ModelMixin):
    """A `ModelMixin` that never reads a pickle. A module that defines one imports the name `ModelMixin` beside it: the
    loader of pipelines looks it up there."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in diffusers.

        Raises:
            ValueError: pickled weights or code were asked for.
        """
        return super().from_pretrained(pretrained_model_name_or_path, **safetensors_only(kwargs, may_be_none=True))
