"""Tensors of counter-based noise; apart from `random`, which needs no torch."""

import numpy as np
import torch

from wm_pipelines.runtime.random import keyed


def randn(shape: tuple[int, ...], *key: str | int | float) -> torch.Tensor:
    """Standard normal float32 tensor of `shape`, keyed by `key`."""
    return torch.from_numpy(keyed(*key).standard_normal(shape, dtype=np.float32))
