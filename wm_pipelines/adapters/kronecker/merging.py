"""Adding an update to a frozen weight, and taking it out again bit for bit."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Undo", "check_mergeable", "merge_weight", "not_plain"]

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_MERGEABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def not_plain(weight: torch.Tensor) -> str | None:
    """What stands in the way of using `weight` as a floating-point matrix; None where nothing does.

    Only its own layer can use a quantised weight: numbers of fewer bits, or a tensor subclass (torchao, GGUF) that
    knows a few operations and says a floating-point dtype all the same.
    """
    state = getattr(weight, "quant_state", None)
    if type(weight) in (torch.Tensor, nn.Parameter) and weight.dtype in _MERGEABLE and state is None:
        return None
    # bitsandbytes keeps 4-bit numbers as bytes and says in the state what they mean
    kind = getattr(state, "quant_type", None) or getattr(weight, "quant_type", None)
    if isinstance(kind, str):
        return kind
    if weight.dtype in _MERGEABLE:
        return f"{type(weight).__name__} ({weight.dtype})"
    return f"fp8 ({weight.dtype})" if "float8" in str(weight.dtype) else str(weight.dtype)


def check_mergeable(weight: torch.Tensor, name: str = "") -> None:
    """ValueError for a quantised weight: it has no room for the update, which stays beside it.

    Args:
        name: the module's name, put in front of the message.
    """
    kind = not_plain(weight)
    if kind is not None:
        where = f"`{name}`: " if name else ""
        raise ValueError(f"{where}base weight is {kind}: merging disabled, using side path")


@torch.no_grad()
def merge_weight(weight: torch.Tensor, delta: torch.Tensor) -> tuple[torch.Tensor, float]:
    """weight + delta in fp32 (fp64 for fp64), rounded once to the weight's dtype.

    Returns:
        The merged weight, and ‖(merged − weight) − delta‖/‖delta‖, the share of the delta that rounding lost
        (0 for a zero delta).
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    delta = delta.to(device=weight.device, dtype=wide)
    merged = (weight.to(wide) + delta).to(weight.dtype)
    size = delta.norm()
    lost = (merged.to(wide) - weight.to(wide) - delta).norm()
    return merged, float(lost / size) if size > 0 else 0.0


class Undo:
    """What a change of a tensor overwrote: the changed entries and their places, or all of it where that is smaller.

    Subtracting the update again would leave one to seven percent of bf16 weights changed, and would need the factors
    and the device to be what they were; the old bits need neither.
    """

    def __init__(self, before: torch.Tensor, after: torch.Tensor) -> None:
        bits = _BITS[before.element_size()]
        changed = (before.view(bits) != after.view(bits)).flatten()  # as bits, so that 0.0 and -0.0 differ
        count = int(changed.sum())
        self.places: torch.Tensor | None = None
        self.values = before
        # a place takes four bytes up to 2³¹ entries, then eight
        width = 4 if before.numel() < 2**31 else 8
        if count * (width + before.element_size()) < before.nbytes:
            places = changed.nonzero().flatten()
            self.values = before.flatten()[places]
            self.places = places.to(torch.int32) if width == 4 else places

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.values.nbytes + (0 if self.places is None else self.places.nbytes)

    def restore(self, after: torch.Tensor) -> torch.Tensor:
        """The tensor as it was, on the device and in the dtype of `after`, which is left alone."""
        if self.places is None:
            return self.values.to(after)
        flat = after.flatten().clone()
        flat[self.places.to(device=after.device, dtype=torch.int64)] = self.values.to(after)
        return flat.view(after.shape)
