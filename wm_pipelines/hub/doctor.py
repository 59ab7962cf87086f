"""What works on this machine: versions, device, kernels, checkpoints. Shared by `wm doctor` and the WM_Doctor node."""

import importlib.util
import os
import platform
import sys
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from wm_pipelines.hub import store
from wm_pipelines.runtime.version import __version__

DISTRIBUTION = "wm-pipelines"
ADAPTERS = "wm_pipelines.adapters.kronecker"
OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def doctor(verify: bool = True) -> dict[str, Any]:
    """Look at the installation and say what is there and what is wrong.

    Args:
        verify: compare every embedded checkpoint with its recorded hashes, which reads the files.

    Returns:
        A dict that JSON can hold: `package`, `python`, `platform`, `versions` (distribution -> version or None),
        `device` (name of the torch device), `kernels` (`backend`, `triton`), `embedded` (name -> "ok",
        "not checked" or the problem), `comfyui` (whether ComfyUI's modules can be imported here), `hub` (endpoint,
        offline), `adapters` (the PEFT method of Kronecker adapters, the `import` that makes PEFT know it, and whether
        it is `known` here) and `problems`, a list of sentences that is empty when all is well.
    """
    versions, problems = _versions()
    device = _device(problems)
    checkpoints = {name: _checkpoint(name, verify, problems) for name in store.embedded_names()}
    if not checkpoints:
        problems.append(f"no embedded checkpoint under {store.EMBEDDED_ROOT}; install the package again")
    return {
        "package": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "device": device,
        "kernels": kernels_on(device),
        "embedded": checkpoints,
        "comfyui": _can_import("comfy_api") and _can_import("comfy"),
        "hub": {
            "endpoint": os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
            "offline": os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"),
        },
        "adapters": {"peft_type": "KRONECKER", "import": ADAPTERS, "known": ADAPTERS in sys.modules},
        "problems": problems,
    }


def describe(report: dict[str, Any]) -> list[str]:
    """The findings of `doctor` as lines of text, problems first."""
    missing = [name for name, version in report["versions"].items() if version is None]
    found = [f"{name} {version}" for name, version in report["versions"].items() if version is not None]
    kernels, adapters = report["kernels"], report["adapters"]
    return [
        *(f"PROBLEM {problem}" for problem in report["problems"]),
        f"wm-pipelines {report['package']}, Python {report['python']}, {report['platform']}",
        f"libraries: {', '.join(found)}" + (f"; missing: {', '.join(missing)}" if missing else ""),
        f"device: {report['device'] or 'none'}",
        f"kernels: {kernels['backend']} (triton {kernels['triton'] or 'not installed'})",
        *(f"checkpoint {name}: {state}" for name, state in report["embedded"].items()),
        f"adapters: `import {adapters['import']}` comes first; without it PEFT, which finds no methods itself, says "
        f"KeyError: '{adapters['peft_type']}' ({'imported' if adapters['known'] else 'not imported'} here)",
        f"ComfyUI: {'importable' if report['comfyui'] else 'not importable here'}",
        f"Hub: {report['hub']['endpoint']}" + (" (offline)" if report["hub"]["offline"] else ""),
    ]


def _versions() -> tuple[dict[str, str | None], list[str]]:
    """Installed version of every dependency, and a problem for each that is missing or older than the tested floor."""
    versions: dict[str, str | None] = {}
    problems = []
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        # ComfyUI loads the pack from its folder, where nothing is installed to ask.
        lines = ["torch", "diffusers", "transformers", "safetensors", "huggingface-hub"]
    for line in lines:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        # Any of OpenCV's four wheels serves: only the base module is used.
        names = OPENCV_WHEELS if need.name == "opencv-python" else (need.name,)
        found = next((version for version in map(_version, names) if version is not None), None)
        versions[need.name] = found
        if found is None:
            problems.append(f"{need.name} is not installed; {need} is needed")
        elif not need.specifier.contains(found, prereleases=True):
            problems.append(f"{need.name} {found} is installed; {need} is needed")
    return versions, problems


def _device(problems: list[str]) -> str | None:
    try:
        import torch
    except (ImportError, OSError) as error:
        problems.append(f"torch can't be imported: {error}")
        return None
    accelerator = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    if accelerator is None or not torch.accelerator.is_available():
        return f"cpu ({torch.get_num_threads()} threads)"
    name = torch.cuda.get_device_name() if accelerator.type == "cuda" else accelerator.type
    return f"{accelerator.type} ({name})"


def kernels_on(device: str | None) -> dict[str, str | None]:
    """Which code `backend="auto"` takes: Triton where it is installed, has a GPU, and this version has kernels."""
    triton = _version("triton")
    gpu = device is not None and device.startswith(("cuda", "xpu"))
    if not gpu or triton is None:
        return {"backend": "torch", "triton": triton}
    from wm_pipelines.kernels import has_triton_kernels

    return {"backend": "triton" if has_triton_kernels() else "torch", "triton": triton}


def _checkpoint(name: str, verify: bool, problems: list[str]) -> str:
    if not verify:
        return "not checked"
    try:
        store.verify(store.EMBEDDED_ROOT / name)
    except ValueError as error:
        problems.append(f"embedded checkpoint {name}: {error}")
        return str(error)
    return "ok"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _can_import(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a parent that is missing, or half a module left by somebody else
        return False
