"""A Kronecker adapter on a native ComfyUI model, by our node and as an exported LoRA file, against its diffusers twin.

Runs in each ComfyUI that COMFYUI_PATH names; see `comfy_homes.py`.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def found(comfyui):
    """What `comfy_native.py` measured in one process."""
    return comfyui.answer(Path(__file__).parent / "comfy_native.py")


@pytest.mark.parametrize("form", ["rank_one", "dense", "bias"])
def test_output_is_that_of_the_diffusers_twin(found, form):
    """The exported Kohya files in ComfyUI's LoraLoader, and the node, give what our own adapter gives."""
    row = found["forms"][form]
    assert found["twins"] < 1e-5 and row["adapter moves the output"] > 0.01
    assert row["LoraLoader"] < 1e-5 and row["LoraLoader, diff"] < 1e-5 and row["node"] < 1e-5


@pytest.mark.parametrize("form", ["rank_one", "dense", "bias"])
def test_node_and_lora_give_the_same_weights(found, form):
    row = found["forms"][form]
    assert row["weights, node to LoRA"] < 1e-6 and row["half strength"] < 1e-6
    # one tensor a module, or its weight and its bias, and no other
    assert row["modules"] > 20 and row["weights changed"] == row["modules"] * (2 if form == "bias" else 1)


def test_the_model_that_came_in_is_left_alone(found):
    assert found["model that came in is unchanged"]


def test_what_does_not_fit_is_named(found):
    assert "1 of 1 adapted modules have no counterpart in this BaseModel: conv_in_" in found["refused"]["unknown"]
    assert "adapted at 8 x 8, but diffusion_model.time_embed.0.weight is [128, 32]" in found["refused"]["size"]
    assert "attn1.to_q` is adapted with a bias, but diffusion_model." in found["refused"]["no_bias"]
    assert "is not a name from the list" in found["refused"]["../size"]


def test_parts_of_packed_weights_are_patched_in_place(found):
    """Flux keeps q, k and v in one matrix, and q, k, v and the MLP in another: only the adapted rows change."""
    row = found["flux"]
    assert row["weight"] < 1e-5 and row["bias"] < 1e-5 and row["weights, node to LoRA"] < 1e-6
    assert {"double_blocks.0.img_attn.qkv", "single_blocks.0.linear1"} < set(row["changed"])
    assert len(row["changed"]) == 5  # and the three embedders that end in linear_2
