"""The kernels of Gaussians: all checks in the interpreter, compiled ahead of time, and on a GPU where there is one."""

import importlib.util
from pathlib import Path

import pytest
import torch

from wm_pipelines.kernels import composite_gaussians, composite_gaussians_reference

pytestmark = pytest.mark.slow

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: these kernels ran in the interpreter"
)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_in_the_interpreter(interpret):
    interpret(Path(__file__).with_name("gaussians_interpreter_checks.py"))


@needs_gpu
@pytest.mark.parametrize("tile", [8, 16])
def test_on_a_gpu(tile):
    g = torch.Generator("cuda").manual_seed(0)
    splats = torch.rand(500, 6, generator=g, device="cuda")
    splats[:, :2] *= 2 * tile
    splats[:, 3] = 0
    values = torch.rand(500, 12, generator=g, device="cuda")
    lists = torch.arange(500, device="cuda").expand(4, -1)
    origins = tile * torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]], device="cuda")
    found = []
    for function, dtype in ((composite_gaussians, torch.float32), (composite_gaussians_reference, torch.float64)):
        mine = [t.to(dtype).requires_grad_() for t in (splats, values)]
        out = function(*mine, lists, origins.to(dtype), tile=tile, detached=4)
        found.append([out, *torch.autograd.grad(out.square().sum(), mine)])
    for mine, exact in zip(*found, strict=True):
        assert (mine.double() - exact).norm() <= 1e-3 * exact.norm()
