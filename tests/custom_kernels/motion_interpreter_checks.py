"""The motion attention kernels in Triton's interpreter; run by `test_motion_triton.py` with TRITON_INTERPRET=1.

Every tensor that the launchers make is filled with NaN first, so an element that no kernel writes shows.
"""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from wm_pipelines.kernels import (
    motion_attention,
    motion_attention_reference,
    temporal_motion_attention,
    temporal_motion_attention_reference,
)

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 5e-2}


def load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cross = load("test_motion_attention")
cross.SIZES |= {
    "two tiles of queries": (1, 2, 2, (8, 9), 20, 30, 2, [(3, 0), (9, 1), (3, 1)]),
    "160 wide": (1, 1, 1, (3, 3), 160, 20, 1, [(4, 0)]),
    "80 wide": (1, 2, 1, (3, 3), 80, 140, 1, [(139, 0)]),
    "sixteen slots": (1, 1, 1, (2, 3), 16, 21, 3, [(n, n % 3) for n in range(16)]),
}


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    def fill(plain):
        def made(*args, **kwargs):
            found = plain(*args, **kwargs)
            return found.fill_(math.nan) if found.is_floating_point() else found

        return made

    monkeypatch.setattr(torch.Tensor, "new_empty", fill(torch.Tensor.new_empty))
    monkeypatch.setattr(torch, "empty_like", fill(torch.empty_like))


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


@pytest.mark.parametrize("size", ["odd", "CLIP"])
def test_without_bias_and_padding(size):
    compare(cross.make(size, bias=False, padding=False, missing=False), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", ["odd", "226 keys"])
def test_narrower_types(size, dtype):
    compare(cross.make(size, dtype), dtype)


@pytest.mark.parametrize("outputs", [(0,), (1,), (2, 3), (6,)])
def test_gradients_of_each_output_alone(outputs):
    compare(cross.make("odd"), torch.float64, outputs=outputs)


# ---- over frames ----

temporal = load("test_temporal_motion_attention")
temporal.SIZES |= {"64 frames": (1, (1, 2), 64, 1, 16, 1), "several tiles": (1, (5, 6), 7, 2, 20, 2)}


def compare_temporal(made, dtype):
    found = temporal.gradients(temporal_motion_attention, *made, backend="triton")
    wide = [{n: t.double() if isinstance(t, torch.Tensor) else t for n, t in part.items()} for part in made]
    exact = temporal.gradients(temporal_motion_attention_reference, *wide)
    for i, (mine, good) in enumerate(zip(found, exact, strict=True)):
        assert mine.dtype == dtype and mine.shape == good.shape
        assert (mine.double() - good).norm() <= TOLERANCE[dtype] * good.norm() + 1e-12, i


@pytest.mark.parametrize("size", temporal.SIZES)
@pytest.mark.parametrize("rho", [True, False])
def test_temporal_output_and_every_gradient(size, rho):
    compare_temporal(temporal.make(size, rho=rho), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_temporal_narrower_types(dtype):
    compare_temporal(temporal.make("sixteen frames", dtype), dtype)


def test_temporal_gradients_one_at_a_time_and_strides():
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
