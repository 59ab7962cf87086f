"""The PEFT tuner: wraps the target layers and lets layers of one set share their slow weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.other import AuxiliaryTrainingWrapper, get_pattern_key
from torch import nn

from .base_layers import CONVOLUTIONS, channels, sizes
from .config import KroneckerConfig
from .conv_layer import AdaptedConv
from .factors import check_divides
from .layer import AdaptedLinear, AdapterSpec
from .lora_writers import guard_lora_writers
from .merging import check_mergeable
from .param_layer import ParamWrapper
from .targets import check_parameters, check_saved, check_targets, row_slices, set_name, supported_base

__all__ = ["KroneckerModel"]


def _pass_adapter_names(module: nn.Module, args: tuple, kwargs: dict, adapter_names: list[str]) -> tuple:
    return args, {**kwargs, "adapter_names": adapter_names}


def _spec(config: KroneckerConfig, key: str, slices: tuple[tuple[int, int], ...] | None = None) -> AdapterSpec:
    """The adapter of the layer or parameter `key`."""
    ranks, alphas = config.rank_pattern, config.alpha_pattern
    return AdapterSpec(
        terms=config.terms,
        r=ranks.get(get_pattern_key(ranks, key), config.r),
        n_out=config.n_out,
        n_in=config.n_in,
        factored=config.factored,
        alpha=alphas.get(get_pattern_key(alphas, key), config.alpha),
        dropout=config.dropout,
        bias=config.bias,
        init=config.init if config.init_weights else "random",
        slices=slices,
    )


def _ends_one_of(key: str, names: Iterable[str]) -> bool:
    return any(name == key or name.endswith(f".{key}") for name in names)


class KroneckerModel(BaseTuner):
    """A model whose targeted linear layers and convolutions carry Kronecker adapters; made by `get_peft_model`.

    Example:
        >>> from peft import get_peft_model
        >>> from torch import nn
        >>> from wm_pipelines.adapters.kronecker import KroneckerConfig
        >>> layers = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 32))
        >>> model = get_peft_model(layers, KroneckerConfig(n=8, target_modules=["0", "1"]))
        >>> model.print_trainable_parameters()
        trainable params: 480 || all params: 6,720 || trainable%: 7.1429
    """

    prefix = "kronecker_"
    tuner_layer_cls = AdaptedLinear
    target_module_mapping = {
        **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
        "clip_vision_model": ["q_proj", "v_proj"],
    }

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As in PEFT; who owns a set of slow weights is decided anew for every adapter, in module order."""
        guard_lora_writers()
        self._slow_owners: dict[tuple, AdaptedLinear] = {}
        self._bias_owners: dict[tuple, AdaptedLinear] = {}
        self._named_by_file = kwargs.get("state_dict") is not None
        try:
            if hasattr(nn.ParameterDict, adapter_name):
                raise ValueError(f"`adapter_name` {adapter_name!r} is an attribute of torch's modules; take another")
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except Exception:
            self.peft_config.pop(adapter_name, None)
            if not self.peft_config and getattr(model, "_hf_peft_config_loaded", False):
                model._hf_peft_config_loaded = False  # diffusers set it in advance, and would trip over it next time
            raise
        self._slow_owners, self._bias_owners = {}, {}
        if self.peft_config[adapter_name].init == "authors_release":
            warnings.warn(
                "init='authors_release' starts U and V at zero: their gradients and A's are zero for ever, so only "
                "biases learn",
                stacklevel=2,
            )

    def _check_new_adapter_config(self, config: KroneckerConfig) -> None:
        """Nothing: unlike PEFT's, our biases belong to an adapter, so any number of adapters may have one."""

    def _prepare_adapter_config(self, peft_config: KroneckerConfig, model_config: dict) -> KroneckerConfig:
        if peft_config.target_modules is None and peft_config.target_parameters:
            peft_config.target_modules = set()
        if peft_config.target_modules is None:
            kind = model_config.get("model_type")
            if kind not in self.target_module_mapping:
                raise ValueError(f"`target_modules` must be given: there is no default for model type {kind!r}")
            peft_config.target_modules = set(self.target_module_mapping[kind])
        return peft_config

    def _prepare_model(self, peft_config: KroneckerConfig, model: nn.Module) -> None:
        check_saved(peft_config, model)
        if self._named_by_file or peft_config.target_modules == DUMMY_TARGET_MODULES:
            return
        _maybe_include_all_linear_layers(peft_config, model)
        if peft_config.target_parameters:
            check_parameters(peft_config, model, [c for c in self.peft_config.values() if c is not peft_config])
        if peft_config.target_modules or not peft_config.target_parameters:
            check_targets(peft_config, model, self._check_target_module_exists)

    def _create_and_replace(
        self,
        peft_config: KroneckerConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if parameter_name is not None:
            self._wrap_parameter(peft_config, adapter_name, target, target_name, parent, current_key, parameter_name)
            return
        base = supported_base(self.model, current_key)
        slices = row_slices(peft_config, current_key, base)
        rows = sizes(base)[1] if slices is None else slices[0][1] - slices[0][0]
        check_divides(peft_config.n_in, peft_config.n_out, channels(base), rows, current_key)
        spec = _spec(peft_config, current_key, slices)
        kind = AdaptedConv if isinstance(base, CONVOLUTIONS) else AdaptedLinear
        layer = target if isinstance(target, AdaptedLinear) else kind(target, adapter_name)
        # parts of a fused layer are stacked, so only layers of equally many parts can share a set or a bias
        parts = 1 if slices is None else len(slices)
        slow_key = (set_name(peft_config, current_key), parts)
        bias_key = (current_key.rpartition(".")[0] if peft_config.bias == "shared" else current_key, parts, rows)
        layer.update_layer(
            adapter_name,
            spec,
            slow_owner=self._slow_owners.get(slow_key),
            bias_owner=self._bias_owners.get(bias_key),
            inference_mode=peft_config.inference_mode,
        )
        self._slow_owners.setdefault(slow_key, layer)
        self._bias_owners.setdefault(bias_key, layer)
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    def _wrap_parameter(
        self,
        config: KroneckerConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        key: str,
        parameter_name: str,
    ) -> None:
        wrapped = isinstance(target, ParamWrapper) and target.parameter_name == parameter_name
        layer = target if wrapped else ParamWrapper(target, adapter_name, parameter_name)
        check_divides(config.n_in, config.n_out, layer.in_features, layer.out_features, key)
        slow_key = (set_name(config, key), "parameter")
        owner = self._slow_owners.get(slow_key)
        layer.update_layer(adapter_name, _spec(config, key), slow_owner=owner, inference_mode=config.inference_mode)
        self._slow_owners.setdefault(slow_key, layer)
        if not wrapped:
            self._replace_module(parent, target_name, layer, target)

    def _add_modules_to_save_to_tie(self, peft_config: KroneckerConfig, tied_weight_keys: list[str]) -> None:
        """As LoRA's: the embedding is saved as a whole, and the modules that share its weight follow it."""
        embedding = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embedding)
        followers = [key for key in peft_config.modules_to_save if _ends_one_of(key, tied_weight_keys)]
        own = [key for key in peft_config.modules_to_save if key not in followers]
        peft_config.modules_to_save = own if _ends_one_of(name, own) or name in own else [*own, name]
        peft_config.modules_to_tie = set(tied_weight_keys)

    def _add_targets_to_tie(self, peft_config: KroneckerConfig, tied_weight_keys: list[str]) -> None:
        raise ValueError(
            f"`ensure_weight_tying`: a target shares its weight with the embedding ({', '.join(tied_weight_keys)}), "
            "and an embedding has no Kronecker adapter; name it in `modules_to_save`, or leave it out"
        )

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # factors are on the layer's device already, and base layers keep their own weights
        setattr(parent, child_name, new_module)

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        # PEFT's own version knows only the biases of the base layers; ours are factors like the others
        managed = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
            for name, parameter in module.named_parameters()
            if isinstance(module, AuxiliaryTrainingWrapper) or not name.startswith("base_layer.")
        }
        for parameter in model.parameters():
            if id(parameter) not in managed:
                parameter.requires_grad = False

    @classmethod
    def _get_adapter_state_dict(cls, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        guard_lora_writers()  # diffusers may have been imported since
        return super()._get_adapter_state_dict(*args, **kwargs)

    def _check_merge_allowed(self) -> None:
        """Before the first layer is touched: a model must not be left half merged."""
        super()._check_merge_allowed()
        for name, layer in self.model.named_modules():
            if isinstance(layer, AdaptedLinear):
                check_mergeable(layer.adapted_parameter(), name)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # factors are made in fp32; only who turns PEFT's upcasting off gets them in the base's dtype
        if autocast_adapter_dtype:
            super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
            return
        for layer in self.model.modules():
            dtype = layer.adapted_parameter().dtype if isinstance(layer, AdaptedLinear) else None
            for kind in layer.adapter_layer_names if dtype is not None and dtype.is_floating_point else ():
                factors = getattr(layer, kind)
                if adapter_name in factors:
                    factors[adapter_name].data = factors[adapter_name].data.to(dtype)

    def disable_adapter_layers(self) -> None:
        """The output becomes the base model's, biases included (PEFT's warning about them does not apply)."""
        for module in self.model.modules():
            if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
                module.enable_adapters(False)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hands `adapter_names` (one a sample, "__base__" for none) to every layer for the time of one call.

        Beam search repeats every sample `num_beams` times, except in the encoder of a model that has one.
        """
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        known = sorted(self.peft_config)
        unknown = sorted(set(names) - {"__base__", *known})
        if unknown:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}; known: {known}")
        beams = kwargs.get("num_beams") or 1
        encoder = self.model.get_encoder() if beams > 1 and hasattr(self.model, "get_encoder") else None
        unrepeated = set() if encoder in (None, self.model) else set(encoder.modules())
        handles = []
        for module in self.modules():
            if isinstance(module, (AdaptedLinear, AuxiliaryTrainingWrapper)):
                given = [name for name in names for _ in range(1 if module in unrepeated else beams)]
                hook = partial(_pass_adapter_names, adapter_names=given)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "cat",
        svd_rank: int | None = None,
        density: float | None = None,
        majority_sign_method: Literal["total", "frequency"] = "total",
    ) -> None:
        """A new adapter whose ΔW is Σ_j weights_j·ΔW_j, or as `weighted_sum.add_weighted_adapter` says."""
        from .weighted_sum import add_weighted_adapter

        options = (combination_type, svd_rank, density, majority_sign_method)
        add_weighted_adapter(self.model, adapters, weights, adapter_name, *options, tuner=self)
