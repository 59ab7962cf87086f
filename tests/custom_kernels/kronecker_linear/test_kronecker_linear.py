"""The Kronecker linear map: every form against `torch.kron`, gradients, precision, and what it allocates."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wm_pipelines.kernels import (
    folding_pays,
    kronecker_delta,
    kronecker_linear,
    kronecker_linear_reference,
    kronecker_lora_factors,
    kronecker_weight,
)

# (terms, n_out, n_in, out/n_out, in/n_in, r): square, oblong, odd, more terms than n², a single term, n = 1
SIZES = [
    (4, 4, 4, 6, 6, 2),
    (3, 4, 6, 5, 7, 2),
    (5, 3, 2, 7, 11, 3),
    (9, 2, 2, 3, 5, 1),
    (1, 5, 3, 4, 2, 4),
    (2, 1, 1, 9, 7, 3),
]


def factors(size, factored, dtype=torch.float64, seed=0):
    terms, n_out, n_in, rows, columns, r = size
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    if factored:
        slow = {"a_out": randn(terms, n_out), "a_in": randn(terms, n_in)}
    else:
        slow = {"a": randn(terms, n_out, n_in)}
    return randn(terms, rows, r), randn(terms, columns, r), slow


def base(size, dtype=torch.float64, batch=(2, 3)):
    out_dim, in_dim = size[1] * size[3], size[2] * size[4]
    generator = torch.Generator().manual_seed(7)
    shapes = [(*batch, in_dim), (out_dim, in_dim), (out_dim,), (out_dim,)]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def positional(slow):
    return slow.get("a_out"), slow.get("a_in")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factored", [True, False])
def test_every_form_equals_the_definition(size, factored):
    u, v, slow = factors(size, factored)
    x, weight, bias, extra = base(size)
    options = {"a": slow.get("a"), "scale": 0.7, "delta_bias": extra}
    expected = kronecker_linear_reference(x, weight, bias, *positional(slow), u, v, **options)
    y = kronecker_linear(x, weight, bias, *positional(slow), u, v, **options)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    delta = kronecker_weight(u, v, scale=0.7, **slow)
    side = torch.nn.functional.linear(x, weight, bias) + extra
    torch.testing.assert_close(side + x @ delta.T, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(side + kronecker_delta(x, u, v, scale=0.7, **slow), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factored", [True, False])
def test_lora_factors_are_exact_and_as_narrow_as_promised(size, factored):
    u, v, slow = factors(size, factored)
    up, down = kronecker_lora_factors(u, v, scale=0.7, **slow)
    terms, n_out, n_in, rows, columns, r = size
    expected = terms * r if factored else min(terms * r * min(n_out, n_in), n_out * rows, n_in * columns)
    assert up.shape == (n_out * rows, expected) and down.shape == (expected, n_in * columns)
    torch.testing.assert_close(up @ down, kronecker_weight(u, v, scale=0.7, **slow), rtol=1e-12, atol=1e-12)


def test_dense_rank_is_n_squared_r():
    """64 × 64, n = 4, r = 1, 2, 3 gives rank 16, 32, 48."""
    ranks = []
    for r in (1, 2, 3):
        u, v, slow = factors((4, 4, 4, 16, 16, r), factored=False)
        ranks.append(torch.linalg.matrix_rank(kronecker_weight(u, v, **slow)).item())
    assert ranks == [16, 32, 48]


# one token keeps dense A factored, 40 fold it
@pytest.mark.parametrize("factored, tokens", [(True, 3), (False, 1), (False, 40)])
def test_gradients(factored, tokens):
    size = (3, 2, 3, 2, 2, 2)
    u, v, slow = factors(size, factored)
    x, weight, bias, extra = base(size, batch=(tokens,))
    if not factored:
        assert folding_pays(tokens, *weight.shape, (3, 2, 3), 2, training=True) == (tokens == 40)
    names = list(slow)

    def run(x, u, v, extra, *slow_values):
        slow = dict(zip(names, slow_values, strict=True))
        return kronecker_linear(x, weight, bias, *positional(slow), u, v, a=slow.get("a"), scale=0.7, delta_bias=extra)

    arguments = [t.requires_grad_() for t in (x, u, v, extra, *slow.values())]
    assert torch.autograd.gradcheck(run, arguments, fast_mode=tokens > 3)


def test_folding_is_chosen_where_it_was_measured_to_win():
    """One core, forward and backward: (d_out, d_in, tokens, n, r) and whether W + ΔW was the faster form."""
    measured = {
        (768, 768, 4096, 32, 1): True,
        (320, 320, 4096, 4, 8): True,
        (64, 64, 2048, 4, 1): True,
        (4096, 4096, 256, 32, 1): False,
        (4096, 4096, 4096, 32, 1): False,
        (320, 768, 77, 4, 8): False,
        (640, 640, 1024, 4, 8): False,
        (1280, 1280, 256, 4, 8): False,
    }
    chosen = {k: folding_pays(k[2], k[0], k[1], (k[3],) * 3, k[4], training=True) for k in measured}
    assert chosen == measured


@pytest.mark.parametrize("factored", [True, False])
def test_a_sample_does_not_see_the_others(factored):
    size = SIZES[1]
    u, v, slow = factors(size, factored, torch.float32)
    x, weight, bias, _ = base(size, torch.float32)
    changed = x.clone()
    changed[1] = 100.0
    run = [kronecker_linear(t, weight, bias, *positional(slow), u, v, a=slow.get("a")) for t in (x, changed)]
    assert torch.equal(run[0][0], run[1][0]) and not torch.equal(run[0][1], run[1][1])


@pytest.mark.parametrize("factored", [True, False])
def test_gate_weighs_rank_columns_per_sample(factored):
    size = SIZES[1]
    u, v, slow = factors(size, factored)
    x = base(size)[0]
    gate = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)
    expected = torch.stack([kronecker_delta(x[b], u * gate[b], v, **slow) for b in range(2)])
    torch.testing.assert_close(kronecker_delta(x, u, v, gate=gate, **slow), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factored", [True, False])
def test_non_contiguous_input(factored):
    u, v, slow = factors(SIZES[1], factored)
    x, weight, bias, _ = base(SIZES[1], batch=(3, 2))
    run = [
        kronecker_linear(t, weight, bias, *positional(slow), u, v, a=slow.get("a"))
        for t in (x.transpose(0, 1), x.transpose(0, 1).contiguous())
    ]
    torch.testing.assert_close(*run, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factored", [True, False])
def test_float32_is_close_to_float64(factored):
    size = (8, 8, 8, 24, 24, 2)
    u, v, slow = factors(size, factored)
    x, weight, bias, _ = base(size, batch=(33,))
    expected = kronecker_linear_reference(x, weight, bias, *positional(slow), u, v, a=slow.get("a"), scale=0.1)
    x, weight, bias, u, v, *slow_values = (t.float() for t in (x, weight, bias, u, v, *slow.values()))
    slow = dict(zip(slow, slow_values, strict=True))
    y = kronecker_linear(x, weight, bias, *positional(slow), u, v, a=slow.get("a"), scale=0.1)
    assert (y.double() - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("wide_factors", [True, False])
def test_half_precision_error_is_at_most_twice_that_of_a_plain_linear(dtype, factored, wide_factors):
    """Against fp64 on the same rounded numbers, with an update as large as the weight itself."""
    size = (8, 8, 8, 12, 12, 1)
    u, v, slow = factors(size, factored)
    x, weight, bias, _ = base(size, batch=(64,))
    scale = (weight.norm() / kronecker_weight(u, v, **slow).norm()).item()
    kept = torch.float32 if wide_factors else dtype
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    u, v, slow = u.to(kept), v.to(kept), {name: a.to(kept) for name, a in slow.items()}
    exact = {name: a.double() for name, a in slow.items()}
    wide = [t.double() for t in (x, weight, bias, u, v)]
    expected = kronecker_linear_reference(*wide[:3], *positional(exact), *wide[3:], a=exact.get("a"), scale=scale)
    y = kronecker_linear(x, weight, bias, *positional(slow), u, v, a=slow.get("a"), scale=scale)
    assert y.dtype == dtype
    error = (y.double() - expected).norm() / expected.norm()
    # the yardstick is one matrix product with W + ΔW already formed in the half dtype
    merged = (wide[1] + scale * kronecker_weight(wide[3], wide[4], **exact)).to(dtype)
    plain = (torch.nn.functional.linear(x, merged, bias).double() - expected).norm() / expected.norm()
    assert error <= 2 * plain


def test_autocast_runs_and_learns():
    for factored in (True, False):
        u, v, slow = factors(SIZES[0], factored, torch.float32)
        x, weight, bias, _ = base(SIZES[0], torch.float32)
        leaves = [t.requires_grad_() for t in (u, v, *slow.values())]
        with torch.autocast("cpu", torch.bfloat16):
            y = kronecker_linear(x, weight, bias, *positional(slow), u, v, a=slow.get("a"))
        expected = kronecker_linear_reference(x, weight, bias, *positional(slow), u, v, a=slow.get("a"))
        assert (y - expected).norm() / expected.norm() < 0.03
        y.float().square().sum().backward()
        assert all(t.grad.isfinite().all() and t.grad.any() for t in leaves)


@pytest.mark.parametrize("factored", [True, False])
def test_factors_of_two_dtypes_run_and_learn(factored):
    u, v, slow = factors(SIZES[0], factored, torch.float32)
    x, weight, bias, _ = base(SIZES[0], torch.float32)
    v, slow = v.bfloat16(), {name: t.bfloat16() if name == "a_in" else t for name, t in slow.items()}
    mixed = [t.requires_grad_() for t in (u, v, *slow.values())]
    wide = [t.detach().float().requires_grad_() for t in mixed]
    for leaves in (mixed, wide):
        named = dict(zip(slow, leaves[2:], strict=True))
        y = kronecker_linear(x, weight, bias, *positional(named), *leaves[:2], a=named.get("a"))
        y.square().sum().backward()
    for t, expected in zip(mixed, wide, strict=True):
        assert t.grad.dtype == t.dtype
        torch.testing.assert_close(t.grad, expected.grad.to(t.dtype))


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor any operation returns, those inside the Kronecker map included."""

    largest = 0

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.append(function.overloadpacket.__name__)
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and not function.is_view:  # W.t() is no temporary
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("factored", [True, False])
def test_no_temporary_of_the_weights_size(factored):
    """d = 2048, 64 tokens: nothing made in forward or backward has d²/4 elements."""
    size = (32, 32, 32, 64, 64, 1)
    u, v, slow = factors(size, factored, torch.float32)
    x, weight, bias, _ = base(size, torch.float32, batch=(64,))
    leaves = [t.requires_grad_() for t in (x, u, v, *slow.values())]
    with _Largest() as seen:
        y = kronecker_linear(x, weight, bias, *positional(slow), u, v, a=slow.get("a"))
        y.sum().backward()
    assert all(t.grad is not None for t in leaves)
    assert 64 * 2048 <= seen.largest < 2048**2 // 4
    # what happens inside the map is seen: the in-place products of forward and backward
    assert seen.names.count("addmm_") == (2 if factored else 0)


@pytest.mark.parametrize("factored", [True, False])
def test_compiles_in_one_graph(factored):
    u, v, slow = factors(SIZES[0], factored, torch.float32)
    x, weight, bias, _ = base(SIZES[0], torch.float32)
    compiled = torch.compile(kronecker_linear, fullgraph=True, backend="eager")
    y = [run(x, weight, bias, *positional(slow), u, v, a=slow.get("a")) for run in (compiled, kronecker_linear)]
    torch.testing.assert_close(*y)


def test_bad_input():
    u, v, slow = factors(SIZES[1], True)
    x, weight, bias, _ = base(SIZES[1])
    with pytest.raises(ValueError, match="give either `a`"):
        kronecker_linear(x, weight, bias, None, None, u, v)
    with pytest.raises(ValueError, match="give either `a`"):
        kronecker_linear(x, weight, bias, slow["a_out"], None, u, v)
    with pytest.raises(ValueError, match="`x` has 41 features, `weight` \\(20, 42\\) needs 42"):
        kronecker_linear(x[..., :41], weight, bias, *positional(slow), u, v)
    with pytest.raises(ValueError, match="must agree in m and r"):
        kronecker_linear(x, weight, bias, *positional(slow), u, v[..., :1])
    with pytest.raises(ValueError, match="`backend` must be"):
        kronecker_linear(x, weight, bias, *positional(slow), u, v, backend="cuda")
