"""WM_FlexEControlApply on a native model, sampled by core, against the library's pipeline on the diffusers twin.

Runs in each ComfyUI that COMFYUI_PATH names; see `comfy_homes.py`.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui

TOLERANCE = 1e-5
"""Of the latents after all steps, as a share of their largest value."""


@pytest.fixture(scope="module")
def found(comfyui):
    """What `comfy_flexecontrol.py` measured in one process."""
    return comfyui.answer(Path(__file__).parent / "comfy_flexecontrol.py")


@pytest.mark.parametrize("form", ["one", "several", "early"])
def test_latents_are_those_of_the_librarys_pipeline(found, form):
    """Equal noise, sigmas and guidance; regions, strengths, and conditions that begin or end on the way."""
    assert found["plain"] < TOLERANCE
    assert found["forms"][form]["twin"] < TOLERANCE and found["forms"][form]["moved"] > 0.01


def test_strength_weighs_and_controls_add_up(found):
    assert found["half"] < TOLERANCE and found["never"] < TOLERANCE
    assert found["chained"] < TOLERANCE  # two halves behind one another, in the positive prompt
    assert not found["came in"]


def test_other_controls_several_entries_and_context_windows_go_with_it(found):
    """A ControlNet of core's, before ours or behind it; frames that know nothing of each other, one in a window."""
    beside = found["beside"]
    assert beside["order"] < TOLERANCE and min(beside["moved"]) > 0.01
    assert beside["entries"] == [2, True] and beside["windows"] < TOLERANCE


def test_what_can_not_be_is_one_clear_error(found):
    refused = found["refused"]
    assert "conditions is empty" in refused["empty"]
    assert "model is a Linear" in refused["model"]
    assert "condition 'canny' #1 is 32x64" in refused["size"]
