"""KroneckerLinear: the layer without PEFT, its per-type mix, shared slow weights, merging and export."""

import copy

import pytest
import torch
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerLinear


def random_layer(**options):
    torch.manual_seed(0)
    layer = KroneckerLinear.from_linear(nn.Linear(24, 16), n=4, r=2, **options)
    nn.init.normal_(layer.kronecker_u)
    return layer


def dense(layer, u, v):
    slow = layer.slow_weights
    a = torch.einsum("ip,iq->ipq", slow["a_out"], slow["a_in"]) if layer.factored else slow["a"]
    return sum(torch.kron(a[i].double(), (u[i] @ v[i].T).double()) for i in range(layer.terms)) * layer.scale


@pytest.mark.parametrize("factored", [False, True])
def test_forward_is_the_kronecker_sum(factored):
    layer = random_layer(factored=factored, scale=0.7)
    x = torch.randn(3, 5, 24)
    delta = dense(layer, layer.kronecker_u, layer.kronecker_v)
    expected = nn.functional.linear(x.double(), layer.weight.double() + delta, layer.bias.double())
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.delta_weight().double(), delta, rtol=1e-5, atol=1e-6)


def test_paper_orientation():
    """FlexEControl's y = x W with DW = Σ H_i ⊗ u_i v_iᵀ: H_i = A_iᵀ, u_i = V_i, v_i = U_i."""
    layer = random_layer()
    dw = sum(
        torch.kron(layer.kronecker_a[i].T.contiguous(), layer.kronecker_v[i] @ layer.kronecker_u[i].T)
        for i in range(4)
    )
    torch.testing.assert_close(layer.delta_weight().T, dw.detach(), rtol=1e-5, atol=1e-6)


def test_zero_at_start_and_learns():
    layer = KroneckerLinear.from_linear(nn.Linear(24, 16), n=4, r=2)
    x, target = torch.randn(8, 24), torch.randn(8, 16)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), rtol=0, atol=0)
    optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.1)
    seen = []
    for _ in range(2):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        seen.append([p.grad.abs().max().item() > 0 for p in (layer.kronecker_u, layer.kronecker_v, layer.kronecker_a)])
        optimizer.step()
    assert seen == [[True, False, False], [True, True, True]]
    assert layer.weight.grad is None and layer.bias.grad is None


def test_per_type_mix_is_the_weighted_sum_of_pairs():
    layer = random_layer(types=3)
    x = torch.randn(2, 5, 24)
    base = nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), base, rtol=0, atol=0)
    deltas = [dense(layer, layer.kronecker_u[c], layer.kronecker_v[c]) for c in range(3)]
    layer.set_mix([0.25, 0.0, 0.75])
    expected = base.double() + x.double() @ (0.25 * deltas[0] + 0.75 * deltas[2]).T
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.4, 0.6]])
    layer.set_mix(rows)
    each = [x[b].double() @ sum(w * d for w, d in zip(rows[b].tolist(), deltas, strict=True)).T for b in range(2)]
    torch.testing.assert_close(layer(x).double(), base.double() + torch.stack(each), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="differs from sample to sample"):
        layer.delta_weight()
    layer.set_mix([0.0, 0.0, 0.0])
    torch.testing.assert_close(layer(x), base, rtol=0, atol=0)


def test_shared_slow_weights_are_stored_once_and_survive_copying():
    owner = random_layer()
    model = nn.ModuleList([owner, KroneckerLinear.from_linear(nn.Linear(8, 12), n=4, r=2, share_with=owner)])
    assert [k for k in model.state_dict() if "kronecker_a" in k] == ["0.kronecker_a"]
    twin = copy.deepcopy(model).half().float()
    assert twin[1].slow_weights["a"] is twin[0].kronecker_a is not owner.kronecker_a
    nn.init.normal_(twin[1].kronecker_u)
    twin[1](torch.randn(3, 8)).sum().backward()
    assert twin[0].kronecker_a.grad.abs().max() > 0


def test_merge_is_exact_to_undo_and_leaves_a_plain_linear():
    layer = random_layer()
    before, x = layer.weight.detach().clone(), torch.randn(4, 24)
    expected = layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    plain = layer.to_linear()
    assert type(plain) is nn.Linear
    torch.testing.assert_close(plain(x), expected, rtol=1e-5, atol=1e-5)
    layer.unmerge()
    assert torch.equal(layer.weight, before)
    b, a = layer.lora_factors()
    torch.testing.assert_close(b @ a, layer.delta_weight(), rtol=1e-5, atol=1e-6)


def test_counts_of_flexecontrol():
    """r(k+d) + n³ parameters a layer: the 768 → 320 key projection at n=4, r=8."""
    with torch.device("meta"):
        layer = KroneckerLinear.from_linear(nn.Linear(768, 320, bias=False), n=4, r=8)
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 8 * (768 + 320) + 4**3


def test_bad_input():
    with pytest.raises(ValueError, match="n=5 does not divide in_features=768; choose from 1, 2, 4, 8, 16, 32, 64"):
        KroneckerLinear(768, 320, n=5)
    with pytest.raises(ValueError, match="must be an nn.Linear, got Conv2d"):
        KroneckerLinear.from_linear(nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match="`share_with` has"):
        KroneckerLinear(8, 8, n=4, share_with=random_layer(factored=True))
    with pytest.raises(ValueError, match="types=3, got \\(2,\\)"):
        random_layer(types=3).set_mix([1.0, 0.0])
    layer = KroneckerLinear(8, 8, n=4)
    layer.check_can_learn()
    nn.init.zeros_(layer.kronecker_v)
    with pytest.raises(ValueError, match="adapter cannot learn \\(dead initialisation\\)"):
        layer.check_can_learn()
