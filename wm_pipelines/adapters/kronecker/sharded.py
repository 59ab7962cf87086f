"""Factors that another layer holds, where FSDP2 (`fully_shard`) has sharded that layer again after its forward."""

from __future__ import annotations

import torch

__all__ = ["whole"]


class _Averaged(torch.autograd.Function):
    """Its input; the gradient divided by the number of processes, as FSDP does with its own."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor, processes: int) -> torch.Tensor:
        ctx.processes = processes
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient / ctx.processes, None


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """`parameter`, gathered from all processes if it is sharded (a DTensor).

    FSDP2 gathers what a layer owns, before that layer's forward, and knows nothing of what it borrows. So a borrowed
    factor is gathered here, once for each layer that borrows it. Its gradient is summed over the processes into the
    shards, and averaged.
    """
    if not hasattr(parameter, "full_tensor"):
        return parameter
    from torch.distributed.tensor import Partial

    mesh = parameter.device_mesh
    return _Averaged.apply(parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim), mesh.size())
