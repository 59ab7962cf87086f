"""Stages that tests of shards hand to other processes, which import them by name."""

import errno
import os
import signal
import time

from wm_pipelines.runtime.shards import Failed

COLUMNS = {"id": "string", "value": "float64", "twice": "list<int32>", "word": "string"}


def numbers(path, config):
    """A row for each line, "file/line"; a line that is no number spoils its file."""
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        number = int(line)
        yield {"id": f"{path.name}/{i}", "value": number * config["by"], "twice": [number, number], "word": "é\u2028"}


class Numbers:
    """The same over all files of a shard, made once in a worker; leaves a mark for each time that it was made."""

    def __init__(self, config):
        self.by = config["by"]
        if marks := os.environ.get("SHARD_MARKS"):
            open(f"{marks}/{os.getpid()}-{time.monotonic_ns()}", "x").close()

    def __call__(self, shard):
        for path in shard.paths:
            yield from numbers(path, {"by": self.by})


def logged(shard, log, pause=0.0, gate=None):
    """A row for each line, which goes to `log` with the process as it is made; shard 00004 waits for a file `gate`."""
    while gate and shard.name == "00004" and not os.path.exists(gate):
        time.sleep(0.02)
    for key, path in zip(shard.keys, shard.paths, strict=True):
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{shard.name} {key}/{i} {os.getpid()}\n")
            time.sleep(pause)
            yield {"id": f"{key}/{i}", "value": int(line)}


def odd_fail(shard):
    """Rows of even numbers; odd ones fail, a 7 fails its shard, and 9 makes a row that can't be written."""
    for path in shard.paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line == "7":
                raise KeyError("seven")
            if line == "9":
                yield {"value": float("nan")}
            elif int(line) % 2:
                yield Failed(f"{path.name}/{line}", "odd")
            else:
                yield {"value": int(line)}


def deadly(shard):
    """Kills its process where a file holds a 7."""
    for path in shard.paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line == "7":
                os.kill(os.getpid(), signal.SIGKILL)
            yield {"value": int(line)}


def full(shard):
    """Meets a full disk at a 7."""
    for path in shard.paths:
        if "7" in path.read_text(encoding="utf-8").splitlines():
            raise OSError(errno.ENOSPC, "No space left on device", "/scratch")
        yield {"value": 1}


def large(shard):
    yield {"value": "x" * 40_000}


def leaves(shard):
    os._exit(0)


class Broken:
    def __init__(self, config):
        raise OSError("no such model")

    def __call__(self, shard):
        return []
