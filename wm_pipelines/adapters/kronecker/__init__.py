"""The Kronecker adapter that KAdaptation and FlexEControl share, as a PEFT method (`peft_type: KRONECKER`).

Importing this package makes PEFT know the method, so that `PeftModel.from_pretrained` reads its files.
"""

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType, register_peft_method

__all__ = [
    "AugmentedLinear",
    "KroneckerConfig",
    "KroneckerLinear",
    "KroneckerModel",
    "add_weighted_adapter",
    "check_called",
    "hotswap_adapter",
    "load_adapter",
    "load_lokr",
    "load_pevit",
    "read_layers",
    "register",
    "save_adapter",
    "save_lora",
    "to_lora",
    "unload_augmented",
]


def _extend_peft_type(name: str) -> None:
    """Adds a member to PEFT's enum of methods, which it consults by name, by value and by attribute.

    An Enum can't be subclassed once it has members and PEFT offers no other way in (huggingface/peft#2273).
    """
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType._member_names_)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)


def register() -> None:
    """Makes PEFT know the method; does nothing the second time, or where PEFT itself brings it."""
    if "KRONECKER" in PEFT_TYPE_TO_TUNER_MAPPING:
        return
    _extend_peft_type("KRONECKER")
    from .config import KroneckerConfig
    from .model import KroneckerModel

    register_peft_method(name="kronecker", config_cls=KroneckerConfig, model_cls=KroneckerModel)


register()

from .adapter_folder import load_adapter, save_adapter  # noqa: E402
from .config import KroneckerConfig  # noqa: E402
from .hotswap import hotswap_adapter  # noqa: E402
from .inference_linear import AugmentedLinear, unload_augmented  # noqa: E402
from .layers_without_model import read_layers  # noqa: E402
from .linear_without_peft import KroneckerLinear  # noqa: E402
from .lokr_import import load_lokr  # noqa: E402
from .lora_export import save_lora, to_lora  # noqa: E402
from .model import KroneckerModel  # noqa: E402
from .pevit_import import load_pevit  # noqa: E402
from .unreached_layers import check_called  # noqa: E402
from .weighted_sum import add_weighted_adapter  # noqa: E402
