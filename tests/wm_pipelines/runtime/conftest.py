import os
import subprocess
import sys
from pathlib import Path

import pytest

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
