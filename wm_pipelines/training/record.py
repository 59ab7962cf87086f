"""Where a run took place: hardware, versions, commit. Facts only; nothing here decides a number."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch


def hardware(processes: int) -> str:
    """One line: processor, cores, threads per process, accelerator, number of processes."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    parts = [model, f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"{processes} process" + ("es" if processes > 1 else "")])


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("wm-pipelines", "torch", "numpy", "diffusers", "transformers", "peft", "accelerate", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def code_commit() -> str | None:
    """The commit of the checkout this package runs from, `-dirty` where tracked files differ; None outside git."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=package, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A wheel installed inside somebody else's checkout must not claim their commit.
    if not git("ls-files", "__init__.py"):
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
