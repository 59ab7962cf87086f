"""The registered operation: slices, an adapter per sample, what backward keeps, compile, autocast, bad input."""

from contextlib import contextmanager

import pytest
import torch

from wm_pipelines.kernels import kronecker_delta, kronecker_linear, kronecker_linear_reference

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


# ---- slices, an adapter per sample ----

SLICES = ((0, 24), (48, 72))


def fused(lead, factored, dtype=torch.float64, batch=(4, 5)):
    """x, weight, bias, factors with `lead` in front, and a bias, for SLICES of a layer of 75 rows."""
    generator = torch.Generator().manual_seed(3)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    parts = 2 if 2 in lead else 1
    out_dim, in_dim = (75 if parts == 2 else 24), 15
    slow = {"a_out": randn(*lead, 3, 4), "a_in": randn(*lead, 3, 5)} if factored else {"a": randn(*lead, 3, 4, 5)}
    x, weight, bias = randn(*batch, in_dim), randn(out_dim, in_dim), randn(out_dim)
    return [x, weight, bias], [randn(*lead, 3, 6, 2), randn(*lead, 3, 3, 2)], slow, randn(*lead, 24)


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("lead", [(2,), (3,), (3, 2)])  # two parts, three adapters, both
def test_slices_and_adapters_per_sample_equal_the_definition(lead, factored):
    """Output and every gradient, in fp64 against the weight built by torch.kron for each sample."""
    given, (u, v), slow, extra = fused(lead, factored)
    options = {"scale": 0.7, "slices": SLICES if 2 in lead else None}
    options["adapter_index"] = torch.tensor([2, -1, 0, 2]) if 3 in lead else None
    leaves = [t.requires_grad_() for t in (*given, u, v, extra, *slow.values())]

    def gradients(function):
        y = function(*given, *positional(slow), u, v, a=slow.get("a"), delta_bias=extra, **options)
        return [y, *torch.autograd.grad(y.sin().sum(), leaves)]

    for mine, expected in zip(gradients(kronecker_linear), gradients(kronecker_linear_reference), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("lead", [(2,), (3, 2)])
def test_gradcheck_of_slices_and_samples(lead):
    given, (u, v), slow, _ = fused(lead, True, batch=(2, 2))
    index = torch.tensor([2, -1]) if 3 in lead else None
    leaves = [t.requires_grad_() for t in (given[0], u, v, *slow.values())]

    def run(x, u, v, a_out, a_in):
        return kronecker_linear(x, *given[1:], a_out, a_in, u, v, slices=SLICES, adapter_index=index)

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


def test_a_sample_without_adapter_is_the_base():
    given, (u, v), slow, extra = fused((3,), True)
    y = kronecker_linear(*given, *positional(slow), u, v, delta_bias=extra, adapter_index=torch.tensor([-1, 1, -1, 0]))
    base_only = torch.nn.functional.linear(*given)
    assert (
        torch.equal(y[0], base_only[0]) and torch.equal(y[2], base_only[2]) and not torch.allclose(y[1], base_only[1])
    )


# ---- the hand-written backward pass ----


@contextmanager
def saved():
    """Collects the tensors that are kept for the backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        yield kept


def test_only_the_gradients_that_are_asked_for_are_made():
    """Where only x has a gradient, x is not kept."""
    u, v, slow = factors(SIZES[0], True)
    x, weight, bias, _ = base(SIZES[0])
    for trained in ("x", "u", "v", "a_out", "a_in"):
        leaves = {"x": x, "u": u, "v": v, **slow}
        leaves = {name: t.detach().clone().requires_grad_(name == trained) for name, t in leaves.items()}
        with saved() as kept:
            y = kronecker_linear(leaves["x"], weight, bias, leaves["a_out"], leaves["a_in"], leaves["u"], leaves["v"])
        y.sum().backward()
        assert [name for name, t in leaves.items() if t.grad is not None] == [trained]
        shapes = [tuple(t.shape) for t in kept]
        assert (tuple(x.shape) in shapes) == (trained != "x")
        assert (6, 8) not in shapes  # the rank-sized sum: 6 tokens, m·r = 8


def bytes_beyond(kept, *given):
    known = {t.untyped_storage().data_ptr() for t in given}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for place, size in storages.items() if place not in known)


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("form", ["plain", "bias", "slices", "samples", "gate", "autocast"])
@pytest.mark.parametrize("tokens", [100, 7])
def test_saves_nothing_beyond_x(factored, form, tokens):
    """Not the rank-sized sum, for dense A n²·r times a token, nor a folded weight; only what was given."""
    lead = {"slices": (2,), "samples": (3, 2)}.get(form, ())
    given, (u, v), slow, extra = fused(lead, factored, torch.float32, batch=(4, tokens))
    options = {"slices": SLICES} if lead else {}
    if form == "samples":
        options["adapter_index"] = torch.tensor([2, -1, 0, 2])
    if form == "gate":
        options["gate"] = torch.rand(4, u.shape[-1])
    leaves = [t.requires_grad_() for t in (given[0], u, v, *slow.values())]
    with saved() as kept, torch.autocast("cpu", torch.bfloat16, enabled=form == "autocast"):
        bias = {} if form != "bias" else {"delta_bias": extra.requires_grad_()}
        y = kronecker_linear(*given, *positional(slow), u, v, a=slow.get("a"), scale=0.3, **options, **bias)
    cast = 2 * sum(t.numel() for t in given) if form == "autocast" else 0  # x, W and the bias as autocast reads them
    cast += 4 * len(given[2]) if form == "bias" else 0  # both biases as one vector
    cast += 4 * 3 * options["gate"].numel() if form == "gate" else 0  # the gate for each of three terms
    allowed = [t for t in (*given, *leaves, options.get("gate"), options.get("adapter_index")) if t is not None]
    assert bytes_beyond(kept, *allowed) <= cast
    y.float().square().sum().backward()
    assert all(t.grad.any() for t in leaves)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gate_and_dropout_have_gradients(dropout):
    """Against the same product built by autograd, with the same random numbers."""
    u, v, slow = factors(SIZES[1], True)
    x, weight, bias, _ = base(SIZES[1])
    gate = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, u, v, gate, *slow.values())]
    options = {"gate": gate, "dropout": dropout, "scale": 0.7}

    def side_path():
        return torch.nn.functional.linear(x, weight, bias) + kronecker_delta(x, u, v, **slow, **options)

    results = []
    for run in (lambda: kronecker_linear(x, weight, bias, *positional(slow), u, v, **options), side_path):
        torch.manual_seed(0)
        y = run()
        results.append([y, *torch.autograd.grad(y.sin().sum(), leaves)])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_zero_tokens(factored, lead):
    given, (u, v), slow, _ = fused(lead, factored, batch=(4, 0))
    index = torch.tensor([0, 1, -1, 2]) if lead else None
    leaves = [t.requires_grad_() for t in (given[0], u, v, *slow.values())]
    y = kronecker_linear(*given, *positional(slow), u, v, a=slow.get("a"), adapter_index=index)
    y.sum().backward()
    assert y.shape == (4, 0, 24) and all(not t.grad.any() for t in leaves)
    given[0], index = given[0][:0], None if index is None else index[:0]
    assert kronecker_linear(*given, *positional(slow), u, v, a=slow.get("a"), adapter_index=index).shape == (0, 0, 24)


@pytest.mark.parametrize("factored", [True, False])
def test_without_data_shapes_are_right(factored):
    """On the meta device, where large models are counted."""
    given, (u, v), slow, extra = fused((3, 2), factored)
    given, (u, v), extra = [t.to("meta") for t in given], (u.to("meta"), v.to("meta")), extra.to("meta")
    slow = {name: t.to("meta").requires_grad_() for name, t in slow.items()}
    options = {"a": slow.get("a"), "slices": SLICES, "delta_bias": extra}
    y = kronecker_linear(
        *given, *positional(slow), u, v, adapter_index=torch.zeros(4, dtype=int, device="meta"), **options
    )
    y.sum().backward()
    assert y.shape == (4, 5, 75) and all(t.grad.shape == t.shape for t in slow.values())


# ---- torch.compile, autocast ----


@pytest.mark.parametrize("form", ["factored", "dense", "slices", "samples"])
def test_compiles_with_gradients_in_one_graph(form):
    lead = {"slices": (2,), "samples": (3, 2)}.get(form, ())
    given, (u, v), slow, extra = fused(lead, form != "dense", torch.float32)
    index = torch.tensor([2, -1, 0, 2]) if form == "samples" else None
    leaves = [t.requires_grad_() for t in (given[0], u, v, extra, *slow.values())]

    def run():
        y = kronecker_linear(
            *given, *positional(slow), u, v, a=slow.get("a"), delta_bias=extra, slices=SLICES if lead else None,
            adapter_index=index,
        )  # fmt: skip
        return y.sin()

    results = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        y = function()
        results.append([y, *torch.autograd.grad(y.sum(), leaves)])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("lead", [(), (3, 2)])
def test_registration_is_sound(lead):
    """PyTorch's own check: schema, fake tensors, autograd registration, and tracing."""
    from custom_kernels.kronecker_linear.registered import registered, registered_backward

    given, (u, v), slow, _ = fused(lead, True, torch.float32)
    index = torch.tensor([2, -1, 0, 2]) if lead else None
    slices = [bound for part in SLICES for bound in part] if lead else []
    leaves = [t.requires_grad_() for t in (given[0], u, v, *slow.values())]
    arguments = (*given, slow["a_out"], slow["a_in"], u, v, None, index, 0.7, slices, False, False)
    torch.library.opcheck(registered, arguments)
    y, hidden = (t.detach() for t in registered(*arguments))
    frozen = [t.detach() if isinstance(t, torch.Tensor) else t for t in arguments]
    options = (y, frozen[0], hidden, frozen[1], *frozen[3:], [True] * 7 + [False])
    torch.library.opcheck(registered_backward, options)
    made = registered_backward(*options)
    assert all(grad.shape == t.shape for grad, t in zip(made, arguments[:7], strict=True)) and len(leaves) == 5


def test_autocast_keeps_factors_and_their_gradients_in_float32():
    u, v, slow = factors(SIZES[0], True, torch.float32)
    x, weight, bias, extra = base(SIZES[0], torch.float32)
    leaves = [t.requires_grad_() for t in (x, u, v, *slow.values())]
    with torch.autocast("cpu", torch.bfloat16):
        y = kronecker_linear(x, weight, bias, *positional(slow), u, v, delta_bias=extra)
    assert y.dtype == torch.bfloat16
    got = torch.autograd.grad(y.float().sum(), leaves)
    exact = kronecker_linear(x, weight, bias, *positional(slow), u, v, delta_bias=extra)
    for mine, expected in zip(got, torch.autograd.grad(exact.sum(), leaves), strict=True):
        assert mine.dtype == torch.float32 and (mine - expected).norm() <= 0.02 * expected.norm()


# ---- bad input ----


@pytest.mark.parametrize(
    "change, message",
    [
        ({"slices": ((0, 24), (20, 44))}, "`slices` must be ascending, disjoint row ranges of one size"),
        ({"slices": ((0, 24), (52, 76))}, r"in \[0, 75\]"),
        ({"slices": ((0, 24), (48, 71))}, "of one size"),
        ({"slices": ((0, 20), (48, 68))}, "makes 24 rows, not 20"),
        ({"slices": None}, "`a_out` must have 2 dimensions after"),
        ({"adapter_index": torch.tensor([0, 1, 2, 3])}, r"must be in \[-1, 2\], got 0 to 3"),
        ({"adapter_index": torch.tensor([0, 1, -2, 0])}, r"must be in \[-1, 2\], got -2 to 1"),
        ({"adapter_index": torch.tensor([0, 1])}, r"one integer a sample, \(4,\), got \(2,\)"),
        ({"adapter_index": torch.zeros(4)}, "torch.float32"),
        ({"adapter_index": None}, "dimensions after"),
        ({"delta_bias": torch.zeros(24)}, r"`delta_bias` must be \(3, 2, 24\)"),
        ({"gate": torch.ones(3, 2)}, r"`gate` must be \(batch, r\), \(4, 2\), got \(3, 2\)"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\)"),
        ({"backend": "cuda"}, "`backend` must be"),
        ({"backend": "triton"}, "TRITON_INTERPRET=1|triton is not installed"),
    ],
)
def test_bad_options(change, message):
    given, (u, v), slow, _ = fused((3, 2), True)
    options = {"slices": SLICES, "adapter_index": torch.tensor([0, 1, -1, 2]), **change}
    with pytest.raises(ValueError, match=message):
        kronecker_linear(*given, *positional(slow), u, v, **options)


def test_environment_chooses_the_backend(monkeypatch):
    u, v, slow = factors(SIZES[1], True)
    x, weight, bias, _ = base(SIZES[1])

    def run(**options):
        return kronecker_linear(x, weight, bias, *positional(slow), u, v, **options)

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("WM_KERNELS", "force")
    with pytest.raises(ValueError, match="the Triton kernels can't be used: "):
        run()
    assert run(backend="torch").shape == (2, 3, 20)
    monkeypatch.setenv("WM_KERNELS", "off")
    assert torch.equal(run(backend="triton"), run())
    monkeypatch.setenv("WM_KERNELS", "yes")
    with pytest.raises(ValueError, match="`WM_KERNELS` must be off, auto or force, got 'yes'"):
        run()
