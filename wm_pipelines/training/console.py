"""What a run shows, logs and hears: progress, the log file, the signals that stop it."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .recipe import Recipe

Log = dict[str, float]


@contextmanager
def progress(recipe: Recipe, start: int, silent: bool) -> Iterator[Callable[[int, Log | None], None]]:
    """A function to call after each step, with the log line where there is one.

    A bar on a terminal, else one line per log line; `WM_PROGRESS=0` silences both.
    """
    if silent or os.environ.get("WM_PROGRESS") == "0":
        yield lambda step, line: None
    elif not sys.stderr.isatty():

        def lines(step: int, line: Log | None) -> None:
            if line:
                print(f"{recipe.task} {step}/{recipe.steps} {_short(line)}", file=sys.stderr, flush=True)

        yield lines
    else:
        from tqdm import tqdm

        with tqdm(total=recipe.steps, initial=start, desc=recipe.task, unit="step") as bar:

            def advance(step: int, line: Log | None) -> None:
                if line:
                    bar.set_postfix_str(_short(line), refresh=False)
                bar.update(1)

            yield advance


def _short(line: Log) -> str:
    return " ".join(f"{key} {value:.4g}" for key, value in line.items() if key != "step")


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that gets the number of SIGTERM or SIGINT; the same signal a second time acts as usual."""
    stop: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets only the main thread set handlers
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


def append_log(path: Path, line: Log) -> None:
    """Add one line of JSON."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def trim_log(path: Path, step: int) -> None:
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
