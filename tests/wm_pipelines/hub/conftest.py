"""Fixtures for what talks to a Hub: the loopback server, a sealed checkpoint, a client in its own process."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from wm_pipelines import hub
from wm_pipelines.config import WMConfig

TESTS = Path(__file__).parents[2]


def _load(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake_hub() -> Iterator[Any]:
    """A running loopback Hub with the tokens `writer` (may write to org/) and `reader`."""
    with _load("fake_hub", TESTS / "fake_hub.py").FakeHub() as server:
        yield server


@pytest.fixture
def client(tmp_path: Path) -> Callable[..., Any]:
    """Runs Python code in a fresh process against a Hub and returns what it printed last, read as JSON.

    The code sees its arguments as `args`. The Hub cache lies in the test's own folder, so that it is empty at first
    and kept from one call to the next.
    """

    def run(endpoint: str, code: str, *args: str, **env: str) -> Any:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        settings = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }
        program = "import json, sys\nargs = sys.argv[1:]\n" + textwrap.dedent(code)
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, args)],
            env=clean | settings | env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A sealed folder of the judge's shape with its card: two weight files, one of them over one upload part."""
    folder = tmp_path / "judge"
    (folder / "head").mkdir(parents=True)
    (folder / "config.json").write_text('{"width": 4}')
    values = numpy.random.default_rng(0).normal(size=(200, 200)).astype("float32")
    save_file({"weight": values}, folder / "model.safetensors")
    save_file({"bias": values[0]}, folder / "head" / "model.safetensors")
    config = WMConfig(
        method="diorama-judge",
        method_config={"colours": ["red", "blue"], "shapes": ["cube"]},
        training={"recipe": {"lr": 1e-3}, "seed": 0, "steps": 10, "wall_time_s": 61.0, "versions": {"torch": "2.8"}},
        evaluation=[
            {
                "task": "per-pixel classes",
                "dataset": "diorama held-out",
                "metric": "colour accuracy",
                "value": 0.987,
                "ci95": [0.98, 0.99],
                "n": 500,
                "seeds": [0],
                "baseline": 0.125,
                "command": "python benchmarks/judge.py",
            }
        ],
        paper="arXiv:2405.04834",
    )
    hub.seal(folder, config)
    hub.write_card(folder)
    return folder
