"""The Kronecker kernels in Triton's interpreter; run by `test_kronecker_triton.py` with TRITON_INTERPRET=1."""

import pytest
import torch

from custom_kernels.kronecker_linear._triton import linear as kernels
from custom_kernels.kronecker_linear._triton import table
from custom_kernels.kronecker_linear.mix import kronecker_mix, kronecker_mix_reference
from wm_pipelines.kernels import kronecker_linear, kronecker_linear_reference

pytestmark = pytest.mark.usefixtures("poison")

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}

# tokens, (terms, n_out, n_in, out/n_out, in/n_in, r), slices, whether a sample has its own adapter
CASES = {
    "few tokens": (20, (3, 4, 5, 6, 7, 2), None, False),
    "one token": (1, (5, 3, 2, 7, 11, 3), None, False),
    "some tokens": (140, (3, 4, 5, 6, 7, 2), None, False),
    "many tokens": (2050, (2, 3, 2, 3, 3, 1), None, False),
    "several tiles": (150, (4, 4, 4, 40, 50, 2), None, False),
    "slices on tiles": (20, (4, 4, 4, 16, 16, 1), ((0, 64), (128, 192)), False),
    "slices across tiles": (20, (4, 4, 4, 7, 7, 1), ((3, 31), (35, 63)), False),
    "slices, some tokens": (140, (4, 4, 4, 16, 16, 1), ((0, 64), (64, 128)), False),
    "A as large as the layer": (20, (3, 8, 6, 1, 1, 2), None, False),
    "A as large as the layer, many tokens": (140, (3, 8, 6, 1, 1, 2), None, False),
    "A as large as the layer, slices": (20, (3, 8, 6, 1, 1, 2), ((1, 9), (10, 18)), False),
    "A as large as the layer, samples": (5, (3, 8, 6, 1, 1, 2), None, True),
    "samples": (20, (3, 4, 5, 6, 7, 2), None, True),
    "samples, slices": (3, (3, 4, 5, 6, 7, 2), ((0, 24), (48, 72)), True),
}


def make(case, dtype, dense=False):
    tokens, (terms, n_out, n_in, rows, columns, r), slices, mixed = case
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    lead = ((3,) if mixed else ()) + (() if slices is None else (len(slices),))
    out_dim = n_out * rows if slices is None else slices[-1][1] + 5
    x = randn(4, tokens, n_in * columns) if mixed else randn(tokens, n_in * columns)
    given = [x, randn(out_dim, n_in * columns), randn(out_dim)]
    pair = [randn(*lead, terms, rows, r), randn(*lead, terms, columns, r)]
    slow = {"a": randn(*lead, terms, n_out, n_in)}
    if not dense:
        slow = {"a_out": randn(*lead, terms, n_out), "a_in": randn(*lead, terms, n_in)}
    index = torch.tensor([2, -1, 0, 2]) if mixed else None
    options = {"delta_bias": randn(*lead, n_out * rows), "slices": slices, "adapter_index": index, "scale": 0.3}
    return given, pair, slow, options


def run(function, given, pair, slow, options, **more):
    """y and the gradients of everything, weight included."""
    leaves = [*given, *pair, options["delta_bias"], *slow.values()]
    named = slow.get("a_out"), slow.get("a_in")
    y = function(*given, *named, *pair, a=slow.get("a"), **options, **more)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    return [y, *torch.autograd.grad(y, leaves, g)]


def widened(given, pair, slow, options):
    def wide(t):
        return t.detach().double().requires_grad_()

    options = {**options, "delta_bias": wide(options["delta_bias"])}
    return [wide(t) for t in given], [wide(t) for t in pair], {k: wide(t) for k, t in slow.items()}, options


def compare(made, dtype, **more):
    for mine, exact in zip(
        run(kronecker_linear, *made, backend="triton", **more),
        run(kronecker_linear_reference, *widened(*made)),
        strict=True,
    ):
        assert mine.shape == exact.shape and mine.dtype == dtype
        assert (mine.double() - exact).norm() <= TOLERANCE[dtype] * exact.norm()


@pytest.mark.parametrize("case", CASES)
def test_output_and_every_gradient(case):
    compare(make(CASES[case], torch.float64), torch.float64)


@pytest.mark.parametrize("case", ["few tokens", "some tokens", "samples"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrower_types(case, dtype):
    compare(make(CASES[case], dtype), dtype)


@pytest.mark.parametrize("case", ["few tokens", "slices on tiles"])
def test_dense(case):
    compare(make(CASES[case], torch.float64, dense=True), torch.float64)


def test_mix_and_its_gradients():
    hidden, a = (torch.randn(*s, dtype=torch.float64).requires_grad_() for s in ((5, 6, 3, 2), (3, 4, 6)))
    g = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    results = [
        [y := f(hidden, a), *torch.autograd.grad(y, (hidden, a), g)] for f in (kronecker_mix, kronecker_mix_reference)
    ]
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


def test_dropout_and_gate_go_through_the_kernels():
    given, pair, slow, options = make(CASES["few tokens"], torch.float64)
    given[0] = given[0].detach().view(2, 10, -1).requires_grad_()
    options |= {"gate": torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64), "dropout": 0.5}
    results = []
    for backend in ("triton", "torch"):
        torch.manual_seed(0)
        results.append(run(kronecker_linear, given, pair, slow, options, backend=backend))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


def test_non_contiguous_input_and_factors():
    given, pair, slow, options = make(CASES["few tokens"], torch.float64)
    twisted = [t.detach().t().contiguous().t().requires_grad_() for t in given[:2]] + given[2:]
    factors = [t.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for t in pair]
    assert not any(t.is_contiguous() for t in (*twisted[:2], *factors))
    results = [
        run(kronecker_linear, g, p, slow, options, backend="triton") for g, p in ((given, pair), (twisted, factors))
    ]
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["few tokens", "samples"])
def test_zero_tokens(case):
    tokens, *rest = CASES[case]
    y, *grads = run(kronecker_linear, *make((0, *rest), torch.float64), backend="triton")
    assert y.numel() == 0 and not any(grad.any() for grad in grads)


def test_factors_wider_than_x_keep_their_dtype():
    given, pair, slow, options = make(CASES["some tokens"], torch.float16)
    pair, slow = (
        [t.detach().float().requires_grad_() for t in pair],
        {k: t.detach().float().requires_grad_() for k, t in slow.items()},
    )
    y, _, _, _, du, *_ = run(kronecker_linear, given, pair, slow, options, backend="triton")
    assert y.dtype == torch.float16 and du.dtype == torch.float32


def test_force_and_compile_reach_the_kernels(monkeypatch):
    calls, forward = [], kernels.forward
    monkeypatch.setattr(kernels, "forward", lambda *a: calls.append(1) or forward(*a))
    monkeypatch.setenv("WM_KERNELS", "force")
    made = make(CASES["few tokens"], torch.float32)
    eager = run(kronecker_linear, *made)
    compiled = torch.compile(kronecker_linear, fullgraph=True, backend="aot_eager")
    for mine, expected in zip(run(compiled, *made), eager, strict=True):
        torch.testing.assert_close(mine, expected)
    assert len(calls) == 2


def test_every_rule_of_the_table():
    assert [table.plan(t, 32, (0, 768), False) for t in (1, 16, 17, 128, 129, 2047, 2048)] == (
        ["fused_tiny"] * 2 + ["fused"] * 2 + ["linear_narrow"] * 2 + ["linear"]
    )
    assert table.plan(16, 32, (0, 768), True) == table.plan(16, 128, (0, 768), False) == "linear_narrow"
    assert table.plan(16, 32, (0, 28, 56, 84), False) == "linear_narrow"  # a tile would lie in two slices
    assert (
        table.splits(1, 4096, 64, torch.device("cpu")) == 16 and table.splits(200, 4096, 64, torch.device("cpu")) == 1
    )


def test_too_wide_a_sum_is_refused():
    given, pair, slow, options = make((4, (65, 2, 2, 2, 2, 2), None, False), torch.float32)
    with pytest.raises(ValueError, match="the rank-sized sum has 130 columns, the kernels take up to 128"):
        run(kronecker_linear, given, pair, slow, options, backend="triton")
