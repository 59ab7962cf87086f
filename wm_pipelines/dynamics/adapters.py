"""LoRA for both directions on one backbone (Hu et al., arXiv 2106.09685, by PEFT): put in, switched, saved apart."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wm_pipelines.hub.checking import read_config, translated
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.patterns import check_patterns
from wm_pipelines.runtime.tensors import read_tensors

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


def _layers(model: nn.Module) -> list[nn.Module]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _heads(model: nn.Module) -> list[nn.Module]:
    """The output layer, where an adapter has one of its own."""
    from peft.utils.other import ModulesToSaveWrapper

    return [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]


def _head_name(model: nn.Module) -> str:
    head = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is head)


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters in a model."""
    return sorted({name for layer in _layers(model) for name in layer.lora_A})


def add_adapter(
    model: nn.Module,
    name: str,
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] = ATTENTION,
    train_lm_head: bool = False,
) -> None:
    """Puts a fresh adapter of the decoder's layers into a model; it changes nothing until it is trained.

    Args:
        alpha: scale times rank; None is twice the rank. targets: names of the linear layers in each layer of the
            decoder; picture tokenisers inside the model are left alone.
        train_lm_head: the adapter has an output layer of its own too, whole, which starts as a copy of the model's;
            where that one is tied to the input embeddings, these stay as they are.

    Raises:
        ValueError: a name that is taken, a rank below 1, or targets that the model doesn't have.
    """
    from peft import LoraConfig

    if name in adapter_names(model):
        raise ValueError(f"`name` {name!r} is taken; the model has {', '.join(adapter_names(model))}")
    if rank < 1:
        raise ValueError(f"`rank` is {rank}; it must be 1 or more")
    pattern = rf".*layers\.\d+\.(self_attn|mlp)\.({'|'.join(targets)})"
    settings = {"r": rank, "lora_alpha": 2 * rank if alpha is None else alpha, "lora_dropout": dropout}
    own = [_head_name(model)] if train_lm_head else None
    config = LoraConfig(**settings, target_modules=pattern, modules_to_save=own)
    try:
        _inject(model, config, name)
    except ValueError as error:
        raise ValueError(f"`targets` {tuple(targets)} are not in {type(model).__name__}: {error}") from None


def _inject(model: nn.Module, config: Any, name: str) -> None:
    """Puts an adapter's layers in; PEFT reads `model.peft_config` later, and warns of it meanwhile."""
    from peft import inject_adapter_in_model

    known = model.__dict__.pop("peft_config", {})
    try:
        with warnings.catch_warnings():  # of an output layer that was tied; the adapter's own is not
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
            inject_adapter_in_model(config, model, name)
        known = {**known, name: config}
    finally:
        model.peft_config = known


@contextmanager
def active(model: nn.Module, name: str | None) -> Iterator[None]:
    """The adapter `name` alone acts inside the block, none for None; what acted before acts again after it.

    Raises:
        ValueError: the model has no such adapter.
    """
    layers, heads = _layers(model), _heads(model)
    if name is not None and name not in adapter_names(model):
        raise ValueError(f"`adapter` {name!r} is not in the model; it has {', '.join(adapter_names(model)) or 'none'}")
    before = [(layer.active_adapters, layer.disable_adapters) for layer in (*layers, *heads)]
    wants = {parameter: parameter.requires_grad for parameter in model.parameters()} if layers else {}
    try:
        for layer in (*layers, *heads):
            acts = name is not None and (layer not in heads or name in layer.modules_to_save)
            layer.enable_adapters(acts)
            if acts:
                layer.set_adapter(name)
        for parameter, wanted in wants.items():
            parameter.requires_grad_(wanted)
        yield
    finally:
        for layer, (names, disabled) in zip((*layers, *heads), before, strict=True):
            layer.set_adapter(names)
            layer.enable_adapters(not disabled)
        for parameter, wanted in wants.items():
            parameter.requires_grad_(wanted)


@contextmanager
def bare(model: nn.Module) -> Iterator[None]:
    """The model without its adapters' layers inside the block, so that stock code saves it under stock names."""
    within = {id(layer): layer.get_base_layer() for layer in _layers(model)}
    within |= {id(head): head.original_module for head in _heads(model)}
    found = []
    for name, layer in list(model.named_modules()):
        if id(layer) in within:
            parent, _, key = name.rpartition(".")
            found.append((model.get_submodule(parent), key, layer))
    try:
        for parent, key, layer in found:
            setattr(parent, key, within[id(layer)])
        yield
    finally:
        for parent, key, layer in found:
            setattr(parent, key, layer)


def save_adapter(model: nn.Module, name: str, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, as PEFT does, whole or not at all.

    Args:
        dtype: of the tensors; None is the model's.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = model.peft_config[name]
    state = get_peft_model_state_dict(model, adapter_name=name)
    tensors = {f"base_model.model.{key}": value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
    with atomic_folder(folder, last="adapter_config.json") as partial:
        save_file(tensors, Path(partial) / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(partial)


def load_adapter(model: nn.Module, folder: str | os.PathLike, name: str) -> None:
    """Puts a saved LoRA into a model under `name`, PEFT's own files too.

    Raises:
        ValueError: files missing, no LoRA, a name that is taken, tensors of another model, or layers of its own other
            than the output layer.
    """
    folder = Path(folder)
    config = _config(folder)
    if config.modules_to_save not in (None, [], [_head_name(model)]):
        raise ValueError(
            f"adapter {str(folder)!r} holds whole layers, modules_to_save {str(config.modules_to_save)[:200]}; of "
            f"{type(model).__name__}, {_head_name(model)} alone is taken"
        )
    if name in adapter_names(model):
        raise ValueError(f"`name` {name!r} is taken; the model has {', '.join(adapter_names(model))}")
    _fill(model, folder, name, config)
    model.eval()


def refill_adapter(model: nn.Module, folder: str | os.PathLike, name: str) -> None:
    """Gives the LoRA `name` of a model the weights of a saved one of the same layers and rank.

    Raises:
        ValueError: files missing, no LoRA, or tensors of another model or rank.
    """
    folder = Path(folder)
    rank, wanted = _config(folder).r, model.peft_config[name].r
    if rank != wanted:
        raise ValueError(f"adapter {str(folder)!r} has rank {rank}; it must be {wanted}, that of the model's")
    _fill(model, folder, name)


def _fill(model: nn.Module, folder: Path, name: str, config: Any = None) -> None:
    """Puts a saved adapter's tensors in, after its layers where a `config` is given."""
    from peft import set_peft_model_state_dict

    try:
        state = read_tensors(folder / "adapter_model.safetensors")
    except ValueError as error:
        raise ValueError(f"adapter {str(folder)!r} has no readable adapter_model.safetensors: {error}") from None
    state = {key.removeprefix("base_model.model."): value.float() for key, value in state.items()}
    try:
        if config is not None:
            _inject(model, config, name)
        result = set_peft_model_state_dict(model, state, adapter_name=name)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"adapter {str(folder)!r} doesn't fit {type(model).__name__}: {error}") from None
    lost = [key for key in result.missing_keys if f".{name}." in key]
    if lost or result.unexpected_keys:
        raise ValueError(
            f"adapter {str(folder)!r} lacks {lost[:2]} and has {list(result.unexpected_keys)[:2]}, which "
            f"{type(model).__name__} has no place for"
        )


def _config(folder: Path) -> Any:
    from peft import LoraConfig

    values = read_config(folder / "adapter_config.json")
    if values.get("peft_type") != "LORA":
        raise ValueError(f"adapter {str(folder)!r} is no LoRA of PEFT: its adapter_config.json says otherwise")
    with translated(folder):
        config = LoraConfig.from_peft_type(**LoraConfig.check_kwargs(**values))
    check_patterns(config)
    config.inference_mode = True
    return config
