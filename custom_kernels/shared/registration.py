"""An operation with gradients written by hand, in its two forms: eager, and registered for `torch.compile`.

Both passes of an operation are functions that its own file registers by `torch.library.custom_op`, for whose schema
their annotations are needed; what joins the two is the same for all and stands here.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["differentiable", "like_needed", "packed"]

Grads = Sequence[Tensor | None]


def differentiable(
    forward: Callable[..., Any],
    backward: Callable[..., Grads],
    registered: Any,
    registered_backward: Any,
    save: Callable[[Any, Any, Any], None],
    trainable: Sequence[int],
    count: int,
    shown: int = 1,
) -> Callable[..., Any]:
    """A function of `count` inputs that takes the registered operation under `torch.compile`, and else an
    `autograd.Function` around the plain ones, which costs less time per call.

    Args:
        forward: (*inputs) -> a tensor or a tuple of them.
        backward: (*gradients of the outputs, *saved tensors, *options, needs) -> the gradients of `trainable`, None
            where `needs` says that one is not asked for. Gradients of outputs may be None.
        registered, registered_backward: the custom operations of the same two; the second gives `packed` gradients.
        save: (ctx, inputs, outputs) saves tensors and sets `ctx.options`; `ctx.needs` is there.
        trainable: places of the inputs that have a gradient.
        shown: how many of the outputs, the first ones, may have a gradient; others are for the backward pass.
    """

    def remember(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.needs = [ctx.needs_input_grad[i] for i in trainable]
        ctx.set_materialize_grads(False)
        save(ctx, inputs, output)

    def gradients(ctx: Any, run: Callable[..., Iterable[Tensor | None]], outputs: Grads) -> Grads:
        found: list[Tensor | None] = [None] * count
        outputs = outputs[:shown]
        if any(g is not None for g in outputs):
            made = run(*outputs, *ctx.saved_tensors, *ctx.options, ctx.needs)
            for i, grad in zip(trainable, made, strict=True):
                found[i] = grad
        return tuple(found)

    def unpacked(*arguments: Any) -> Grads:
        made = iter(registered_backward(*arguments))
        return [next(made) if need else None for need in arguments[-1]]

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = forward(*inputs)
            remember(ctx, inputs, output)
            return output

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *outputs: Tensor | None) -> Grads:
            return gradients(ctx, backward, outputs)

    registered.register_autograd(
        lambda ctx, *outputs: gradients(ctx, unpacked, outputs),
        setup_context=lambda ctx, inputs, output: remember(ctx, inputs, output),
    )

    def call(*inputs: Any) -> Any:
        return registered(*inputs) if torch.compiler.is_compiling() else Eager.apply(*inputs)

    return call


def packed(gradients: Grads) -> list[Tensor]:
    """What a registered backward pass returns: the gradients that are there, in order, each in one piece."""
    return [grad.contiguous() for grad in gradients if grad is not None]


def like_needed(like: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor]:
    """What `packed` gradients look like: empty tensors as `like` where `needs` says so."""
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t, n in zip(like, needs, strict=True) if n]
