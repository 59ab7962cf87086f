"""The Triton kernels: all checks in the interpreter, and those that only a GPU can answer."""

import importlib.util
from pathlib import Path

import pytest
import torch

from wm_pipelines.kernels import kronecker_linear, kronecker_linear_reference

pytestmark = pytest.mark.slow

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: these kernels ran in the interpreter"
)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_in_the_interpreter(interpret):
    interpret(Path(__file__).with_name("kronecker_interpreter_checks.py"))


def on_gpu(tokens, d=768, n=32, dtype=torch.bfloat16, lead=()):
    generator = torch.Generator("cuda").manual_seed(0)

    def randn(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=generator, device="cuda")).to(dtype)

    x, weight, bias = randn(tokens, d), randn(d, d, scale=d**-0.5), randn(d)
    slow = [randn(*lead, n, n, scale=n**-0.25) for _ in range(2)]
    pair = [randn(*lead, n, d // n, 1, scale=(d // n) ** -0.5) for _ in range(2)]
    return x, weight, bias, *slow, *pair


@needs_gpu
@pytest.mark.parametrize("tokens", [16, 100, 300, 4096])
def test_bfloat16_error_is_at_most_twice_that_of_a_product(tokens):
    made = on_gpu(tokens)
    exact = kronecker_linear_reference(*(t.double() for t in made), scale=0.2)
    merged = made[1].double() + 0.2 * sum(
        torch.kron(
            torch.outer(made[3][i].double(), made[4][i].double()), made[5][i].double() @ made[6][i].double().t()
        )
        for i in range(32)
    )
    plain = torch.nn.functional.linear(made[0], merged.bfloat16(), made[2]).double()
    y = kronecker_linear(*made, scale=0.2, backend="triton").double()
    assert (y - exact).norm() <= 2 * (plain - exact).norm()


@needs_gpu
@pytest.mark.parametrize("tokens", [16, 300])
def test_gradients_equal_those_of_the_torch_path(tokens):
    made = [t.requires_grad_() for t in on_gpu(tokens)]
    results = []
    for backend in ("triton", "torch"):
        y = kronecker_linear(*made, scale=0.2, backend=backend)
        results.append([y, *torch.autograd.grad(y.float().square().sum(), made)])
    for mine, expected in zip(*results, strict=True):
        assert (mine - expected).norm() <= 0.02 * expected.norm()


@needs_gpu
def test_runs_in_a_cuda_graph():
    made = on_gpu(64)
    kronecker_linear(*made, scale=0.2, backend="triton")  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = kronecker_linear(*made, scale=0.2, backend="triton")
    made[0].copy_(made[0].flip(0))
    graph.replay()
    torch.testing.assert_close(y, kronecker_linear(*made, scale=0.2, backend="triton"))


@needs_gpu
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_peak_memory_has_no_second_weight(backend):
    """Over x, y and their gradients, forward and backward take less than a quarter of the weight."""
    made = [t.requires_grad_(i not in (1, 2)) for i, t in enumerate(on_gpu(64, d=4096))]
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kronecker_linear(*made, scale=0.2, backend=backend).sum().backward()
        peak = torch.cuda.max_memory_allocated() - before
    assert peak < made[1].numel() * made[1].element_size() / 4


@needs_gpu
def test_an_adapter_per_sample():
    x, *made = on_gpu(48, lead=(3,))
    index = torch.tensor([2, -1, 0, 2], device="cuda")
    results = [
        kronecker_linear(x.view(4, 12, -1), *made, scale=0.2, adapter_index=index, backend=backend)
        for backend in ("triton", "torch")
    ]
    assert (results[0] - results[1]).norm() <= 0.02 * results[1].norm()
