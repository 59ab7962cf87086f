"""The dtypes of an attention: of its sums, of its inputs under autocast, and of its products."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["as_autocast", "no_autocast", "sum_dtype"]


def sum_dtype(q: Tensor) -> torch.dtype:
    """Of the sums, lse, masks and biases."""
    return torch.promote_types(q.dtype, torch.float32)


def as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where it is on, all but fp64, as scaled dot-product attention takes them."""
    kind = tensors[0].device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):  # "meta" has none
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors)


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Products keep the dtype that they are given."""
    available = torch.amp.is_autocast_available(device.type)  # "meta" has none
    return torch.autocast(device.type, enabled=False) if available else nullcontext()
