"""The training loop. Every number is a function of (recipe, task, step), so a run that is killed repeats itself."""

import atexit
import fcntl
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather_object, parse_flag_from_env, reduce
from safetensors import SafetensorError

from wm_pipelines.config import TrainingRecord
from wm_pipelines.runtime.claims import claimed
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.random import keyed

from . import record as facts
from . import state as states
from .console import Log, append_log, progress, stop_signals, trim_log
from .half import bf16_autocast
from .recipe import Recipe, changed_fields
from .task import DataOrder, KeyedNoise, Task
from .trainer import Trainer, learning_rate


def train(
    task: Task,
    recipe: Recipe,
    folder: str | Path,
    resume: bool = True,
    on_log: Callable[[int, Log], None] | None = None,
) -> TrainingRecord:
    """Train `task` by `recipe` in `folder`, going on from the newest whole state there.

    Leaves `export/` (what `Task.export` wrote), `record.json`, `log.jsonl` and `state/`. SIGTERM and the first Ctrl-C
    finish the step, save, and raise `SystemExit` with 128 + signal number.

    Args:
        on_log: called on the main process with the step and the means since the last call, every `log_every` steps
            and whenever a state is saved.

    Raises:
        ValueError: the folder holds a run with another recipe, task or number of processes, or a run at all with
            `resume=False`; another process trains in it; every state is damaged.
        FloatingPointError: a loss or gradient is not finite; the last saved state is kept.
    """
    # accelerate makes a group of CPU processes only where it is told that the CPU is meant.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    place = PartialState(cpu=cpu)
    if place.num_processes > 1:
        # Threads of a group that outlives the interpreter abort the process now and then, after all work is done.
        atexit.register(place.destroy_process_group)
    root = Path(folder)
    devices = [place.device] if place.device.type == "cuda" else []
    with _locked(root, place), torch.random.fork_rng(devices):
        trainer, run = _begin(task, recipe, root, resume, place)
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
    trainer.load_model(tensors["model"])
    for parameter in trainer.parameters:
        parameter.grad = None
    if averaged and "ema" in tensors:
        with torch.no_grad():
            for name, parameter in zip(trainer.names, trainer.parameters, strict=True):
                parameter.copy_(tensors["ema"][name])
    return scalars["step"]


def _begin(
    task: Task, recipe: Recipe, root: Path, resume: bool, place: PartialState
) -> tuple[Trainer, dict[str, Any]]:
    """Restore or start. Returns the trainer and the scalars of the run, which are what `state.json` keeps."""
    wanted = json.loads(recipe.model_dump_json())
    threads = torch.get_num_threads()
    found = states.newest_state(root / "state")
    if found:
        tensors, run = found
        if not resume:
            raise ValueError(f"folder {str(root)!r} holds a run at step {run['step']}; resume it or choose another")
        _check_same(run, wanted, root, place)
        trainer = Trainer(task, recipe, place.device)
        trainer.load(tensors, run["step"])
        if run["step"] < recipe.steps:
            note = f"{threads} threads instead of {run['threads']}: not bit-equal"
            run["stages"].append(
                {"event": "resumed", "step": run["step"]} | ({"note": note} if threads != run["threads"] else {})
            )
        run |= {"recipe": wanted, "threads": threads}
    else:
        stage = {"event": "started", "step": 0}
        if recipe.init_from:
            told = task.load_weights(recipe.init_from)
            event = "resumed from weights with fresh optimiser"
            stage = {"event": event, "step": 0, "from": recipe.init_from, **(told or {})}
        trainer = Trainer(task, recipe, place.device)
        every = [p for module in trainer.modules.values() for p in module.parameters()]
        stage["trained_parameters"] = sum(p.numel() for p in trainer.parameters)
        stage["all_parameters"] = sum(p.numel() for p in every)
        if place.num_processes > 1:
            with torch.no_grad():
                for tensor in [*trainer.model_tensors().values(), *trainer.ema]:
                    tensor.copy_(broadcast(tensor))
        run = {"step": 0, "recipe": wanted, "processes": place.num_processes, "threads": threads}
        run |= {"wall_time_s": 0.0, "stages": [stage]}
    if run["step"] < recipe.steps:
        run["stages"][-1] |= {"code_commit": facts.code_commit(), "hardware": facts.hardware(place.num_processes)}
    place.wait_for_everyone()
    if place.is_main_process:
        states.clean(root)
        states.clean(root / "state", keep=run["step"] if found else None)
        trim_log(root / "log.jsonl", run["step"])
    place.wait_for_everyone()
    return trainer, run


def _check_same(run: dict[str, Any], wanted: dict[str, Any], root: Path, place: PartialState) -> None:
    for field in changed_fields(run["recipe"], wanted):
        raise ValueError(
            f"recipe field {field!r} changed: the state in {str(root)!r} has {run['recipe'].get(field)!r}, "
            f"the recipe has {wanted.get(field)!r}; use the same value or another folder"
        )
    if wanted["steps"] < run["step"]:
        raise ValueError(f"steps is {wanted['steps']}, but the state in {str(root)!r} is already at {run['step']}")
    if run["processes"] != place.num_processes:
        raise ValueError(f"the state was made by {run['processes']} processes, this run has {place.num_processes}")


def _loop(
    trainer: Trainer, run: dict[str, Any], root: Path, place: PartialState, on_log: Callable[[int, Log], None] | None
) -> None:
    recipe, start, spent = trainer.recipe, run["step"], run["wall_time_s"]
    samples = recipe.batch_size * recipe.grad_accum * place.num_processes
    order = DataOrder(recipe.seed, trainer.task.length, samples)
    window: list[dict[str, torch.Tensor]] = []
    began = time.monotonic()
    with stop_signals() as stop, progress(recipe, start, not place.is_main_process) as show:
        for step in range(start, recipe.steps):
            losses = _backward(trainer, order(step), step, place)
            stopping = bool(stop)
            if place.num_processes > 1:
                trainer.flat[-1] = float(stopping)
                trainer.flat.copy_(reduce(trainer.flat, "mean"))
                stopping = bool(trainer.flat[-1] > 0)
            window.append({**losses, "grad_norm": trainer.update(step)})
            done = step + 1
            saving = stopping or done == recipe.steps or done % recipe.save_every == 0
            line = None
            # Averages start anew at every save, so that a resumed run logs what an unbroken one does.
            if saving or done % recipe.log_every == 0:
                _check_finite(window, done, run["step"])
                elapsed = round(spent + time.monotonic() - began, 3)
                line = {"step": done, "lr": learning_rate(step, recipe), "time": elapsed, **_means(window, place)}
                window = []
                if place.is_main_process:
                    with _writing(root, run["step"]):
                        append_log(root / "log.jsonl", line)
                    if on_log:
                        on_log(done, line)
            show(done, line)
            if saving:
                now = run | {"step": done, "wall_time_s": spent + time.monotonic() - began}
                if place.is_main_process:
                    with _writing(root, run["step"]):
                        states.save_state(root / "state", done, trainer.tensors(), now)
                run |= now
                place.wait_for_everyone()
            if stopping:
                if place.is_main_process:
                    print(f"stopped at step {done} of {recipe.steps}; its state is saved in {root}", file=sys.stderr)
                raise SystemExit(128 + (stop[0] if stop else signal.SIGTERM))


def _backward(trainer: Trainer, batch: list[int], step: int, place: PartialState) -> dict[str, torch.Tensor]:
    """Gradients of this process's share of the global batch, divided by its micro-batches. Returns mean losses."""
    recipe, size = trainer.recipe, trainer.recipe.batch_size
    noise = KeyedNoise(recipe.seed, step)
    sums: dict[str, torch.Tensor] = {}
    trainer.flat.zero_()
    for part in range(recipe.grad_accum):
        # Micro-batches are numbered over all processes, so a share has the same number wherever it is computed.
        number = place.process_index * recipe.grad_accum + part
        torch.manual_seed(int(keyed("torch", recipe.seed, step, number).integers(2**63)))
        with bf16_autocast(place.device.type) if recipe.precision == "bf16" else nullcontext():
            losses = trainer.task.loss(batch[number * size : (number + 1) * size], step, noise)
        if "loss" not in losses or losses["loss"].ndim:
            raise ValueError(f"Task.loss must return a scalar under 'loss', got {list(losses)}")
        (losses["loss"] / recipe.grad_accum).backward()
        for key, value in losses.items():
            value = torch.as_tensor(value).detach().float() / recipe.grad_accum
            sums[key] = sums[key] + value if key in sums else value
    return sums


def _finish(trainer: Trainer, run: dict[str, Any], root: Path, place: PartialState) -> TrainingRecord:
    stages = run["stages"]
    record = TrainingRecord(
        recipe=run["recipe"],
        data=trainer.task.data,
        seed=trainer.recipe.seed,
        steps=run["step"],
        hardware=stages[-1]["hardware"],
        wall_time_s=round(run["wall_time_s"], 3),
        code_commit=stages[-1]["code_commit"],
        versions=facts.versions(),
        stages=stages,
    )
    if place.is_main_process:
        with _writing(root, run["step"]):
            with trainer.averaged(), atomic_folder(root / "export", whole=True) as partial:
                trainer.task.export(partial)
            states.write_json(root / "record.json", record.model_dump(mode="json"))
    place.wait_for_everyone()
    return record


def _check_finite(window: list[dict[str, torch.Tensor]], done: int, saved: int) -> None:
    for key in ("loss", "grad_norm"):
        bad = torch.stack([entry[key] for entry in window]).isfinite().logical_not()
        if bad.any():
            first = done - len(window) + int(bad.nonzero()[0]) + 1
            raise FloatingPointError(f"{key} is not finite at step {first}; the last saved state is of step {saved}")


def _means(window: list[dict[str, torch.Tensor]], place: PartialState) -> Log:
    """Mean of every logged scalar over the window and over the processes."""
    columns: dict[str, list[torch.Tensor]] = {}
    for entry in window:
        for key, value in entry.items():
            columns.setdefault(key, []).append(value)
    own = {key: float(torch.stack(values).mean()) for key, values in columns.items()}
    every = gather_object([own]) if place.num_processes > 1 else [own]
    keys = {key: None for means in every for key in means}
    return {k: sum(m[k] for m in every if k in m) / sum(k in m for m in every) for k in keys}


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
        with claimed(root):
            yield


@contextmanager
def _writing(root: Path, kept: int) -> Iterator[None]:
    """Says which state stays where nothing can be written: a full disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(f"can't write into {str(root)!r}: {error}; the last saved state is of step {kept}") from error
