"""Training that repeats itself: kill it at any moment, start it again, and get the same weights.

A method writes a `Task`, a recipe file says how to train it, the engine does the rest:

    class Wave(Task):
        def __init__(self, recipe): self.net = nn.Linear(1, 1)
        def modules(self): return {"net": self.net}
        def loss(self, indices, step, noise):
            x = noise.randn(indices, (1,), "x").to(self.device)         # (N, 1), keyed by (seed, step, sample, "x")
            return {"loss": (self.net(x) - 2 * x).square().mean()}
        def export(self, folder): save_file(self.net.state_dict(), folder / "model.safetensors")

    recipe = load_recipe("wave.yaml", ["steps=1000", "options.size=64"])   # or Recipe(task="wave", steps=..., ...)
    record = train(build(recipe), recipe, "runs/wave")                     # resumes when runs/wave holds a state

- `Recipe`: task, seed, steps, batch_size, grad_accum, lr, warmup, schedule, weight_decay, betas, eps, clip, ema,
  precision, init_from, save_every, log_every, options.
- `Task`: `modules()`, `loss(indices, step, noise)`, `export(folder)`; optional `trainable()`, `load_weights(source)`,
  `group(name, parameter)` (factor of the learning rate, weight decay or not), attributes `length` (None: endless
  data), `data` (a line for the record), `device` (set by the engine).
- `KeyedNoise`: `randn(sample, shape, purpose)`, `uniform(sample, shape, purpose, low=0, high=1)`,
  `integers(sample, shape, purpose, low, high)`, `generator(sample, purpose)`; `sample` is one index or a list of N,
  which adds a leading dimension N.
- `train(task, recipe, folder, resume=True, on_log=None)` leaves `export/`, `record.json`, `log.jsonl`, `state/`.
- `load_state(task, recipe, folder, averaged=True)` reads the newest state in mid-training and returns its step.
- `train_main(name, recipe_path, out, overrides)` is `wm train`; a method's door (`method.py`) names its tasks.

Several processes: `accelerate launch --multi_gpu --num_processes 2 -m wm_pipelines.cli train ...`, which also runs on
two CPU processes where there is no GPU (accelerate's own `--cpu` starts a single one). A global batch is split by
rank; two processes with `batch_size` b equal one process with `grad_accum` 2 of b.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from wm_pipelines.config import TrainingRecord
from wm_pipelines.methods import load, recipes, tasks
from wm_pipelines.runtime.claims import check_folder, claimed

from .engine import load_state, train
from .recipe import Recipe, check_keys, load_recipe
from .task import KeyedNoise, Task
from .trainer import learning_rate

__all__ = [
    "KeyedNoise", "Recipe", "Task", "build", "check_keys", "learning_rate", "load_recipe", "load_state",
    "recipe_path", "train", "train_main",
]  # fmt: skip


def build(recipe: Recipe) -> Task:
    """The task that `recipe.task` names; weights drawn at random in it depend on `recipe.seed` only."""
    known = tasks()
    check_keys([recipe.task], known, "task")
    factory = load(known[recipe.task])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return factory(recipe)


def recipe_path(name: str) -> Path:
    """The recipe file that ships with the package for `name`."""
    known = recipes()
    check_keys([name], known, "task")
    return known[name]


def train_main(
    name: str,
    recipe_path_or_none: str | Path | None,
    out: str | Path,
    overrides: Mapping[str, Any] | Iterable[str] | None = None,
) -> TrainingRecord:
    """What `wm train NAME --recipe FILE --out DIR --set key=value` runs; without a file, the recipe that ships."""
    check_keys([name], tasks(), "task")
    recipe = load_recipe(recipe_path_or_none or recipe_path(name), overrides)
    if recipe.task != name:
        raise ValueError(f"the recipe is for task {recipe.task!r}, but {name!r} was asked for")
    first = os.environ.get("RANK", "0") == "0"
    with claimed(check_folder(out)) if first else nullcontext():  # before tasks render or load what they learn from
        return train(build(recipe), recipe, out)
