"""The kernels of Gaussians in Triton's interpreter; run by `test_gaussians_triton.py` with TRITON_INTERPRET=1."""

import importlib.util
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.usefixtures("poison")

spec = importlib.util.spec_from_file_location("plain", Path(__file__).with_name("test_gaussians.py"))
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)
plain.SIZES.update(opaque=(24, 3, 2, 24, 4, 0), kernel=(6, 5, 2, 6, 8, 2))


@pytest.mark.parametrize("size", ["small", "many channels", "no channels", "opaque", "kernel"])
def test_output_and_every_gradient(size):
    plain.compare(plain.make(size), 1e-11, backend="triton")


def test_single_precision():
    plain.compare(plain.make("opaque", torch.float32), 1e-4, backend="triton")


def test_tiles_that_it_has_no_kernel_for_are_refused():
    with pytest.raises(ValueError, match="tiles of 5 pixels; they take 4, 8, 16"):
        plain.gradients(plain.composite_gaussians, *plain.make("odd tile"), backend="triton")
