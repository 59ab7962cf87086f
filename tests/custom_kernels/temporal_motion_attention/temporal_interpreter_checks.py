"""The kernels over frames in Triton's interpreter; run by `test_temporal_motion_triton.py` with TRITON_INTERPRET=1."""

import importlib.util
from pathlib import Path

import pytest
import torch

from wm_pipelines.kernels import temporal_motion_attention, temporal_motion_attention_reference

pytestmark = pytest.mark.usefixtures("poison")

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 5e-2}


def load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


temporal = load("test_temporal_motion_attention")
temporal.SIZES |= {"32 frames": (1, (1, 2), 32, 1, 16, 1), "several tiles": (2, (4, 5), 7, 1, 20, 2)}


def compare(made, dtype):
    found = temporal.gradients(temporal_motion_attention, *made, backend="triton")
    wide = [{n: t.double() if isinstance(t, torch.Tensor) else t for n, t in part.items()} for part in made]
    exact = temporal.gradients(temporal_motion_attention_reference, *wide)
    for i, (mine, good) in enumerate(zip(found, exact, strict=True)):
        assert mine.dtype == dtype and mine.shape == good.shape
        assert (mine.double() - good).norm() <= TOLERANCE[dtype] * good.norm() + 1e-12, i


@pytest.mark.parametrize("size", temporal.SIZES)
@pytest.mark.parametrize("rho", [True, False])
def test_output_and_every_gradient(size, rho):
    compare(temporal.make(size, rho=rho), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrower_types(dtype):
    compare(temporal.make("sixteen frames", dtype), dtype)


def test_gradients_one_at_a_time_and_strides():
    leaves, rest = temporal.make("several tiles")
    _, *grads = temporal.gradients(temporal_motion_attention_reference, leaves, rest)
    everything = dict(zip(temporal.NAMES, grads, strict=True))
    for name in temporal.NAMES:
        mine = {n: t.clone().requires_grad_(n == name) for n, t in leaves.items()}
        views = {n: mine[n].transpose(1, 2).contiguous().transpose(1, 2) for n in "qkv"}
        out = temporal_motion_attention(**mine | views, **rest, backend="triton")
        g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        out.backward(g)
        torch.testing.assert_close(mine[name].grad, everything[name], rtol=1e-11, atol=1e-11)
        assert not any(t.grad is not None for n, t in mine.items() if n != name)


def test_too_many_frames_are_refused(monkeypatch):
    monkeypatch.setitem(temporal.SIZES, "long", (1, (1, 2), 33, 1, 8, 1))
    leaves, rest = temporal.make("long")
    with pytest.raises(ValueError, match="33 frames and heads 8 wide; they take up to 32 and 256"):
        temporal_motion_attention(**leaves, **rest, backend="triton")


masked = load("test_temporal_masked_rows")


@pytest.mark.parametrize("dtype", masked.DTYPES, ids=str)
@pytest.mark.parametrize("value", ["-inf", "least"])
def test_masked_rows(dtype, value):
    number = -float("inf") if value == "-inf" else masked.least(dtype)
    masked.check(temporal_motion_attention, number, dtype, backend="triton")
