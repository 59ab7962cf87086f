"""What a module makes when it is imported serves training too, wherever it is imported first."""

import subprocess
import sys

import pytest

SEEK = """
import importlib, pkgutil, sys
import torch
import custom_kernels, wm_pipelines

with torch.inference_mode():  # ComfyUI runs nodes in it
    for package in (wm_pipelines, custom_kernels):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                try:
                    importlib.import_module(module.name)
                except ModuleNotFoundError as missing:  # of an extra
                    if missing.name.startswith(("wm_pipelines", "custom_kernels")):
                        raise

def held(value, depth=0):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)) and depth < 3:
        for part in value.values() if isinstance(value, dict) else value:
            yield from held(part, depth + 1)

seen = [m for n, m in list(sys.modules.items()) if n.startswith(("wm_pipelines", "custom_kernels"))]
assert len(seen) > 200
print([f"{m.__name__}.{n}" for m in seen for n, v in vars(m).items() if any(t.is_inference() for t in held(v))])
"""


@pytest.mark.slow
def test_no_module_holds_a_tensor_that_no_gradient_goes_through():
    done = subprocess.run([sys.executable, "-c", SEEK], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout[-500:] + done.stderr[-2000:]
