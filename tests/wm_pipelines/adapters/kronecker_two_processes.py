"""What each of two processes runs: `python kronecker_two_processes.py FOLDER RANK`; imported for the one process."""

import sys
from pathlib import Path

import torch
from peft import inject_adapter_in_model
from torch import distributed, nn

from wm_pipelines.adapters.kronecker import KroneckerConfig


def build():
    """Two layers that share their A and their trained bias, with numbers in every factor."""
    torch.manual_seed(0)
    layers = nn.ModuleDict({"q": nn.Linear(8, 8), "v": nn.Linear(8, 8)})
    model = nn.Sequential(layers["q"], nn.Tanh(), layers["v"])
    inject_adapter_in_model(KroneckerConfig(n=4, shared_sets="all", bias="shared", target_modules=["0", "2"]), model)
    for name, parameter in model.named_parameters():
        if "kronecker_" in name:
            nn.init.normal_(parameter)
    return model


def gradients(model, rows):
    """By parameter name, of the mean square over these rows of one batch of eight."""
    batch = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    model(batch[rows]).square().mean().backward()
    return {n.removeprefix("module."): p.grad for n, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(build())
    torch.save(gradients(model, slice(4 * rank, 4 * rank + 4)), folder / f"{rank}.pt")
    distributed.destroy_process_group()
