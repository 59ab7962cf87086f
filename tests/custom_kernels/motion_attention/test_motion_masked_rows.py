"""Rows of `motion_attention` whose keys are all masked, by −inf or by the least finite number, in every form."""

import math

import pytest
import torch

from custom_kernels.motion_attention import op
from wm_pipelines.kernels import motion_attention, motion_attention_reference

FORMS = ("explicit", "kept", "indicator")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 5e-2}
KEYS, CELLS = 7, 4


def make(value, dtype=torch.float64, bias=True):
    """Two batch rows, the second with all of its keys at `value`; slots at keys 2, 5 and 2 again."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    wide = torch.promote_types(dtype, torch.float32)
    leaves = {
        "q": randn(2, 2, 3, CELLS, 5),
        "k": randn(2, 3, KEYS, 5),
        "v": randn(2, 3, KEYS, 5),
        "boxes": torch.tensor([0.1, 0.0, 0.8, 0.7], dtype=wide).expand(2, 2, 2, 4).clone(),
    }
    if bias:
        leaves |= {"bias_in": randn(2, 2).abs().to(wide), "bias_out": randn(2).abs().to(wide)}
    key_bias = torch.zeros(2, KEYS, dtype=wide)
    key_bias[1] = value
    key_bias[0, 0] = value
    slots = {"slot_token": torch.tensor([2, 5, 2]), "slot_object": torch.tensor([0, 1, 1])}
    return leaves, {**slots, "grid": (2, 2), "key_bias": key_bias}


def outputs_and_gradients(function, leaves, rest, outputs=range(7), **options):
    """Every output by name, and the gradient of each leaf from random gradients of the chosen outputs."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in leaves.items()}
    found = function(**leaves, **rest, **options)
    generator = torch.Generator().manual_seed(1)
    random = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in found]
    # lse of a row without a key is −inf, and so would be the sum
    total = sum((found[i].masked_fill(found[i] == -math.inf, 0.0) * random[i]).sum() for i in outputs)
    names = [*found._fields, *(f"gradient of {name}" for name in leaves)]
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    grads = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves.values(), grads, strict=True)]
    return dict(zip(names, [*found, *grads], strict=True))


def check(function, value, dtype, bias=True, outputs=range(7), **options):
    """Against the reference in fp64 where the mask is a number of fp64 too, and against what must come out."""
    leaves, rest = make(value, dtype, bias)
    mine = outputs_and_gradients(function, leaves, rest, outputs, return_maps=True, **options)
    wide = {name: t.double() for name, t in leaves.items()}
    exact = outputs_and_gradients(
        motion_attention_reference, wide, rest | {"key_bias": rest["key_bias"].double()}, outputs
    )
    for name, good in exact.items():
        found = mine[name].double()
        assert found.shape == good.shape and torch.equal(found == -math.inf, good == -math.inf), name
        found, good = (t.masked_fill(t == -math.inf, 0.0) for t in (found, good))
        assert torch.isfinite(found).all(), name
        # lse holds the mask itself: its own rounding is all that may differ there
        assert (found - good).norm() <= TOLERANCE[dtype] * good.norm() + 1e-12, name
    masked_rows(mine, leaves, value, TOLERANCE[dtype])


def masked_rows(found, leaves, value, tolerance):
    """What the second batch row must give, by hand."""
    share = 0.0 if value == -math.inf else 1 / KEYS
    assert torch.all(found["lse"][1] == value)  # log 7 is far below the last digit of the least number
    mean = leaves["v"][1].double().mean(1)[None, :, None] * (share * KEYS)
    torch.testing.assert_close(found["out"][1].double(), mean.expand(2, 3, CELLS, 5), rtol=tolerance, atol=tolerance)
    for name, expected in (("maps", share), ("Z", CELLS * share)):
        one = found[name][1].double()
        torch.testing.assert_close(one, torch.full_like(one, expected), rtol=tolerance, atol=tolerance)
    if not share:
        assert not any(found[f"gradient of {name}"][1].any() for name in ("q", "k", "v", "boxes"))
    else:
        assert found["gradient of q"][1].any()


def least(dtype):
    return torch.finfo(torch.promote_types(dtype, torch.float32)).min


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", ["-inf", "least"])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_every_gradient(form, value, bias, monkeypatch):
    monkeypatch.setattr(op, "choose_form", lambda *_: form)
    for dtype in DTYPES if form == "explicit" else DTYPES[:2]:
        check(motion_attention, -math.inf if value == "-inf" else least(dtype), dtype, bias)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("outputs", [(0,), (1,), (2, 3), (4, 5), (6,)])
def test_gradients_of_each_output_alone(form, outputs, monkeypatch):
    monkeypatch.setattr(op, "choose_form", lambda *_: form)
    for value in (-math.inf, least(torch.float64)):
        check(motion_attention, value, torch.float64, outputs=outputs)


def test_the_gradient_of_lse_beside_the_least_number():
    """d lse/d s_n is 1/N there, by hand; torch.logsumexp alone would say 1."""
    leaves, rest = make(least(torch.float64), bias=False)
    for function in (motion_attention, motion_attention_reference):
        q = leaves["q"].clone().requires_grad_()
        found = function(**leaves | {"q": q}, **rest)
        (grad,) = torch.autograd.grad(found.lse[1].sum(), q)
        expected = leaves["k"][1].mean(1)[None, :, None] / 5**0.5
        torch.testing.assert_close(grad[1], expected.expand(2, 3, CELLS, 5))


def test_the_least_number_of_half_precision():
    """fp16's own least number is one that the logits are still seen beside: as any bias of that size."""
    leaves, rest = make(torch.finfo(torch.float16).min)
    found, exact = (f(**leaves, **rest) for f in (motion_attention, motion_attention_reference))
    for mine, good in zip(found, exact, strict=False):
        torch.testing.assert_close(mine, good, rtol=1e-9, atol=1e-9)
