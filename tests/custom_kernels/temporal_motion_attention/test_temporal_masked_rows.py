"""Frames of `temporal_motion_attention` whose logits are all masked, by −inf or by the least finite number."""

import math

import pytest
import torch

from wm_pipelines.kernels import temporal_motion_attention, temporal_motion_attention_reference

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 5e-2}
FRAMES = 5


def least(dtype):
    return torch.finfo(torch.promote_types(dtype, torch.float32)).min


def make(value, dtype):
    """The last frame may look at no frame; the others at those behind them only; head 1 of batch row 1 at all."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    leaves = {name: randn(2, 4, FRAMES, 2, 3) for name in "qkv"} | {"tau": randn(2).abs() + 0.5}
    leaves["rho"] = randn(2, 2, 2 * FRAMES - 1).to(torch.promote_types(dtype, torch.float32))
    leaves["rho"][..., FRAMES - 1 :] = value  # i - j >= 0
    leaves["rho"][1, 1] = 0.0
    boxes = torch.tensor([0.1, 0.0, 0.8, 0.7]).expand(2, 1, FRAMES, 4).clone()
    return leaves, {"boxes": boxes, "grid": (2, 2), "gamma": 0.7}


def outputs_and_gradients(function, leaves, rest, **options):
    leaves = {name: t.detach().clone().requires_grad_() for name, t in leaves.items()}
    out = function(**leaves, **rest, **options)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    grads = torch.autograd.grad(out, list(leaves.values()), g)
    return dict(zip(["out", *leaves], [out, *grads], strict=True))


def check(function, value, dtype, **options):
    leaves, rest = make(value, dtype)
    mine = outputs_and_gradients(function, leaves, rest, **options)
    wide = {name: t.double() for name, t in leaves.items()}
    exact = outputs_and_gradients(temporal_motion_attention_reference, wide, rest | {"boxes": rest["boxes"].double()})
    for name, good in exact.items():
        assert torch.isfinite(mine[name]).all(), name
        assert (mine[name].double() - good).norm() <= TOLERANCE[dtype] * good.norm() + 1e-12, name
    last = mine["out"][0, :, -1].double()
    if value == -math.inf:
        assert not last.any() and not mine["q"][0, :, -1].any()
        assert not mine["rho"][0, :, FRAMES - 1 :].any()
    else:
        mean = leaves["v"][0].double().mean(1)
        torch.testing.assert_close(last, mean, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert mine["out"][1, :, -1, 1].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", ["-inf", "least"])
def test_outputs_and_every_gradient(dtype, value):
    check(temporal_motion_attention, -math.inf if value == "-inf" else least(dtype), dtype)
