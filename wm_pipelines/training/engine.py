"""The training loop. Every number is a function of (recipe, task, step), so a run that is killed repeats itself."""

import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather_object, reduce

from wm_pipelines.random import keyed

from . import record as facts
from . import state as states
from .recipe import Recipe, changed_fields
from .task import DataOrder, KeyedNoise, Task, learning_rate

Log = dict[str, float]


class Trainer:
    """Parameters, gradients, optimiser and averaged weights of one run, and how they become tensors on disk.

    All gradients are views of one flat buffer: one operation clears, clips or reduces them over processes, and a
    parameter that a step does not touch has a gradient of zero on every process (never None on one of them).
    """

    def __init__(self, task: Task, recipe: Recipe, device: torch.device) -> None:
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
        # One element more than there are gradients: it carries the wish to stop from any process to all.
        self.flat = torch.zeros(sum(p.numel() for p in self.parameters) + 1, device=device)
        self.gradients, at = self.flat[:-1], 0
        for parameter in self.parameters:
            parameter.grad = self.gradients[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()
        decayed = [p for p in self.parameters if p.ndim >= 2]
        plain = [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True
        )
        self.ema = [p.detach().clone() for p in self.parameters] if recipe.ema else None

    def model_tensors(self) -> dict[str, torch.Tensor]:
        """All persistent state of all modules, `<module>.<key>`."""
        return {f"{key}.{name}": t for key, module in self.modules.items() for name, t in module.state_dict().items()}

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a state folder holds."""
        moments = {
            f"{kind}.{name}": self.optimizer.state[parameter][kind]
            for name, parameter in zip(self.names, self.parameters, strict=True)
            for kind in ("exp_avg", "exp_avg_sq")
        }
        averaged = {"ema": dict(zip(self.names, self.ema, strict=True))} if self.ema else {}
        return {"model": self.model_tensors(), "optimizer": moments, **averaged}

    def load_model(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put saved tensors into the modules.

        Raises:
            ValueError: names or shapes differ from the task's modules.
        """
        own = self.model_tensors()
        for name in own.keys() ^ tensors.keys():
            raise ValueError(f"state and task differ: {name!r} is only in the {'task' if name in own else 'state'}")
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise ValueError(f"{name!r}: state has {tuple(tensors[name].shape)}, task has {tuple(tensor.shape)}")
            tensor.copy_(tensors[name])

    def load(self, tensors: dict[str, dict[str, torch.Tensor]], step: int) -> None:
        """Restore a state of `step`."""
        self.load_model(tensors["model"])
        for name, parameter in zip(self.names, self.parameters, strict=True):
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=self.device),
                **{kind: tensors["optimizer"][f"{kind}.{name}"].to(self.device) for kind in ("exp_avg", "exp_avg_sq")},
            }
        if self.ema:
            self.ema = [tensors["ema"][name].to(self.device) for name in self.names]

    def update(self, step: int) -> torch.Tensor:
        """Clip, step the optimiser, average. Returns the gradient norm before clipping, a scalar tensor."""
        norm = torch.linalg.vector_norm(self.gradients)
        if self.recipe.clip:
            self.gradients.mul_((self.recipe.clip / (norm + 1e-6)).clamp(max=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.recipe)
        self.optimizer.step()
        if self.ema:
            # The decay rises with the step, or the random start would weigh on the average for 1 / (1 - decay) steps.
            decay = min(self.recipe.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, self.parameters, 1 - decay)
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
                torch._foreach_copy_(self.parameters, kept)


def train(
    task: Task,
    recipe: Recipe,
    folder: str | Path,
    resume: bool = True,
    on_log: Callable[[int, Log], None] | None = None,
) -> dict[str, Any]:
    """Train `task` by `recipe` in `folder`, going on from the newest whole state there.

    Leaves `export/` (what `Task.export` wrote), `record.json`, `log.jsonl` and `state/`. SIGTERM and the first Ctrl-C
    finish the step, save, and raise `SystemExit` with 128 + signal number.

    Args:
        on_log: called on the main process every `log_every` steps with the step and the means since the last call.

    Raises:
        ValueError: the folder holds a run with another recipe, task or number of processes, or a run at all with
            `resume=False`; another process trains in it; every state is damaged.
        FloatingPointError: a loss or gradient is not finite; the last saved state is kept.
    """
    place = PartialState()
    root = Path(folder)
    with _locked(root, place), _torch_generator_kept():
        trainer = Trainer(task, recipe, place.device)
        run = _begin(trainer, root, resume, place)
        _loop(trainer, run, root, place, on_log)
        return _finish(trainer, run, root, place)


def load_state(task: Task, recipe: Recipe, folder: str | Path, averaged: bool = True) -> int:
    """Put the newest state of the run in `folder` into the task's modules, for a look in mid-training.

    Returns the step of that state. Reads only, and may be called while another process trains there.
    """
    for attempt in range(3):
        try:
            found = states.newest_state(Path(folder) / "state")
            break
        except (ValueError, OSError):  # the trainer may have replaced the state while we read it
            if attempt == 2:
                raise
    if found is None:
        raise ValueError(f"folder {str(folder)!r} holds no saved state yet")
    tensors, scalars = found
    trainer = Trainer(task, recipe, torch.device("cpu"))
    with torch.no_grad():
        trainer.load_model(tensors["model"])
        if averaged and "ema" in tensors:
            for name, parameter in zip(trainer.names, trainer.parameters, strict=True):
                parameter.copy_(tensors["ema"][name])
    for parameter in trainer.parameters:
        parameter.grad = None
    return scalars["step"]


def _begin(trainer: Trainer, root: Path, resume: bool, place: PartialState) -> dict[str, Any]:
    """Restore or start. Returns the scalars of the run."""
    recipe, wanted = trainer.recipe, trainer.recipe.model_dump(mode="json")
    found = states.newest_state(root / "state")
    if found and not resume:
        raise ValueError(f"folder {str(root)!r} holds a run at step {found[1]['step']}; resume it or choose another")
    if found:
        tensors, run = found
        for field in changed_fields(run["recipe"], wanted):
            raise ValueError(
                f"recipe field {field!r} changed: the state in {str(root)!r} has {run['recipe'].get(field)!r}, "
                f"the recipe has {wanted.get(field)!r}; use the same value or another folder"
            )
        if run["processes"] != place.num_processes:
            raise ValueError(f"the state was made by {run['processes']} processes, not {place.num_processes}")
        with torch.no_grad():
            trainer.load(tensors, run["step"])
        event = {"event": "resumed", "step": run["step"]}
        if run["threads"] != torch.get_num_threads():
            event["note"] = f"{torch.get_num_threads()} threads instead of {run['threads']}: not bit-equal"
        run["stages"].append(event)
        run["recipe"], run["threads"] = wanted, torch.get_num_threads()
    else:
        event = {"event": "started", "step": 0}
        if recipe.init_from:
            trainer.task.load_weights(recipe.init_from)
            event = {"event": "resumed from weights with fresh optimiser", "step": 0, "from": recipe.init_from}
            if trainer.ema:
                trainer.ema = [p.detach().clone() for p in trainer.parameters]
        run = {
            "step": 0, "recipe": wanted, "processes": place.num_processes, "threads": torch.get_num_threads(),
            "wall_time_s": 0.0, "stages": [event],
        }  # fmt: skip
        if place.num_processes > 1:
            with torch.no_grad():
                for tensor in [*trainer.model_tensors().values(), *(trainer.ema or [])]:
                    tensor.copy_(broadcast(tensor))
    run["stages"][-1] |= {"code_commit": facts.code_commit(), "hardware": facts.hardware(place.num_processes)}
    place.wait_for_everyone()
    if place.is_main_process:
        states.clean(root / "state", run["step"] if found else None)
        _trim_log(root / "log.jsonl", run["step"])
    place.wait_for_everyone()
    return run


def _loop(
    trainer: Trainer, run: dict[str, Any], root: Path, place: PartialState, on_log: Callable[[int, Log], None] | None
) -> None:
    recipe, task = trainer.recipe, trainer.task
    micro = recipe.batch_size
    order = DataOrder(recipe.seed, task.length, micro * recipe.grad_accum * place.num_processes)
    autocast = torch.autocast(place.device.type, torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
    window: list[dict[str, torch.Tensor]] = []
    saved, since = run["step"], time.monotonic()
    spent = run["wall_time_s"]
    with _signals() as stop, _progress(recipe, run["step"], place) as show:
        for step in range(run["step"], recipe.steps):
            batch, noise = order(step), KeyedNoise(recipe.seed, step)
            trainer.flat.zero_()
            sums: dict[str, torch.Tensor] = {}
            for part in range(recipe.grad_accum):
                number = place.process_index * recipe.grad_accum + part
                torch.manual_seed(int(keyed("torch", recipe.seed, step, number).integers(2**63)))
                with autocast:
                    losses = task.loss(batch[number * micro : (number + 1) * micro], step, noise)
                (losses["loss"] / recipe.grad_accum).backward()
                for key, value in losses.items():
                    value = value.detach() / recipe.grad_accum
                    sums[key] = sums[key] + value if key in sums else value
            if place.num_processes > 1:
                trainer.flat[-1] = float(bool(stop))
                trainer.flat.copy_(reduce(trainer.flat, "mean"))
                if trainer.flat[-1] > 0 and not stop:
                    stop.append(signal.SIGTERM)
            window.append({**sums, "grad_norm": trainer.update(step)})
            done = run["step"] = step + 1
            last = done == recipe.steps or bool(stop)
            saving = last or done % recipe.save_every == 0
            if saving or done % recipe.log_every == 0:
                _check_finite(window, done, saved)
            if done % recipe.log_every == 0 or last:
                means = _means(window, place)
                window = []
                run["wall_time_s"] = spent + time.monotonic() - since
                line = {"step": done, "lr": learning_rate(step, recipe), "time": run["wall_time_s"], **means}
                if place.is_main_process:
                    with open(root / "log.jsonl", "a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                    if on_log:
                        on_log(done, line)
                show(done, line)
            else:
                show(done, None)
            if saving:
                run["wall_time_s"] = spent + time.monotonic() - since
                if place.is_main_process:
                    scalars = {key: value for key, value in run.items() if key not in ("step", "format", "files")}
                    states.save_state(root / "state", done, trainer.tensors(), scalars)
                place.wait_for_everyone()
                saved = done
            if stop:
                raise SystemExit(128 + int(stop[0]))


def _finish(trainer: Trainer, run: dict[str, Any], root: Path, place: PartialState) -> dict[str, Any]:
    recipe = trainer.recipe
    result = {
        "recipe": recipe.model_dump(mode="json"),
        "data": trainer.task.data,
        "seed": recipe.seed,
        "steps": run["step"],
        "hardware": run["stages"][-1]["hardware"],
        "wall_time_s": round(run["wall_time_s"], 3),
        "code_commit": run["stages"][-1]["code_commit"],
        "versions": facts.versions(),
        "stages": run["stages"],
    }
    if place.is_main_process:
        export(trainer, root / "export")
        states.write_json(root / "record.json", result)
    place.wait_for_everyone()
    return result


def export(trainer: Trainer, folder: Path) -> None:
    """Write the task's checkpoint with averaged weights; the folder appears whole or not at all."""
    temporary = folder.with_name(folder.name + ".tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    with trainer.averaged():
        trainer.task.export(temporary)
    states.replace(temporary, folder)


def _check_finite(window: list[dict[str, torch.Tensor]], done: int, saved: int) -> None:
    if not window:
        return
    for key in ("loss", "grad_norm"):
        finite = torch.stack([entry[key].float() for entry in window]).isfinite()
        if not finite.all():
            first = done - len(window) + int((~finite).nonzero()[0]) + 1
            raise FloatingPointError(f"{key} is not finite at step {first}; the state of step {saved} is kept")


def _means(window: list[dict[str, torch.Tensor]], place: PartialState) -> Log:
    """Mean of every logged scalar over the window and over the processes."""
    columns: dict[str, list[torch.Tensor]] = {}
    for entry in window:
        for key, value in entry.items():
            columns.setdefault(key, []).append(value.float())
    own = {key: float(torch.stack(values).mean()) for key, values in columns.items()}
    every = gather_object([own]) if place.num_processes > 1 else [own]
    keys = {key: None for means in every for key in means}
    return {k: sum(m[k] for m in every if k in m) / sum(k in m for m in every) for k in keys}


def _trim_log(path: Path, step: int) -> None:
    """Drop lines that a killed run wrote after its last saved state, and a line cut in half."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)


@contextmanager
def _locked(root: Path, place: PartialState) -> Iterator[None]:
    """Hold the run's folder; the lock of a killed process vanishes with it."""
    root.mkdir(parents=True, exist_ok=True)
    if not place.is_main_process:
        yield
        return
    with open(root / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"folder {str(root)!r} is in use by another training process") from None
        yield


@contextmanager
def _torch_generator_kept() -> Iterator[None]:
    """Leave PyTorch's global generator as it was."""
    before = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that becomes non-empty when the run shall stop. A second signal acts as usual."""
    stop: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python delivers signals to the main thread only
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, _frame: Any) -> None:
        stop.append(number)
        signal.signal(number, before[number] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def _progress(recipe: Recipe, start: int, place: PartialState) -> Iterator[Callable[[int, Log | None], None]]:
    """A bar on a terminal, else one line per log entry; `WM_PROGRESS=0` silences both."""
    if not place.is_main_process or os.environ.get("WM_PROGRESS") == "0":
        yield lambda step, line: None
        return
    if not sys.stderr.isatty():
        def lines(step: int, line: Log | None) -> None:
            if line:
                print(f"{recipe.task} {step}/{recipe.steps} {_short(line)}", file=sys.stderr, flush=True)

        yield lines
        return
    from tqdm import tqdm

    with tqdm(total=recipe.steps, initial=start, desc=recipe.task, unit="step") as bar:
        def advance(step: int, line: Log | None) -> None:
            bar.update(1)
            if line:
                bar.set_postfix_str(_short(line))

        yield advance


def _short(line: Log) -> str:
    return " ".join(f"{key} {value:.4g}" for key, value in line.items() if key != "step")
