"""One run's parameters, gradients, optimiser and averaged weights, and how they become tensors on disk."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .recipe import Recipe
from .task import Task


def learning_rate(step: int, recipe: Recipe) -> float:
    """Learning rate of step `step` (from 0): linear warm-up, then constant, or half a cosine towards 0."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "constant":
        return recipe.lr
    progress = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay(step: int, recipe: Recipe) -> float:
    """Decay of the averaged weights at step `step` (from 0).

    It rises with the step; were it constant, the random start would weigh on the average for 1 / (1 - decay) steps.
    """
    return min(recipe.ema, (1 + step) / (10 + step))


class Trainer:
    """What a step changes.

    All gradients are views of one flat buffer: one operation clears, clips or reduces them over processes, and a
    parameter that a step does not touch has a gradient of zero on every process (never None on one of them).

    Raises:
        ValueError: nothing to train, a parameter listed twice, or one that is not float32.
    """

    def __init__(self, task: Task, recipe: Recipe, device: torch.device) -> None:
        # accelerate calls a process's CPU "cpu:0", to which everything on "cpu" would be copied
        device = torch.device("cpu") if device.type == "cpu" else device
        self.task, self.recipe, self.device = task, recipe, device
        self.modules = task.modules()
        for module in self.modules.values():
            module.to(device)
        task.device = device
        named = task.trainable()
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        if not named:
            raise ValueError(f"task {recipe.task!r} has no trainable parameter")
        if len(set(self.names)) != len(named) or len({id(p) for p in self.parameters}) != len(named):
            raise ValueError(f"task {recipe.task!r} lists a trainable parameter twice")
        for name, parameter in named:
            if parameter.dtype != torch.float32:
                raise ValueError(f"trainable {name!r} is {parameter.dtype}; only float32 is trained (see precision)")
            if torch.empty_like(parameter).stride() != parameter.stride():
                raise ValueError(f"trainable {name!r} is not dense in memory, its strides are {parameter.stride()}")
        # One element more than there are gradients: it carries the wish to stop from any process to all.
        self.flat = torch.zeros(sum(p.numel() for p in self.parameters) + 1, device=device)
        self.gradients = self.flat[:-1]
        pieces = self.gradients.split([p.numel() for p in self.parameters])
        # Same strides as the parameter: fused AdamW walks through raw memory, so a channels_last weight with a plain
        # gradient would be moved along the gradient of other elements.
        self.views = [
            piece.as_strided(p.shape, p.stride(), piece.storage_offset())
            for piece, p in zip(pieces, self.parameters, strict=True)
        ]
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view
        members: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in named:
            members.setdefault(task.group(name, parameter), []).append(parameter)
        groups = [
            {"params": own, "weight_decay": recipe.weight_decay if decayed else 0.0, "factor": factor}
            for (factor, decayed), own in sorted(members.items(), key=lambda item: (item[0][0], not item[0][1]))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)
        self.ema = [p.detach().clone() for p in self.parameters] if recipe.ema else []

    def update(self, step: int) -> torch.Tensor:
        """Clip, step the optimiser, average. Returns the gradient norm before clipping, a scalar tensor."""
        # moving a module to another device gives its gradients new memory
        ours = self.flat.untyped_storage().data_ptr()
        if any(p.grad is None or p.grad.untyped_storage().data_ptr() != ours for p in self.parameters):
            raise RuntimeError("the task replaced or moved a parameter's .grad; gradients belong to the engine")
        norm = torch.linalg.vector_norm(self.gradients)
        if self.recipe.clip:
            self.gradients.mul_((self.recipe.clip / (norm + 1e-6)).clamp(max=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.recipe) * group["factor"]
        self.optimizer.step()
        if self.ema:
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, self.parameters, 1 - ema_decay(step, self.recipe))
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Averaged weights in place of the trained ones, where the recipe asks for averaging."""
        if not self.ema:
            yield
            return
        with torch.no_grad():
            kept = [p.detach().clone() for p in self.parameters]
            torch._foreach_copy_(self.parameters, self.ema)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, kept)

    def model_tensors(self) -> dict[str, torch.Tensor]:
        """All persistent state of all modules, `<module>.<key>`; they share memory with the modules."""
        return {f"{key}.{name}": t for key, module in self.modules.items() for name, t in module.state_dict().items()}

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a state folder holds, by file: model, optimizer, and ema where the recipe asks for it."""
        moments = {
            f"{kind}.{name}": self.optimizer.state[parameter][kind]
            for name, parameter in zip(self.names, self.parameters, strict=True)
            for kind in ("exp_avg", "exp_avg_sq")
        }
        averaged = {"ema": dict(zip(self.names, self.ema, strict=True))} if self.ema else {}
        return {"model": self.model_tensors(), "optimizer": moments, **averaged}

    def load_model(self, saved: dict[str, torch.Tensor]) -> None:
        """Put saved tensors into the modules.

        Raises:
            ValueError: names or shapes differ from the task's modules; nothing is changed then.
        """
        own = self.model_tensors()
        for name in sorted(own.keys() ^ saved.keys()):
            raise ValueError(f"state and task differ: {name!r} is only in the {'task' if name in own else 'state'}")
        for name, tensor in own.items():
            if tensor.shape != saved[name].shape:
                raise ValueError(f"{name!r}: state has {tuple(saved[name].shape)}, task has {tuple(tensor.shape)}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(saved[name])

    def load(self, saved: dict[str, dict[str, torch.Tensor]], step: int) -> None:
        """Restore what `tensors` gave after `step` steps.

        Raises:
            ValueError: the task trains other parameters than the state's.
        """
        moments = saved["optimizer"]
        trained = {key.removeprefix("exp_avg.") for key in moments if key.startswith("exp_avg.")}
        for name in sorted(trained ^ set(self.names)):
            raise ValueError(f"state and task differ in what they train: {name!r}")
        self.load_model(saved["model"])
        for name, parameter in zip(self.names, self.parameters, strict=True):
            # AdamW counts steps per parameter; here all have stepped equally often, so the run's count will do.
            kept = {kind: torch.empty_like(parameter.detach()) for kind in ("exp_avg", "exp_avg_sq")}
            for kind, tensor in kept.items():
                tensor.copy_(moments[f"{kind}.{name}"])
            self.optimizer.state[parameter] = {"step": torch.tensor(float(step), device=self.device), **kept}
        if self.ema:
            for tensor, name in zip(self.ema, self.names, strict=True):
                tensor.copy_(saved["ema"][name])
