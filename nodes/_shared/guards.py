"""What a node makes sure of before it runs: the right pipeline, and tensors that can be trained and patched."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def check_pipeline(handle: Any, kind: type, remedy: str) -> None:
    """Refuse a WM_PIPELINE of another method.

    Args:
        handle: the `memory.PipelineHandle` that came in as `pipeline`.
        kind: class that its pipeline must have.
        remedy: what the user can do about it, as the end of a sentence.

    Raises:
        ValueError: its pipeline has another class.
    """
    if not isinstance(handle.pipeline, kind):
        raise ValueError(f"pipeline {handle.name!r} is a {type(handle.pipeline).__name__}; {remedy}")


@contextmanager
def outside_inference_mode(gradients: bool = False) -> Iterator[None]:
    """ComfyUI runs nodes in inference mode, where no gradient can be taken and no tensor made that is trained later.

    Args:
        gradients: whether operations are recorded for a backward pass.
    """
    with torch.inference_mode(False), torch.set_grad_enabled(gradients):
        yield
