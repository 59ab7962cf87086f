import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wm_pipelines.runtime.shards import divide, make_plan

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def stages():
    """The module of stages, importable by its name, here and in spawned processes."""
    sys.path.insert(0, str(HERE))
    import shard_stages

    yield shard_stages
    sys.path.remove(str(HERE))


@pytest.fixture
def driver():
    """`driver(*arguments, **variables)`: shard_driver.py in a process of its own, not waited for."""
    started = []

    def start(*arguments, prefix=(), **variables):
        command = [*prefix, sys.executable, str(HERE / "shard_driver.py"), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env={**os.environ, **variables}, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def files(tmp_path):
    """`files(*texts)`: files 00.txt, 01.txt, ... with these lines, under `in`."""

    def write(*texts):
        root = tmp_path / "in"
        root.mkdir(exist_ok=True)
        for i, text in enumerate(texts):
            (root / f"{i:02}.txt").write_text("\n".join(map(str, text)), encoding="utf-8")
        return sorted(root.iterdir())

    return write


@pytest.fixture
def contents():
    """`contents(folder)`: every file of a plan's folder with its bytes, whatever a run leaves behind included."""

    def read(folder):
        paths = [path for path in Path(folder).rglob("*") if path.is_file() or not any(path.iterdir())]
        return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in paths}

    return read


@pytest.fixture
def plan(tmp_path, files):
    """`plan(name)`: a new plan over five shards of two files."""

    def new(name="out", texts=None, size=2, **options):
        paths = files(*(texts or [range(i, i + 3) for i in range(10)]))
        options = {"root": tmp_path / "in", "config": {"by": 0.5, "code": 1}} | options
        return make_plan(tmp_path / name, divide(paths, size), **options)

    return new


@pytest.fixture
def until():
    """Waits for a condition, which must come true."""

    def wait(condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came"
            time.sleep(0.01)

    return wait


@pytest.fixture
def lines():
    """`lines(log)`: (shard, row, process) of what a `logged` stage made, in order."""

    def read(log):
        return [tuple(line.split()) for line in log.read_text().splitlines()] if log.exists() else []

    return read
