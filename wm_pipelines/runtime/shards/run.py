"""`run_stage`: a stage over all shards of a plan, in this process, in several, in ranks of a launcher or under Ray."""

import os
import secrets
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from wm_pipelines.runtime.files import sync
from wm_pipelines.runtime.shards.leases import take
from wm_pipelines.runtime.shards.plan import Plan
from wm_pipelines.runtime.shards.processes import check_sendable, run_in_processes, share
from wm_pipelines.runtime.shards.results import (
    Report,
    clear,
    count_settled,
    dead_letters,
    forget_failed,
    is_settled,
    report,
    set_aside_damaged,
)
from wm_pipelines.runtime.shards.stages import Stage, is_class
from wm_pipelines.runtime.shards.work import Terms, Worker, check_failures

EXECUTORS = ("here", "processes", "ranks", "ray")


def run_stage(
    plan: Plan,
    stage: Stage | type,
    executor: str = "here",
    workers: int = 1,
    *,
    max_failures: int = 100,
    lease_s: float = 120.0,
    num_cpus: float = 0.5,
    num_gpus: float = 0.0,
    on_shard: Callable[[int, int], None] | None = None,
) -> Report:
    """Run a stage over the shards of a plan that are not done yet; every executor leaves the same bytes.

    It returns when each shard is done or has failed, whoever did it: several runs of one plan share its work. What is
    done is read first, and what was altered since is made again, with a warning. A shard that failed in an earlier run
    is tried again.

    Args:
        stage: function, object or class as `Stage` says. Processes and Ray import it by its name.
        executor: "here", this process; "processes", `workers` processes of this machine; "ranks", the processes that
            torchrun or `accelerate launch` started, each of which calls this; "ray", actors of Ray Data, on the
            cluster that is connected or on one that is started for the call.
        workers: processes or actors.
        max_failures: dead letters that the plan may have; see `dead_letters`.
        lease_s: seconds of silence after which a worker of another machine counts as dead. Those of this one are
            looked up.
        num_cpus, num_gpus: CPUs and GPUs of each Ray actor; Ray shows an actor its own GPUs only.
        on_shard: called now and then with the number of settled shards and of all.

    Raises:
        ValueError: an argument, an input that changed, shards of another plan.
        ImportError: Ray is not installed.
        TooManyFailures: more than `max_failures` dead letters.
        OSError: a disk is full; no shard is half written.
        RuntimeError: the stage can't be made, every shard failed, or workers die before they take a shard.
    """
    rank, ranks = _check(stage, executor, workers, max_failures)
    _check_numbers(executor, lease_s, num_cpus, num_gpus)
    if executor == "ray":
        from wm_pipelines.runtime.ray import imported, run_with_ray

        imported()
    terms = Terms(secrets.token_hex(8), float(lease_s), max_failures)
    names = list(plan.shards)
    for part in ("shards", "failed", "leases", "tmp"):
        (plan.folder / part).mkdir(exist_ok=True)
    sync(plan.folder)
    whole, damaged = set_aside_damaged(plan, names, terms.run, terms.lease_s)
    forget_failed(plan)
    check_failures(plan, max_failures)
    skipped = set(whole)
    left = [name for name in names if name not in skipped]
    try:
        while True:
            tell = _teller(plan, on_shard, len(names) - len(left))
            if executor == "processes":
                look = (lambda say=tell: say(count_settled(plan))) if on_shard else None
                run_in_processes(plan, stage, terms, left, workers=workers, on_look=look)
            elif executor == "ray":
                needs = (num_cpus, num_gpus)
                run_with_ray(plan, stage, terms, left, workers=workers, needs=needs, on_settled=tell)
            else:
                open_ = set(left)
                order = [name for name in share(names, rank, ranks) if name in open_]
                Worker(plan, stage, terms).settle(order, tell)
            found = report(plan, len(whole), damaged)
            if found.done + len(found.failed) == found.shards:
                break
            # a run that began meanwhile has taken a failure back to try it again
            left = [name for name in names if not is_settled(plan, name)]
    finally:
        _sweep(plan, terms)
    return _ended(plan, found)


def _teller(plan: Plan, on_shard: Callable[[int, int], None] | None, settled: int) -> Callable[..., None]:
    """`tell()` after each shard, or `tell(count)`, hands on how many are settled."""

    def tell(count: int | None = None) -> None:
        nonlocal settled
        settled = settled + 1 if count is None else count
        if on_shard:
            on_shard(settled, len(plan.shards))

    return tell


def _sweep(plan: Plan, terms: Terms) -> None:
    """Remove what dead workers left, and the folders of the work itself when nothing is left to be done."""
    if all(is_settled(plan, name) for name in plan.shards):
        for part in ("leases", "tmp"):
            shutil.rmtree(plan.folder / part, ignore_errors=True)
        return
    left = [path for part in ("leases", "tmp") for path in (plan.folder / part).glob("[0-9]*.*")]
    for name in {path.name.partition(".")[0] for path in left}:
        with suppress(OSError):  # on a full disk the run's own error says so
            lease = take(plan.folder / "leases", name, terms.run, terms.lease_s)
            if lease:
                with lease:
                    clear(plan, name)


def _ended(plan: Plan, found: Report) -> Report:
    if found.failed:
        first = next((f", {d['shard']}: {d['reason']}" for d in dead_letters(plan) if d["key"] is None), "")
        problem = f"{len(found.failed)} of {found.shards} shards of {plan.folder} failed{first}"
        if not found.done:
            raise RuntimeError(f"{problem}. None was done: the stage may be at fault")
        warnings.warn(f"{problem}. They are tried again by the next run", stacklevel=3)
    return found


def _check(stage: Any, executor: Any, workers: Any, max_failures: Any) -> tuple[int, int]:
    """Returns the number of this process among those that share the work, and how many these are."""
    if executor not in EXECUTORS:
        raise ValueError(f"`executor` must be one of {', '.join(EXECUTORS)}, got {executor!r}")
    if not callable(stage):
        raise ValueError(f"`stage` must be a function, an object that can be called or a class, got {stage!r}")
    if is_class(stage) and not any("__call__" in vars(base) for base in stage.__mro__):
        raise ValueError(f"`stage` {stage.__name__} is a class whose objects can't be called")
    for name, value, least in (("workers", workers, 1), ("max_failures", max_failures, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
    if executor in ("processes", "ray"):
        check_sendable(stage)
    elif workers != 1:
        own = "is one process" if executor == "here" else "has the processes that its launcher starts"
        raise ValueError(f"`workers` is {workers}, but executor {executor!r} {own}; leave it at 1")
    return _rank() if executor == "ranks" else (0, 1)


def _check_numbers(executor: str, lease_s: Any, num_cpus: Any, num_gpus: Any) -> None:
    for name, value in (("lease_s", lease_s), ("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` must be a number of at least 0, got {value!r}")
    if not lease_s:
        raise ValueError("`lease_s` must be above 0")
    if num_gpus and executor != "ray":
        raise ValueError(f"`num_gpus` is for executor 'ray', got {num_gpus!r} with {executor!r}")


def _rank() -> tuple[int, int]:
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise ValueError(
            f"executor 'ranks' reads RANK and WORLD_SIZE, which torchrun and accelerate launch set; they are {rank!r} "
            f"and {size!r}"
        )
    return int(rank), int(size)
