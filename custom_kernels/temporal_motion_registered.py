"""`temporal_motion_attention` as one registered operation: chunks of pixels in torch, gradients written by hand.

    dS = P ∘ (G − Σ_j P G),  G = dO Vᵀ      dQ = τ dS K/√d      dK = τ dSᵀ Q/√d      dV = Pᵀ dO
    dτ = Σ dS ∘ Q Kᵀ/√d      dρ_h[δ] = Σ_{i−j=δ} dS

Saved for the backward pass: the inputs. A batch row of queries, keys or values (B, L, F, H, d) is (L, H, F, d) here.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backend import on_device_of
from .motion_masks import box_masks
from .motion_registered import no_autocast

__all__ = ["attend", "box_bias", "diagonal_sums", "spread_diagonals"]

# inputs: q, k, v, boxes, tau, gamma, rho, height, width, triton
INPUTS = 10
TRAINABLE = (0, 1, 2, 4, 6)  # q, k, v, tau, rho
CHUNK = 2**17  # logits that are worked on at a time


def spread_diagonals(rho: Tensor, frames: int) -> Tensor:
    """(..., 2F−1) -> (..., F, F): entry (i, j) is rho[i − j + F − 1]."""
    frame = torch.arange(frames, device=rho.device)
    return rho[..., frame[:, None] - frame + frames - 1]


def diagonal_sums(s: Tensor) -> Tensor:
    """(..., F, F) -> (..., 2F−1): Σ_{i−j=δ} s[i, j] at δ + F − 1, by giving each diagonal a column."""
    frames = s.shape[-1]
    skewed = torch.nn.functional.pad(s.flip(-1), (0, frames)).flatten(-2)[..., :-frames]
    return skewed.unflatten(-1, (frames, 2 * frames - 1)).sum(-2)


def box_bias(masks: Tensor, gamma: Tensor) -> Tensor:
    """−Σ_o γ_o |m_i − m_j| for masks (O, F, L) of one batch row and gamma (O,): (L, 1, F, F)."""
    masks = masks.movedim(-1, 0)  # (L, O, F)
    distance = (masks.unsqueeze(-1) - masks.unsqueeze(-2)).abs()
    return -torch.einsum("loij,o->lij", distance, gamma).unsqueeze(1)


class _Chunks:
    """Logits of a call, some pixels of a batch row at a time."""

    def __init__(self, q, k, boxes, tau, gamma, rho, grid: tuple[int, int]) -> None:
        self.q, self.k = q.transpose(2, 3), k.transpose(2, 3)  # (B, L, H, F, d)
        self.dtype, self.tau, self.gamma, self.scale = boxes.dtype, tau, gamma, q.shape[-1] ** -0.5
        self.masks = box_masks(boxes, grid)  # (B, O, F, L)
        self.rho = None if rho is None else spread_diagonals(rho, q.shape[2])

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        batch, pixels, heads, frames, _ = self.q.shape
        count = max(1, CHUNK // (heads * frames * frames))
        for b in range(batch):
            for start in range(0, pixels, count):
                yield b, slice(start, start + count)

    def product(self, b: int, pixels: slice) -> Tensor:
        """q·k/√d (pixels, H, F, F)."""
        return self.q[b, pixels].to(self.dtype) @ self.k[b, pixels].to(self.dtype).transpose(-1, -2) * self.scale

    def probabilities(self, b: int, pixels: slice, product: Tensor) -> Tensor:
        s = product * self.tau[b]
        if self.masks.shape[1]:
            s += box_bias(self.masks[b, :, :, pixels], self.gamma[b])
        if self.rho is not None:
            s += self.rho[b]
        return torch.softmax(s, -1)


def forward_torch(q, k, v, boxes, tau, gamma, rho, grid) -> Tensor:
    chunks, out = (
        _Chunks(q, k, boxes, tau, gamma, rho, grid),
        torch.empty_like(q, memory_format=torch.contiguous_format),
    )
    values, placed = v.transpose(2, 3), out.transpose(2, 3)
    for b, pixels in chunks:
        p = chunks.probabilities(b, pixels, chunks.product(b, pixels))
        placed[b, pixels] = (p @ values[b, pixels].to(p.dtype)).to(q.dtype)
    return out


def backward_torch(g, q, k, v, boxes, tau, gamma, rho, grid, needs) -> list[Tensor | None]:
    """Gradients by position in TRAINABLE, of what `needs` names."""
    chunks, values, g = _Chunks(q, k, boxes, tau, gamma, rho, grid), v.transpose(2, 3), g.transpose(2, 3)
    d_q, d_k, d_v = (
        torch.empty_like(t, memory_format=torch.contiguous_format) if need else None
        for t, need in zip((q, k, v), needs, strict=False)
    )
    frames, heads = q.shape[2], q.shape[3]
    d_tau = torch.zeros_like(tau) if needs[3] else None
    d_s_sum = tau.new_zeros(len(q), heads, frames, frames) if needs[4] else None
    for b, pixels in chunks:
        product = chunks.product(b, pixels)
        p = chunks.probabilities(b, pixels, product)
        mine = g[b, pixels].to(p.dtype)
        if needs[2]:
            d_v.transpose(2, 3)[b, pixels] = (p.transpose(-1, -2) @ mine).to(v.dtype)
        if not (needs[0] or needs[1] or needs[3] or needs[4]):
            continue
        g_p = mine @ values[b, pixels].to(p.dtype).transpose(-1, -2)
        d_s = torch.ops.aten._softmax_backward_data(g_p, p, -1, p.dtype)
        if needs[3]:
            d_tau[b] += (d_s * product).sum()
        if needs[4]:
            d_s_sum[b] += d_s.sum(0)
        d_s *= tau[b] * chunks.scale
        if needs[0]:
            d_q.transpose(2, 3)[b, pixels] = (d_s @ chunks.k[b, pixels].to(p.dtype)).to(q.dtype)
        if needs[1]:
            d_k.transpose(2, 3)[b, pixels] = (d_s.transpose(-1, -2) @ chunks.q[b, pixels].to(p.dtype)).to(k.dtype)
    return [d_q, d_k, d_v, d_tau, diagonal_sums(d_s_sum) if needs[4] else None]


def _run(q, k, v, boxes, tau, gamma, rho, height, width, triton) -> Tensor:
    if triton:
        from ._triton.temporal_motion_attention import forward as run
    else:
        run = forward_torch
    with no_autocast(q.device), on_device_of(q):
        return run(q, k, v, boxes, tau, gamma, rho, (height, width))


def _run_backward(g, q, k, v, boxes, tau, gamma, rho, height, width, triton, needs) -> list[Tensor | None]:
    if triton:
        from ._triton.temporal_motion_attention import backward as run
    else:
        run = backward_torch
    with no_autocast(q.device), on_device_of(q):
        return run(g, q, k, v, boxes, tau, gamma, rho, (height, width), needs)


def _save(ctx, inputs, output) -> None:
    *tensors, height, width, triton = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = (height, width, triton)
    ctx.needs = [ctx.needs_input_grad[i] for i in TRAINABLE]


def _gradients(ctx, run, g) -> tuple[Tensor | None, ...]:
    grads: list[Tensor | None] = [None] * INPUTS
    for i, grad in zip(TRAINABLE, run(g, *ctx.saved_tensors, *ctx.options, ctx.needs), strict=True):
        grads[i] = grad
    return tuple(grads)


class _Attend(torch.autograd.Function):
    """The operation in eager mode, where the registered one below costs more time per call."""

    @staticmethod
    def forward(ctx, *inputs):
        out = _run(*inputs)
        _save(ctx, inputs, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return _gradients(ctx, _run_backward, g)


@torch.library.custom_op("wm_kernels::temporal_motion_attention", mutates_args=())
def registered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    tau: Tensor,
    gamma: Tensor,
    rho: Tensor | None,
    height: int,
    width: int,
    triton: bool,
) -> Tensor:
    """out (B, L, F, H, d); arguments as in `attend`."""
    return _run(q, k, v, boxes, tau, gamma, rho, height, width, triton)


@registered.register_fake
def _(q, k, v, boxes, tau, gamma, rho, height, width, triton):
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@torch.library.custom_op("wm_kernels::temporal_motion_attention_backward", mutates_args=())
def registered_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boxes: Tensor,
    tau: Tensor,
    gamma: Tensor,
    rho: Tensor | None,
    height: int,
    width: int,
    triton: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """The gradients that `needs` names, in order."""
    grads = _run_backward(g, q, k, v, boxes, tau, gamma, rho, height, width, triton, needs)
    return [grad.contiguous() for grad in grads if grad is not None]


@registered_backward.register_fake
def _(g, q, k, v, boxes, tau, gamma, rho, height, width, triton, needs):
    like = (q, k, v, tau, rho)
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t, n in zip(like, needs, strict=True) if n]


def _registered_gradients(ctx, g):
    def run(*arguments):
        found = iter(registered_backward(*arguments))
        return [next(found) if need else None for need in ctx.needs]

    return _gradients(ctx, run, g)


registered.register_autograd(
    _registered_gradients, setup_context=lambda ctx, inputs, output: _save(ctx, inputs, output)
)


def attend(*inputs) -> Tensor:
    """out (B, L, F, H, d) as `temporal_motion_attention` checked and completed the arguments.

    Args:
        inputs: q, k, v; boxes (B, O, F, 4), tau (B,), gamma (B, O) and rho (B, H, 2F−1) or None in the sums' dtype;
            h, w; whether the kernels run.
    """
    return registered(*inputs) if torch.compiler.is_compiling() else _Attend.apply(*inputs)
