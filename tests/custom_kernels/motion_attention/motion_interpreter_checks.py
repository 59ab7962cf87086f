"""The motion attention kernels in Triton's interpreter; run by `test_motion_triton.py` with TRITON_INTERPRET=1."""

import importlib.util
from pathlib import Path

import pytest
import torch

from wm_pipelines.kernels import motion_attention, motion_attention_reference

pytestmark = pytest.mark.usefixtures("poison")

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 5e-2}


def load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cross = load("test_motion_attention")
cross.SIZES = {
    "odd": (2, 2, 1, (3, 5), 7, 11, 2, [(1, 0), (2, 0), (5, 1)]),
    "one of each": (1, 1, 1, (1, 1), 1, 1, 1, [(0, 0)]),
    "shared token, 40 wide": (1, 1, 2, (4, 4), 40, 77, 3, [(4, 0), (4, 1), (8, 2), (0, 2)]),
    "two tiles of queries": (1, 2, 1, (8, 9), 20, 30, 1, [(3, 0)]),
    "128 keys": (1, 1, 1, (7, 3), 64, 128, 1, [(127, 0)]),
    "226 keys, 80 wide": (1, 1, 1, (3, 3), 80, 226, 2, [(225, 0), (17, 1)]),
    "512 keys": (1, 1, 1, (2, 3), 128, 512, 1, [(511, 0)]),
    "160 wide": (1, 1, 1, (3, 3), 160, 20, 1, [(4, 0)]),
    "sixteen slots": (1, 1, 1, (2, 3), 16, 21, 3, [(n, n % 3) for n in range(16)]),
    "no slots": (1, 1, 1, (3, 4), 8, 10, 2, []),
    "no objects": (1, 1, 1, (3, 4), 8, 10, 0, []),
}


def compare(made, dtype, reference=motion_attention_reference, outputs=range(7), **more):
    leaves, rest = made
    found, grads = cross.gradients(motion_attention, leaves, rest, outputs, backend="triton", return_maps=True, **more)
    wide = {name: t.double() for name, t in leaves.items()}
    key_bias = None if rest["key_bias"] is None else rest["key_bias"].double()
    exact, exact_grads = cross.gradients(reference, wide, rest | {"key_bias": key_bias}, outputs)
    for name, mine, good in [
        *zip(found_names(), found, exact, strict=True),
        *((name, grads[name], exact_grads[name]) for name in grads),
    ]:
        assert mine.shape == good.shape
        assert (mine.double() - good).norm() <= TOLERANCE[dtype] * good.norm() + 1e-12, name
    assert found[0].dtype == dtype


def found_names():
    return [f"output {name}" for name in ("out", "lse", "I", "Z", "Cx", "Cy", "maps")]


@pytest.mark.parametrize("size", cross.SIZES)
def test_output_and_every_gradient(size):
    compare(cross.make(size), torch.float64)


def test_without_bias_and_padding():
    compare(cross.make("odd", bias=False, padding=False, missing=False), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrower_types(dtype):
    compare(cross.make("shared token, 40 wide", dtype), dtype)


@pytest.mark.parametrize("outputs", [(0,), (1,), (2, 3), (6,)])
def test_gradients_of_each_output_alone(outputs):
    compare(cross.make("odd"), torch.float64, outputs=outputs)


@pytest.mark.parametrize("named", ["q", "k", "v", "boxes", "bias_in", "q k", "q v", "k v boxes", "q boxes bias_out"])
def test_only_the_gradients_that_are_asked_for(named):
    leaves, rest = cross.make("odd")
    _, exact = cross.gradients(motion_attention_reference, leaves, rest)
    mine = {name: t.clone().requires_grad_(name in named.split()) for name, t in leaves.items()}
    found = motion_attention(**mine, **rest, return_maps=True, backend="triton")
    generator = torch.Generator().manual_seed(1)
    sum((t * torch.randn(t.shape, generator=generator, dtype=t.dtype)).sum() for t in found).backward()
    for name, t in mine.items():
        if name in named.split():
            torch.testing.assert_close(t.grad, exact[name], rtol=1e-10, atol=1e-10)
        else:
            assert t.grad is None


def test_views_and_a_hook_that_lays_saved_tensors_out_anew():
    """As `save_on_cpu` does: what comes back is contiguous, whatever it was."""
    leaves, rest = cross.make("odd")
    leaves |= {n: leaves[n].transpose(-1, -2).contiguous().transpose(-1, -2) for n in "qkv"}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: t.clone(memory_format=torch.contiguous_format), lambda t: t
    ):
        compare((leaves, rest), torch.float64)


@pytest.mark.parametrize("outputs", [(2,), (3, 6)])
def test_a_saturated_slot_loses_no_digits(outputs):
    """dS of a token that has nearly all the probability is the small difference of two large numbers.

    With a gradient of the output it is no better than flash attention, whose difference has the rounded output in it.
    """
    leaves, rest = cross.make("two tiles of queries", torch.bfloat16, padding=False)
    leaves |= {"boxes": torch.tensor([0.0, 0, 1, 1]).expand(1, 1, 2, 4), "bias_in": torch.tensor([[9.0]])}
    grads = []
    for function, dtype in ((motion_attention, torch.bfloat16), (motion_attention_reference, torch.float64)):
        options = {"backend": "triton", "return_maps": True} if dtype == torch.bfloat16 else {}
        mine = {n: t.to(dtype) if n in "qkv" else t.to(torch.promote_types(dtype, t.dtype)) for n, t in leaves.items()}
        found, found_grads = cross.gradients(function, mine, rest, outputs, **options)
        assert (found[6] > 0.9).double().mean() > 0.9
        grads.append(found_grads["q"].double())
    assert (grads[0] - grads[1]).norm() < 0.01 * grads[1].norm()


def test_padding_in_another_dtype():
    leaves, rest = cross.make("odd", torch.float32)
    compare((leaves, rest | {"key_bias": rest["key_bias"].double()}), torch.float32)


def test_a_token_beyond_the_keys_is_none():
    """On a GPU the values are not looked at before; neither may the kernels read beyond the keys."""
    from custom_kernels.motion_attention._triton.forward import forward

    leaves, rest = cross.make("odd")
    tensors, owner = [leaves[n] for n in ("q", "k", "v", "boxes")], torch.tensor([0, 1])
    found = [
        forward(*tensors, torch.tensor([[1, token]] * 2), owner, None, None, None, rest["grid"], True)
        for token in (leaves["k"].shape[2], -1)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# ---- what they refuse, and what reaches them ----


def test_too_many_slots_or_channels_are_refused(monkeypatch):
    monkeypatch.setitem(cross.SIZES, "many", (1, 1, 1, (1, 2), 4, 20, 1, [(n, 0) for n in range(17)]))
    leaves, rest = cross.make("many")
    with pytest.raises(ValueError, match="17 slots were given, the kernels take up to 16"):
        motion_attention(**leaves, **rest, backend="triton")
    monkeypatch.setitem(cross.SIZES, "wide", (1, 1, 1, (1, 2), 264, 20, 1, [(0, 0)]))
    leaves, rest = cross.make("wide")
    with pytest.raises(ValueError, match="heads are 264 wide, the kernels take up to 256"):
        motion_attention(**leaves, **rest, backend="triton")


def test_force_and_compile_reach_the_kernels(monkeypatch):
    from custom_kernels.motion_attention._triton import forward as kernels

    calls, forward = [], kernels.forward
    monkeypatch.setattr(kernels, "forward", lambda *a: calls.append(1) or forward(*a))
    monkeypatch.setenv("WM_KERNELS", "force")
    made = cross.make("160 wide", torch.float32)
    compiled = torch.compile(motion_attention, fullgraph=True, backend="aot_eager")
    results = [cross.gradients(f, *made) for f in (compiled, motion_attention)]
    cross.compare(*results, tolerance=1e-5)
    assert len(calls) == 2


# ---- rows whose keys are all masked ----

masked = load("test_motion_masked_rows")


@pytest.mark.parametrize("dtype", masked.DTYPES, ids=str)
@pytest.mark.parametrize("value", ["-inf", "least"])
def test_masked_rows(dtype, value):
    number = -float("inf") if value == "-inf" else masked.least(dtype)
    masked.check(motion_attention, number, dtype, bias=dtype != torch.float32, backend="triton")


@pytest.mark.parametrize("outputs", [(0,), (1,), (2, 3), (4, 5), (6,)])
def test_masked_rows_for_the_gradient_of_each_output(outputs):
    for value in (-float("inf"), masked.least(torch.float64)):
        masked.check(motion_attention, value, torch.float64, outputs=outputs, backend="triton")


@pytest.mark.parametrize("power", [0, 3, 6, 12, 38])
def test_probabilities_keep_their_digits_whatever_is_added_to_all_keys(power):
    """lse of a row at −10⁶ has one digit left for log 7; P needs them all."""
    leaves, rest = masked.make(-(10.0**power), torch.float32, bias=False)
    leaves["q"] = torch.zeros_like(leaves["q"])
    found = masked.outputs_and_gradients(motion_attention, leaves, rest, backend="triton", return_maps=True)
    exact = masked.outputs_and_gradients(motion_attention_reference, leaves, rest)
    torch.testing.assert_close(found["maps"][1], torch.full((2, 3, 4, 3), 1 / 7), rtol=1e-6, atol=0)
    for name in ("out", "Z", "gradient of q", "gradient of k", "gradient of v"):
        torch.testing.assert_close(found[name], exact[name], rtol=1e-5, atol=1e-5)
