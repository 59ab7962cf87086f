"""Training in a subspace leaves the model alone and moves only what it is told to."""

import pytest
import torch
from torch import nn

from wm_pipelines.kadaptation.subspace.modeling import SubspaceModel


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


NAMES = ["0.weight", "0.bias"]


@pytest.mark.parametrize("kind", ["fastfood", "dense", "sparse"])
def test_starts_at_the_model_and_moves_by_p_z(model, kind):
    net, x = SubspaceModel(model, NAMES, 5, kind), torch.randn(7, 4)
    assert torch.equal(net(x), model(x))
    with torch.no_grad():
        net.z.copy_(torch.randn(5))
    step = net.projection(net.z)
    moved = net.moved()
    assert list(moved) == NAMES
    assert torch.allclose(moved["0.weight"] - model[0].weight, step[:24].view(6, 4), atol=1e-6)
    assert torch.allclose(moved["0.bias"] - model[0].bias, step[24:], atol=1e-6)
    assert not torch.allclose(net(x), model(x))


def test_gradient_is_that_of_the_parameters_projected(model):
    net, x = SubspaceModel(model, NAMES, 5, "dense"), torch.randn(7, 4)
    net(x).square().sum().backward()
    assert model[0].weight.grad is None and model[2].weight.grad is not None  # a head trains as it is
    ours = net.z.grad
    model.zero_grad()
    model(x).square().sum().backward()
    plain = torch.cat([model[0].weight.grad.flatten(), model[0].bias.grad])
    assert torch.allclose(ours, net.projection.matrix.T @ plain, rtol=1e-4, atol=1e-5)


def test_model_is_not_changed_until_it_is_merged(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    net, x = SubspaceModel(model, NAMES, 5), torch.randn(7, 4)
    optimizer = torch.optim.Adam([net.z], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    expected = net(x)
    assert net.merge() is model and not net.z.any()
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert torch.equal(model.state_dict()["2.weight"], before["2.weight"])


def test_seed_makes_the_projection_again(model):
    z = torch.randn(5)
    made = [SubspaceModel(model, NAMES, 5, seed=seed).projection(z) for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert [name for name in SubspaceModel(model, NAMES, 5).state_dict() if "model." not in name] == ["z"]


def test_half_precision_models_stay_half(model):
    net = SubspaceModel(model.to(torch.bfloat16), NAMES, 5)
    assert net.z.dtype == torch.float32 and net.moved()["0.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["0.wait"], "'0.wait' is no floating-point parameter of the Sequential"),
        ([], "one or more different"),
        (["0.bias", "0.bias"], "one or more different"),
    ],
)
def test_bad_names_are_refused(model, names, said):
    with pytest.raises(ValueError, match=said):
        SubspaceModel(model, names, 2)
