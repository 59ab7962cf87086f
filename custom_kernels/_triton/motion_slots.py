"""What the kernels of motion attention share: products in the right dtype, masks from four numbers, slot tiles."""

import torch
import triton
import triton.language as tl

__all__ = ["add_slots", "cover", "dot", "in_units", "slot_tile"]


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


@triton.jit
def slot_tile(
    box_ptr, token_ptr, object_ptr, in_ptr, out_ptr, b, f, u, F, J, OBJECTS, HEIGHT, WIDTH,
    BJ: tl.constexpr, BIAS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Of the slots of batch row b and frame f: token (BJ,), -1 for none; masks and biases of cells u, (BL, BJ)."""
    j = tl.arange(0, BJ)
    token = tl.load(token_ptr + b * J + j, mask=j < J, other=-1).to(tl.int32)
    held = token >= 0
    owner = b * OBJECTS + tl.load(object_ptr + j, mask=held, other=0)
    column, row = (u % WIDTH).to(ACC)[:, None], (u // WIDTH).to(ACC)[:, None]
    masks = cover((box_ptr + (owner * F + f) * 4)[None, :], held[None, :], column, row, HEIGHT, WIDTH)
    bias = masks
    if BIAS:
        inside = tl.load(in_ptr + owner, mask=held, other=0.0)[None, :]
        bias = inside * masks - tl.load(out_ptr + owner, mask=held, other=0.0)[None, :] * (1 - masks)
    return token, masks, bias


@triton.jit
def add_slots(s, n, token, values, J, BJ: tl.constexpr):
    """s[u, i] + Σ_j values[u, j] [n_i = token_j], slot after slot."""
    j = tl.arange(0, BJ)
    for i in range(J):
        chosen = tl.sum(tl.where(j == i, token, 0), 0)
        column = tl.sum(tl.where((j == i)[None, :], values, 0.0), 1)
        s += tl.where((n == chosen)[None, :], column[:, None], 0.0)
    return s


def in_units(*tensors: torch.Tensor) -> tuple[list[int], int]:
    """All strides but the last, 1, of the tensors, divided by 8 where they can be, and that divisor.

    A compiler that knows of the 8 loads 16 bytes at a time, also where a stride is no multiple of 16 (heads 40 wide).
    """
    strides = [stride for t in tensors for stride in t.stride()[:-1]]
    unit = 1 if any(stride % 8 for stride in strides) else 8
    return [stride // unit for stride in strides], unit
