"""The kernels over frames: all checks in the interpreter, and those that only a GPU can answer."""

import importlib.util
from pathlib import Path

import pytest
import torch

from wm_pipelines.kernels import temporal_motion_attention, temporal_motion_attention_reference

pytestmark = pytest.mark.slow

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: these kernels ran in the interpreter"
)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_in_the_interpreter(interpret):
    interpret(Path(__file__).with_name("temporal_interpreter_checks.py"))


@needs_gpu
@pytest.mark.parametrize("frames, width", [(16, 64), (24, 40), (32, 160)])
def test_over_frames_on_a_gpu(frames, width):
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(2, 40, frames, 3, width, generator=generator, device="cuda").bfloat16() for _ in range(3))
    boxes = torch.tensor([0.1, 0.2, 0.55, 0.9], device="cuda").expand(2, 1, frames, 4) * torch.linspace(
        0.5, 1, frames, device="cuda"
    ).view(1, 1, -1, 1)
    rho = 0.1 * torch.randn(3, 2 * frames - 1, generator=generator, device="cuda")
    tau = torch.tensor([0.9, 1.2], device="cuda")
    results = []
    for function, kind in (
        (temporal_motion_attention, torch.bfloat16),
        (temporal_motion_attention_reference, torch.float64),
    ):
        mine = [t.detach().to(torch.promote_types(t.dtype, kind)).requires_grad_() for t in (q, k, v, tau, rho)]
        out = function(*mine[:3], boxes, grid=(5, 8), tau=mine[3], gamma=2.0, rho=mine[4])
        results.append([out, *torch.autograd.grad(out.double().square().sum(), mine)])
    for mine, exact in zip(*results, strict=True):
        assert (mine.double() - exact.double()).norm() <= 0.03 * exact.double().norm()
