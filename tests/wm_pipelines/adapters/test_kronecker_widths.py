"""Sizes of A that are a width of the layer, and all others that divide one: everything equals base + x·ΔWᵀ."""

import copy
import itertools

import pytest
import torch
from peft import LoKrConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import save_file
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig, KroneckerLinear, load_lokr, to_lora, unload_augmented
from wm_pipelines.adapters.kronecker.factors import divisors
from wm_pipelines.kernels import kronecker_delta, kronecker_linear, kronecker_linear_reference

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def sizes(out_dim, in_dim):
    """(n_out, n_in, r, terms) of every pair of divisors."""
    for n_out, n_in in itertools.product(divisors(out_dim), divisors(in_dim)):
        for r, terms in {(1, n_out), (2, n_out), (3, 1), (2, 2)}:
            yield n_out, n_in, r, terms


def close(mine, good, dtype, what):
    error = (mine.double() - good.double()).norm()
    assert mine.shape == good.shape and error <= TOLERANCE[dtype] * good.double().norm() + 1e-9, what


def made(out_dim, in_dim, n_out, n_in, r, terms, dense, dtype=torch.float64, lead=()):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    factors = {"u": randn(*lead, terms, out_dim // n_out, r), "v": randn(*lead, terms, in_dim // n_in, r)}
    if dense:
        factors |= {"a": randn(*lead, terms, n_out, n_in), "a_out": None, "a_in": None}
    else:
        factors |= {"a": None, "a_out": randn(*lead, terms, n_out), "a_in": randn(*lead, terms, n_in)}
    return {"weight": randn(out_dim, in_dim), "bias": randn(out_dim), **factors}


INPUTS = {
    "one token": lambda d: torch.randn(d),
    "tokens": lambda d: torch.randn(5, d),
    "batch": lambda d: torch.randn(2, 3, d),
    "transposed": lambda d: torch.randn(d, 5).t(),
    "part of a wider one": lambda d: torch.randn(2, 6, d + 1)[:, ::2, 1:],
    "expanded": lambda d: torch.randn(1, 1, d).expand(2, 3, d),
    "batch moved": lambda d: torch.randn(3, 2, d).transpose(0, 1),
}


def compare(function, x, given, dtype, what, **options):
    results = []
    for run, kind in ((function, dtype), (kronecker_linear_reference, torch.float64)):
        named = {name: t for name, t in given.items() if t is not None}
        leaves = {name: t.detach().to(kind).requires_grad_() for name, t in named.items()}
        leaf = x.detach().to(kind).requires_grad_()
        y = run(leaf, **{name: leaves.get(name) for name in given}, **options)
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
        results.append([y, *torch.autograd.grad(y, [leaf, *leaves.values()], g)])
    for i, (mine, good) in enumerate(zip(*results, strict=True)):
        close(mine, good, dtype, (what, i))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("shape", [(8, 8), (6, 4), (1, 6), (6, 1), (1, 1)], ids=str)
def test_every_divisor_and_rank(shape, dense):
    """The fused operation, forward and every gradient; inputs in turn."""
    torch.manual_seed(0)
    for size, (name, make) in zip(sizes(*shape), itertools.cycle(INPUTS.items()), strict=False):
        compare(kronecker_linear, make(shape[1]), made(*shape, *size, dense), torch.float64, (size, name), scale=0.5)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_every_input_where_n_is_a_width(name, dense):
    torch.manual_seed(0)
    for n_out, n_in in ((8, 6), (8, 2), (4, 6), (8, 1), (1, 6)):
        given = made(8, 6, n_out, n_in, 2, 3, dense)
        compare(kronecker_linear, INPUTS[name](6), given, torch.float64, (n_out, n_in), scale=0.5)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_dtype_where_n_is_a_width(dtype, dense):
    torch.manual_seed(0)
    for n_out, n_in in ((8, 6), (8, 2), (4, 6)):
        compare(kronecker_linear, torch.randn(2, 3, 6), made(8, 6, n_out, n_in, 2, 3, dense), dtype, (n_out, n_in))


@pytest.mark.parametrize("dense", [False, True])
def test_adapters_of_samples_and_slices_where_n_is_a_width(dense):
    torch.manual_seed(0)
    for n_out, n_in in ((8, 6), (8, 2), (4, 6)):
        given = made(8, 6, n_out, n_in, 2, 3, dense, lead=(3,))
        index = torch.tensor([2, -1, 0, 2])
        compare(kronecker_linear, torch.randn(4, 5, 6), given, torch.float64, (n_out, n_in), adapter_index=index)
        given = made(8, 6, n_out, n_in, 2, 3, dense, lead=(2,))
        whole = {"weight": torch.randn(20, 6).double(), "bias": torch.randn(20).double()}
        given, slices = given | whole, ((1, 9), (10, 18))
        compare(kronecker_linear, torch.randn(5, 6), given, torch.float64, (n_out, n_in), slices=slices)


@pytest.mark.parametrize("dense", [False, True])
def test_the_factored_product_alone(dense):
    torch.manual_seed(0)
    for size in sizes(8, 6):
        given = made(8, 6, *size, dense)
        x = torch.randn(2, 3, 6).double()
        factors = {name: given[name] for name in ("u", "v", "a", "a_out", "a_in")}
        exact = kronecker_linear_reference(x, given["weight"], None, **{k: factors[k] for k in factors}, scale=0.5)
        close(kronecker_delta(x, **factors, scale=0.5), exact - x @ given["weight"].t(), torch.float64, size)


OPTIONS = [
    {"n": 8, "r": 2}, {"n": 1, "r": 3}, {"n": 2, "n_out": 8, "r": 2, "terms": 3}, {"n": 4, "n_in": 8, "r": 2},
    {"n": 8, "r": 2, "factored": False}, {"n": 2, "n_in": 8, "r": 3, "factored": False},
    {"n": 8, "r": 2, "bias": "own"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_way_to_run_a_layer(options):
    """Fused, beside a base that must be called, mixed in a batch, merged, as LoRA, and in one product."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 8))
    model = get_peft_model(copy.deepcopy(base), KroneckerConfig(target_modules=["0"], **options)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    layer, x = model.base_model.model[0], torch.randn(2, 3, 8)
    shift = layer.full_bias("default")
    expected = base(x) + x @ layer.get_delta_weight("default").t() + (0 if shift is None else shift)
    close(model(x), expected, torch.float32, "fused")
    handle = layer.base_layer.register_forward_hook(lambda *_: None)
    close(model(x), expected, torch.float32, "beside the base")
    handle.remove()
    mixed = model(x, adapter_names=["__base__", "default"])
    close(mixed, torch.stack([base(x)[0], expected[1]]), torch.float32, "mixed")
    lora = to_lora(model)["0"]
    close(lora.up @ lora.down, layer.get_delta_weight("default"), torch.float32, "LoRA")
    model.train()
    model(x).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    model.eval().merge_adapter()
    close(model(x), expected, torch.float32, "merged")
    model.unmerge_adapter()
    if options.get("factored", True):
        with torch.no_grad():
            close(unload_augmented(model)[0](x), expected, torch.float32, "one product")


@pytest.mark.parametrize("types", [None, 2])
@pytest.mark.parametrize("options", [o for o in OPTIONS if "bias" not in o], ids=str)
def test_the_layer_without_peft(options, types):
    torch.manual_seed(0)
    linear = nn.Linear(8, 8)
    layer = KroneckerLinear.from_linear(copy.deepcopy(linear), types=types, **options)
    for parameter in layer.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    if types:
        layer.set_mix([0.3, -2.0])
    x = torch.randn(2, 3, 8, requires_grad=True)
    expected = linear(x) + x @ layer.delta_weight().t()
    y = layer(x)
    close(y, expected, torch.float32, "mix")
    y.square().sum().backward()
    if types:
        layer.set_mix(torch.tensor([[0.3, -2.0], [0.0, 1.0]]))
        close(layer(x)[:1], expected[:1], torch.float32, "mix of a sample")


@pytest.mark.parametrize("factor", [-1, 1, 2, 3, 4, 6, 8, 12, 24])
@pytest.mark.parametrize("options", [{}, {"decompose_both": True}], ids=str)
def test_lokr_of_peft_at_every_factor(factor, options, tmp_path):
    """PEFT's rule of factorisation on a wide layer, a tall one and a square one, at ranks that leave factors whole."""
    torch.manual_seed(0)
    stack = nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 6), nn.Linear(6, 24), nn.Linear(24, 8))
    for r in (1, 2, 30):
        config = LoKrConfig(r=r, alpha=r, target_modules=["0", "1", "2", "3"], decompose_factor=factor, **options)
        lokr = get_peft_model(copy.deepcopy(stack), config)
        for parameter in lokr.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
        lokr.save_pretrained(tmp_path / str(r))
        model, x = load_lokr(copy.deepcopy(stack), tmp_path / str(r)).eval(), torch.randn(2, 3, 24)
        close(model(x), lokr(x), torch.float32, (factor, r))


def factorization(size, factor):
    """LyCORIS' rule (`lycoris/functional/general.py`): (m, n), m·n = size and m <= n, m the nearest to `factor`."""
    if factor > 0 and size % factor == 0:
        return (factor, size // factor) if factor <= size // factor else (size // factor, factor)
    m, n, length = 1, size, size + 1
    factor = size if factor < 0 else factor
    while m < n:
        new_m = m + 1
        while size % new_m:
            new_m += 1
        new_n = size // new_m
        if new_m + new_n > length or new_m > factor:
            break
        m, n, length = new_m, new_n, new_m + new_n
    return (m, n) if m <= n else (n, m)


@pytest.mark.parametrize("unbalanced", [False, True])
@pytest.mark.parametrize("factor", [-1, 1, 2, 4, 8, 24])
@pytest.mark.parametrize("form", ["whole", "w2", "both"])
def test_lokr_of_lycoris_at_every_factor(form, factor, unbalanced, tmp_path):
    """`unbalanced_factorization` swaps the two factors of the output side, so that w1 may be the larger one."""
    torch.manual_seed(0)
    stack, tensors, merged = nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 6), nn.Linear(6, 24)), {}, None
    merged = copy.deepcopy(stack)
    for i, layer in enumerate(stack):
        out_l, out_k = factorization(layer.out_features, factor)
        in_m, in_n = factorization(layer.in_features, factor)
        if unbalanced:
            out_l, out_k = out_k, out_l
        w1, w2, rank = 0.3 * torch.randn(out_l, in_m), 0.3 * torch.randn(out_k, in_n), 2
        alpha, scale, parts = torch.tensor(3.0), 1.0, {"lokr_w1": w1, "lokr_w2": w2}
        if form != "whole":
            parts["lokr_w2_a"], parts["lokr_w2_b"] = 0.3 * torch.randn(out_k, rank), torch.randn(rank, in_n)
            w2, scale = parts["lokr_w2_a"] @ parts["lokr_w2_b"], 3.0 / rank
            del parts["lokr_w2"]
        else:
            alpha = torch.tensor(1.0)
        if form == "both":
            parts["lokr_w1_a"], parts["lokr_w1_b"] = 0.3 * torch.randn(out_l, rank), torch.randn(rank, in_m)
            w1 = parts["lokr_w1_a"] @ parts["lokr_w1_b"]
            del parts["lokr_w1"]
        tensors |= {f"lycoris_{i}.{name}": t for name, t in {**parts, "alpha": alpha}.items()}
        merged[i].weight.data += scale * torch.kron(w1, w2)
    save_file(tensors, tmp_path / "a.safetensors")
    model = load_lokr(stack, tmp_path / "a.safetensors")
    x = torch.randn(2, 3, 24, requires_grad=True)
    close(model(x), merged(x), torch.float32, "output")
    mine, good = (torch.autograd.grad(m(x).sum(), x)[0] for m in (model, merged))
    close(mine, good, torch.float32, "gradient")


def test_an_adapter_that_is_injected_and_trained():
    """The instance of the report: n is the width, r is 2."""
    layer = nn.Sequential(nn.Linear(8, 8))
    inject_adapter_in_model(KroneckerConfig(n=8, r=2, target_modules=["0"]), layer)
    optimiser = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], 0.1)
    x, losses = torch.randn(4, 8), []
    for _ in range(4):
        loss = (layer(x) - 1).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0]
