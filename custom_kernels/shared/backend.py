"""Which code runs an operation: the Triton kernels, or plain torch.

`WM_KERNELS` is `off` (torch always), `auto` (the default) or `force` (Triton where a call says "auto", or an error).
"""

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["on_device_of", "use_triton"]


def _missing(x: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why the kernels can't take `x`; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "`x` is on the CPU, where the kernels run only under TRITON_INTERPRET=1"
    if x.device.type not in ("cpu", "cuda"):
        return f"`x` is on {x.device.type}; the kernels run on CUDA and ROCm devices"
    if x.device.type == "cuda" and x.dtype not in dtypes:
        names = " and ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"`x` is {x.dtype}; on a GPU the kernels multiply {names}"
    return None


def on_device_of(x: torch.Tensor) -> AbstractContextManager:
    """Kernels start on the GPU that holds `x`; by itself Triton starts them on the current one."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def use_triton(
    backend: str,
    x: torch.Tensor,
    refused: str | None,
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16),
) -> bool:
    """Whether the Triton kernels take this call: with "auto", where they can and `x` is on a GPU.

    Args:
        refused: why the operation's own kernels can't take this call; None where they can.
        dtypes: what its kernels multiply on a GPU.

    Raises:
        ValueError: an unknown `backend` or `WM_KERNELS`, or Triton demanded where it can't run.
    """
    if backend not in ("auto", "triton", "torch"):
        raise ValueError(f"`backend` must be 'auto', 'triton' or 'torch', got {backend!r}")
    mode = os.environ.get("WM_KERNELS", "auto")
    if mode not in ("off", "auto", "force"):
        raise ValueError(f"`WM_KERNELS` must be off, auto or force, got {mode!r}")
    if mode == "off" or backend == "torch":
        return False
    if backend == "auto" and mode == "auto":
        return x.device.type == "cuda" and _missing(x, dtypes) is None and refused is None
    reason = _missing(x, dtypes) or refused
    if reason is not None:
        raise ValueError(f"the Triton kernels can't be used: {reason}")
    return True
