"""The ComfyUIs that the node tests run in, as the environment names them.

COMFYUI_PATH: a folder, or several separated as in PATH; every test then runs in each of them.
COMFYUI_PYTHON: the Python of each one's environment, in the same order, or one for all; this Python if unset.
COMFYUI_FRONTEND: folders with the `index.html` of a front end for the browser tests, in the same order; more of them
than ComfyUIs are tried on the last one. Where there is none, the one that is installed there serves.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

NONE = "COMFYUI_PATH is not set: no ComfyUI to run the nodes in"


class Home(NamedTuple):
    """One ComfyUI and the Python that runs it."""

    path: Path
    python: str

    @property
    def environment(self) -> dict[str, str]:
        """What its processes see: itself alone, and our library only as ComfyUI finds it."""
        outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**outside, "COMFYUI_PATH": str(self.path), "COMFYUI_PYTHON": self.python}

    def answer(self, *command: str | Path, cwd: Path | None = None) -> Any:
        """The JSON that a script prints there: all of its standard output, see `comfy_start.py`."""
        given = [self.python, *map(str, command)]
        done = subprocess.run(given, capture_output=True, text=True, cwd=cwd, env=self.environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def homes(environment: Mapping[str, str]) -> list[Home]:
    """The ComfyUIs that an environment names, in order.

    Raises:
        ValueError: neither one Python nor one for each ComfyUI.
    """
    paths = [Path(path) for path in environment.get("COMFYUI_PATH", "").split(os.pathsep) if path]
    pythons = [python for python in environment.get("COMFYUI_PYTHON", "").split(os.pathsep) if python]
    pythons = pythons or [sys.executable]
    if len(pythons) not in (1, len(paths)):
        raise ValueError(f"COMFYUI_PYTHON names {len(pythons)} Pythons for {len(paths)} folders of COMFYUI_PATH")
    if len(pythons) == 1:
        pythons *= len(paths)
    return [Home(path, python) for path, python in zip(paths, pythons, strict=True)]


def stages(environment: Mapping[str, str]) -> list[tuple[Home, Path | None]]:
    """Each ComfyUI with each front end that the browser tests use it with; None for its own."""
    found = homes(environment)
    ends = [Path(path) if path else None for path in environment.get("COMFYUI_FRONTEND", "").split(os.pathsep)]
    count = max(len(found), len(ends)) if found else 0
    return [(found[min(n, len(found) - 1)], ends[n] if n < len(ends) else None) for n in range(count)]
