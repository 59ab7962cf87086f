"""Workers in processes of their own on this machine; one that dies is replaced, all end with their driver."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from wm_pipelines.runtime.shards.leases import has_lease
from wm_pipelines.runtime.shards.plan import Plan, read_plan
from wm_pipelines.runtime.shards.work import Terms, Worker, told, untold


def check_sendable(stage: Any) -> None:
    """Refuse a stage that another process could not be given.

    Raises:
        ValueError: says what can't be sent.
    """
    try:
        ForkingPickler.dumps(stage)
    except Exception as error:  # each kind of object fails in its own way
        raise ValueError(
            f"`stage` {stage!r:.80} can't be sent to another process ({error}); define it at the top of a module"
        ) from None


def share(names: list[str], worker: int, workers: int) -> list[str]:
    """The order in which a worker looks at shards: each `workers`-th first, then those of the others from the end."""
    own = names[worker::workers]
    others = set(names).difference(own)
    return own + [name for name in reversed(names) if name in others]


def run_in_processes(
    plan: Plan, stage: Any, terms: Terms, names: list[str], workers: int, on_look: Callable[[], None] | None = None
) -> None:
    """Settle shards with `workers` spawned processes.

    Args:
        on_look: called now and then.

    Raises:
        RuntimeError: a worker ended in a way that another would too. Others as `Worker.settle`.
    """
    context = multiprocessing.get_context("spawn")
    crew: dict[int, tuple[Any, Connection, int]] = {}

    def start(number: int) -> None:
        ours, theirs = context.Pipe(duplex=False)
        arguments = (plan.folder, plan.root, stage, terms, share(names, number, workers), theirs)
        process = context.Process(target=_main, args=arguments)
        process.start()
        theirs.close()
        crew[process.sentinel] = process, ours, number

    idle_deaths = 0
    try:
        for number in range(min(workers, len(names))):
            start(number)
        while crew:
            for sentinel in wait(list(crew), timeout=0.5):
                process, pipe, number = crew.pop(sentinel)
                process.join()
                answer = _answer(pipe)
                if answer:
                    raise untold(answer)
                if answer is None:
                    idle_deaths += not has_lease(plan.folder / "leases", process.pid)
                    if process.exitcode >= 0 or idle_deaths > workers:
                        raise RuntimeError(f"a worker ended with exit code {process.exitcode} before all was done")
                    start(number)
            if on_look:
                on_look()
    finally:
        for process, _, _ in crew.values():
            process.terminate()
        for process, _, _ in crew.values():
            process.join(5)
            process.kill()
            process.join()


def _answer(pipe: Connection) -> dict[str, Any] | None:
    """What a worker said at its end: nothing wrong, the error that it told of, or None where it said nothing."""
    try:
        return pipe.recv()
    except EOFError:
        return None
    finally:
        pipe.close()


def _main(folder: Path, root: Path, stage: Any, terms: Terms, names: list[str], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    threading.Thread(target=_end_with_driver, daemon=True).start()
    try:
        Worker(read_plan(folder, root), stage, terms).settle(names)
    except BaseException as error:  # the driver raises it
        pipe.send(told(error))
    else:
        pipe.send({})


def _end_with_driver() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
