"""What kernels of several operations are made of: products in the right dtype, cells in boxes, strides in units."""

import torch
import triton
import triton.language as tl

from .chips import interpreted

__all__ = ["cover", "dot", "in_units", "modes"]


@triton.jit
def dot(a, b, acc, UPCAST: tl.constexpr):
    # the interpreter multiplies bf16 wrongly; on a chip UPCAST is never set
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def cover(place, held, column, row, HEIGHT, WIDTH):
    """Share of the cells (column, row) that the boxes at `place` cover; 0 where not `held`."""
    x0 = tl.load(place, mask=held, other=0.0) * WIDTH
    y0 = tl.load(place + 1, mask=held, other=0.0) * HEIGHT
    x1 = tl.load(place + 2, mask=held, other=0.0) * WIDTH
    y1 = tl.load(place + 3, mask=held, other=0.0) * HEIGHT
    across = tl.maximum(tl.minimum(x1, column + 1) - tl.maximum(x0, column), 0.0)
    return across * tl.maximum(tl.minimum(y1, row + 1) - tl.maximum(y0, row), 0.0)


def modes(x: torch.Tensor) -> dict:
    """Constants that follow from the dtype."""
    return {
        "ACC": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "UPCAST": interpreted() and x.dtype == torch.bfloat16,
    }


def in_units(*tensors: torch.Tensor) -> tuple[list[int], int]:
    """All strides but the last, 1, of the tensors, divided by 8 where they can be, and that divisor.

    A compiler that knows of the 8 loads 16 bytes at a time, also where a stride is no multiple of 16 (heads 40 wide).
    """
    strides = [
        stride if size > 1 else 0 for t in tensors for size, stride in zip(t.shape[:-1], t.stride()[:-1], strict=True)
    ]
    unit = 1 if any(stride % 8 for stride in strides) else 8
    return [stride // unit for stride in strides], unit
