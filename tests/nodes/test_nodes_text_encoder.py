"""Text-encoder files of `save_lora` in a real ComfyUI's own LoRA reader.

Runs when COMFYUI_PATH names a ComfyUI folder; COMFYUI_PYTHON names the Python of its environment (this one if unset).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def found():
    """What `comfy_text_encoder.py` measured in one process."""
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    script = Path(__file__).parent / "comfy_text_encoder.py"
    done = subprocess.run([python, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "what",
    ["by default", "the only one", "the only one, with a projection", "the first of two", "the second of two"],
)
@pytest.mark.parametrize("form", ["kohya", "diff", "diffusers"])
def test_every_layer_is_found_and_moves_as_ours_does(found, form, what):
    """Six layers in each of two blocks; where the file has biases in ComfyUI's way, they too."""
    row = found[f"{form}, {what}"]
    assert row["as meant"] and row["error"] < 1e-4
    assert row["layers"] == (12 if form == "diffusers" else 24)
