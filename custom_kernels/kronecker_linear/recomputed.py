"""A function of tensors that keeps its inputs for the backward pass, and nothing that it made on the way."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["recomputed"]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, autocast, *inputs):
        ctx.run, ctx.autocast = run, autocast
        ctx.save_for_backward(*(t if t is None else t.detach() for t in inputs))  # as in `registered`
        return run(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        needs = ctx.needs_input_grad[2:]
        saved = zip(ctx.saved_tensors, needs, strict=True)
        inputs = [t if t is None else t.detach().requires_grad_(need) for t, need in saved]
        kind, dtype, enabled = ctx.autocast
        with torch.enable_grad(), torch.autocast(kind, dtype, enabled):
            y = ctx.run(*inputs)
        found = iter(torch.autograd.grad(y, [t for t, n in zip(inputs, needs, strict=True) if n], g))
        return None, None, *(next(found) if n else None for n in needs)


def recomputed(run: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """run(*inputs), run a second time in the backward pass; as it is where no gradient is asked for, or under
    torch.compile, which decides by itself what to keep."""
    asked = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    if torch.compiler.is_compiling() or not asked:
        return run(*inputs)
    kind = next(t.device.type for t in inputs if t is not None)
    known = torch.amp.is_autocast_available(kind)  # "meta" has none
    kind = kind if known else "cpu"
    state = (kind, torch.get_autocast_dtype(kind), known and torch.is_autocast_enabled(kind))
    return _Recomputed.apply(run, state, *inputs)
