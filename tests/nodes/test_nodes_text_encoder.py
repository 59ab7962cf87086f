"""Text-encoder files of `save_lora` in a real ComfyUI's own LoRA reader.

Runs in each ComfyUI that COMFYUI_PATH names; see `comfy_homes.py`.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def found(comfyui):
    """What `comfy_text_encoder.py` measured in one process."""
    return comfyui.answer(Path(__file__).parent / "comfy_text_encoder.py")


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
