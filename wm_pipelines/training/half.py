"""Autocast to bf16 for training; on a CPU attention stays in fp32, whose backward pass is six times faster there."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_attention = torch.nn.functional.scaled_dot_product_attention


class _Fp32Attention(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not _attention:
            return function(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return function(*map(_fp32, args), **{name: _fp32(value) for name, value in (kwargs or {}).items()})


def _fp32(value: Any) -> Any:
    return value.float() if torch.is_tensor(value) and value.is_floating_point() else value


@contextmanager
def bf16_autocast(device: str) -> Iterator[None]:
    """Matrix products and convolutions run in bf16 inside the block; weights and gradients stay fp32."""
    with torch.autocast(device, torch.bfloat16), _Fp32Attention() if device == "cpu" else nullcontext():
        yield
