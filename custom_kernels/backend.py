"""Which code runs an operation: the Triton kernels, or plain torch.

`WM_KERNELS` is `off` (torch always), `auto` (the default) or `force` (Triton where a call says "auto", or an error).
"""

import importlib.util
import os

import torch

__all__ = ["use_triton"]

HALF = (torch.float16, torch.bfloat16)


def _missing(x: torch.Tensor) -> str | None:
    """Why the kernels can't take `x`; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if x.device.type != "cuda" and not (x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"`x` is on {x.device.type}; the kernels run on CUDA and ROCm devices"
    return None


def use_triton(backend: str, x: torch.Tensor) -> bool:
    """Whether the Triton kernels take this call.

    "auto" takes them for half precision on a GPU. Full precision stays with torch there: the kernels multiply fp32
    exactly, without TF32, and no tensor core does that.

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
    if backend == "triton" or mode == "force":
        reason = _missing(x)
        if reason is not None:
            raise ValueError(f"backend 'triton' can't be used: {reason}")
        return True
    return x.device.type == "cuda" and x.dtype in HALF and _missing(x) is None
