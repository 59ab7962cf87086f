"""The motion attention kernels: all checks in the interpreter, and those that only a GPU can answer."""

import importlib.util
from pathlib import Path

import pytest
import torch

from wm_pipelines.kernels import motion_attention, motion_attention_reference

pytestmark = pytest.mark.slow

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: these kernels ran in the interpreter"
)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_in_the_interpreter(interpret):
    interpret(Path(__file__).with_name("motion_interpreter_checks.py"))


def on_gpu(width, keys, dtype=torch.bfloat16):
    generator = torch.Generator("cuda").manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, device="cuda")

    batch, frames, heads, grid = 2, 4, 3, (10, 16)
    q = randn(batch, frames, heads, grid[0] * grid[1], width).to(dtype)
    k, v = (randn(batch, heads, keys, width).to(dtype) for _ in range(2))
    boxes = torch.tensor([[0.1, 0.2, 0.55, 0.9], [0.4, 0.0, 1.0, 0.5]], device="cuda")
    leaves = [q, k, v, boxes[None, :, None].expand(batch, 2, frames, 4).contiguous()]
    slots = torch.tensor([1, 2, keys - 1], device="cuda"), torch.tensor([0, 0, 1], device="cuda")
    return leaves, slots, {"grid": grid, "bias_in": 3.0, "bias_out": 1.0}


@needs_gpu
@pytest.mark.parametrize("width, keys", [(40, 77), (64, 77), (80, 226), (128, 512), (160, 77)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_output_and_gradients_on_a_gpu(width, keys, dtype):
    leaves, slots, options = on_gpu(width, keys, dtype)
    results = []
    for function, kind in ((motion_attention, dtype), (motion_attention_reference, torch.float64)):
        mine = [t.detach().to(torch.promote_types(t.dtype, kind)).requires_grad_() for t in leaves]
        found = function(*mine, *slots, **options)
        total = sum((t.double() * (1 + i)).square().sum() for i, t in enumerate((found[0], *found[2:6])))
        results.append([*found[:6], *torch.autograd.grad(total, mine)])
    for mine, exact in zip(*results, strict=True):
        assert (mine.double() - exact.double()).norm() <= 0.03 * exact.double().norm()


@needs_gpu
def test_repeats_are_bit_equal_on_a_gpu():
    leaves, slots, options = on_gpu(64, 512)
    runs = []
    for _ in range(2):
        mine = [t.detach().requires_grad_() for t in leaves]
        found = motion_attention(*mine, *slots, **options)
        runs.append([*found, *torch.autograd.grad(found.out.float().sum() + (found.I / found.Z).sum(), mine)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@needs_gpu
def test_no_map_is_made_on_a_gpu():
    """Over inputs, outputs and dQ, forward and dQ take less than a tenth of what P would."""
    leaves, slots, options = on_gpu(64, 512)
    leaves[0].requires_grad_()
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = motion_attention(*leaves, *slots, **options)
        torch.autograd.grad((found.I / found.Z).sum() + found.out.float().sum(), leaves[0])
        peak = torch.cuda.max_memory_allocated() - before
    rows = leaves[0].numel() // 64
    assert peak - 6 * leaves[0].numel() * 2 < rows * 512 * 4 / 10
