"""A small real task on procedural data; as a script: `python wave_task.py FOLDER STEPS [key=value ...]`."""

import sys

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wm_pipelines.training import Recipe, Task, train
from wm_pipelines.training.recipe import parse_overrides


class WaveTask(Task):
    """Learn the running sum of noise. Dropout and batch statistics are there because they are easy to get wrong."""

    data = "running sums of keyed noise"

    def __init__(self, recipe):
        self.length = recipe.options.get("length")
        width = recipe.options.get("width", 16)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.net = nn.Sequential(nn.Linear(8, width), nn.Dropout(0.1), nn.SiLU(), nn.Linear(width, 8))
            self.unused = nn.Linear(2, 2)
        self.seen = nn.BatchNorm1d(8, affine=False)

    def modules(self):
        return {"net": self.net, "seen": self.seen, "unused": self.unused}

    def loss(self, indices, step, noise):
        x = noise.randn(indices, (8,), "x").to(self.device)
        self.net.to(self.device)  # where it is already
        self.seen(x)
        error = (self.net(x) - x.cumsum(1)).square().mean()
        return {"loss": error, "first_index": float(indices[0])}

    def export(self, folder):
        weights = {name: t.half().contiguous() for name, t in self.net.state_dict().items()}
        save_file(weights, folder / "model.safetensors")

    def load_weights(self, source):
        self.net.load_state_dict(load_file(f"{source}/model.safetensors"))
        return {"tensors": len(self.net.state_dict())}


def recipe(**fields):
    """A short run; fields override."""
    defaults = dict(task="wave", steps=12, batch_size=4, lr=1e-2, warmup=3, ema=0.9, save_every=4, log_every=1)
    return Recipe(**{**defaults, **fields})


if __name__ == "__main__":
    chosen = recipe(steps=int(sys.argv[2]), **parse_overrides(sys.argv[3:]))
    train(WaveTask(chosen), chosen, sys.argv[1])
