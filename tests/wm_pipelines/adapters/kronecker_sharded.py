"""What each process of a sharded run does: `python kronecker_sharded.py FOLDER RANK WORLD`; imported for one."""

import sys
from pathlib import Path

import torch
from peft import get_peft_model_state_dict, inject_adapter_in_model
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.utils.checkpoint import checkpoint

from wm_pipelines.adapters.kronecker import KroneckerConfig

CASES = {
    "factored": {},
    "dense": {"factored": False},
    "biases of all layers": {"bias": "own", "shared_sets": "all"},
    "no set": {"shared_sets": "none"},
}


class Decoder(nn.Module):
    """A decoder layer: the unit that users shard."""

    def __init__(self, width):
        super().__init__()
        self.q, self.v = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.v(torch.tanh(self.q(x)))


class Model(nn.Module):
    def __init__(self, recompute=False):
        super().__init__()
        self.layers = nn.ModuleList(Decoder(8) for _ in range(3))
        self.head = nn.Linear(8, 4)
        self.recompute = recompute

    def forward(self, x):
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.recompute else layer(x)
        return self.head(x)


def build(case, recompute=False):
    """A frozen model with numbers in every factor."""
    torch.manual_seed(0)
    model = Model(recompute)
    inject_adapter_in_model(KroneckerConfig(n=4, r=2, target_modules=["q", "v"], **CASES[case]), model)
    for name, parameter in model.named_parameters():
        if "kronecker_" in name:
            nn.init.normal_(parameter)
    return model.double()  # so that a second step differs by no more than the first


def sharded(model, mesh, **options):
    """FSDP2 as its tutorial has it: a unit for each decoder layer, then the rest."""
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh)


def inputs():
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def step(model, rank=0, world=1, steps=2):
    """Gradients by name, summed over some steps of SGD, after which the factors have moved."""
    batch = inputs().chunk(world)[rank]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.SGD(trained.values(), lr=1e-2)
    found = {}
    for at in range(steps):
        optimiser.zero_grad()
        model(batch).square().mean().backward()
        for name, parameter in trained.items():
            grad = parameter.grad
            found[f"{at}.{name}"] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad.clone()
        optimiser.step()
    return found


def run(rank, world):
    """{case: gradients} of every case under FSDP2, and under FSDP1 as one unit."""
    mesh = init_device_mesh("cpu", (world,))
    found = {case: step(sharded(build(case), mesh), rank, world) for case in CASES}
    found["recomputed"] = step(sharded(build("factored", recompute=True), mesh), rank, world)
    found["kept whole"] = step(sharded(build("factored"), mesh, reshard_after_forward=False), rank, world)
    # a state dict that FSDP2 gathers is the file of one process
    model = sharded(build("factored"), mesh)
    state = get_peft_model_state_dict(model)
    found["state"] = {name: tensor.full_tensor().clone() for name, tensor in state.items()}
    one = FullyShardedDataParallel(build("factored"), use_orig_params=True, device_id=torch.device("cpu"))
    one(inputs().chunk(world)[rank]).square().mean().backward()
    with FullyShardedDataParallel.summon_full_params(one, with_grads=True):
        names = {n.replace("_fsdp_wrapped_module.", ""): p for n, p in one.named_parameters() if "kronecker_" in n}
        found["FSDP1"] = {f"0.{name}": parameter.grad.clone() for name, parameter in names.items()}
    return found


if __name__ == "__main__":
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world)
    torch.save(run(rank, world), folder / f"{rank}.pt")
    distributed.destroy_process_group()
