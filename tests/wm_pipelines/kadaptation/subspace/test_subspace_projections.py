"""Random projections: exact properties, seeds, and what is refused."""

import math

import pytest
import torch

from wm_pipelines.kadaptation.subspace.projections import PROJECTIONS, hadamard, make_projection

KINDS = list(PROJECTIONS)


def matrix(kind, size, dim, *key):
    projection = make_projection(kind, size, dim, *key)
    return torch.stack([projection(column) for column in torch.eye(dim)], dim=1)


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_hadamard_is_the_kronecker_power(n):
    h, expected = torch.tensor([[1.0, 1], [1, -1]]), torch.ones(1, 1)
    for _ in range(int(math.log2(n))):
        expected = torch.kron(expected, h)
    assert torch.equal(hadamard(torch.eye(n)), expected)
    x = torch.randn(3, 2, n, dtype=torch.float64)
    assert torch.allclose(hadamard(hadamard(x)), n * x)


def test_hadamard_is_differentiable_twice():
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(hadamard, x)
    assert torch.autograd.gradgradcheck(lambda x: hadamard(x) ** 2, x)


@pytest.mark.parametrize("n", [0, 3, 12])
def test_hadamard_refuses_other_sizes(n):
    with pytest.raises(ValueError, match=f"dimension is {n}; .* power of two"):
        hadamard(torch.zeros(2, n))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "dim"), [(1, 1), (37, 5), (64, 64), (100, 100)])
def test_projection_is_linear_and_of_its_size(kind, size, dim):
    projection = make_projection(kind, size, dim, 0).double()
    a, b = torch.randn(2, dim, dtype=torch.float64)
    assert projection(a).shape == (size,)
    assert torch.allclose(projection(2 * a - 3 * b), 2 * projection(a) - 3 * projection(b), atol=1e-12)
    assert torch.autograd.gradcheck(projection, a.clone().requires_grad_())


@pytest.mark.parametrize("kind", KINDS)
def test_same_key_same_projection_and_nothing_to_save(kind):
    one, two = matrix(kind, 50, 6, "a", 1), matrix(kind, 50, 6, "a", 1)
    assert torch.equal(one, two)
    assert not torch.equal(one, matrix(kind, 50, 6, "a", 2))
    assert not make_projection(kind, 50, 6, 1).state_dict()


@pytest.mark.parametrize(("kind", "exact"), [("dense", True), ("sparse", False), ("fastfood", False)])
def test_columns_have_norm_one(kind, exact):
    squares = torch.cat([matrix(kind, 300, 40, seed).square().sum(0) for seed in range(10)])
    assert squares.mean().item() == pytest.approx(1, abs=1e-6 if exact else 0.03)
    if exact:
        assert torch.allclose(squares, torch.ones_like(squares), atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "fastfood"])
def test_columns_are_independent_directions(kind):
    assert torch.linalg.matrix_rank(matrix(kind, 300, 64, 0)) == 64


def test_sparse_has_the_density_it_says():
    size, dim = 2500, 200
    projection = make_projection("sparse", size, dim, 0)
    entries, expected = len(projection.values), dim * math.sqrt(size)
    assert abs(entries - expected) < 5 * math.sqrt(expected)
    assert len(set((projection.rows * dim + projection.columns).tolist())) == entries
    # every value is +-1/sqrt(density * size), and both signs come
    assert projection.values.unique().tolist() == pytest.approx([-(size**-0.25), size**-0.25])


def test_fastfood_equals_its_matrices():
    p = make_projection("fastfood", 13, 7, 3)
    h, n = hadamard(torch.eye(16)), 16
    shuffle = torch.eye(n)[p.permutation]
    whole = h @ torch.diag(p.gauss) @ shuffle @ h @ torch.diag(p.signs)
    assert torch.allclose(matrix("fastfood", 13, 7, 3), whole[:13, :7] / math.sqrt(13 * n), atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_large_projections_name_fastfood(kind):
    with pytest.raises(ValueError, match="use projection='fastfood'"):
        make_projection(kind, 2**20, 2**8 + 1)


@pytest.mark.parametrize(
    ("kind", "dim", "said"), [("gauss", 1, "choose from fastfood"), ("dense", 0, "dim=0"), ("dense", 11, "1 to 10")]
)
def test_bad_projections_are_refused(kind, dim, said):
    with pytest.raises(ValueError, match=said):
        make_projection(kind, 10, dim)
