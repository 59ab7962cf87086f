"""WM_MojitoApply on native models: the bias is the library's own, lands where it should and nowhere else.

Runs in each ComfyUI that COMFYUI_PATH names; see `comfy_homes.py`.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def found(comfyui):
    """What `comfy_motion.py` measured in one process."""
    return comfyui.answer(Path(__file__).parent / "comfy_motion.py")


def test_phrases_are_found_among_the_tokens_of_weighted_prompts(found):
    assert found["tokens"] == ["red</w>", "cube</w>", "blue</w>", "ball</w>"]
    assert found["positions"] == [[2, 3], [6, 7]] and found["second mention"] == [[6, 7]]


def test_the_prompt_comes_back_encoded_and_compared_with_the_path(found):
    assert found["encoded"] == [1, 77, 16]
    assert '("blue ball") is said to be "moving left", but its boxes stay where they are' in found["report"]


def test_a_unet_is_biased_as_its_diffusers_twin_is_by_the_pipeline(found):
    unet = found["unet"]
    assert unet["moved"] > 0.05 and unet["twin"] < 1e-5
    assert unet["core window"] < 1e-5 and unet["AnimateDiff window"] < 1e-5


def test_only_conditional_rows_are_biased_in_whatever_order_they_come(found):
    unet = found["unet"]
    assert unet["unconditional rows"] == 0
    assert unet["conditional first"] < 1e-5 and unet["conditional alone"] < 1e-5 and unet["repeated context"] < 1e-5


def test_without_bias_or_after_its_steps_nothing_changes(found):
    assert found["unet"]["zero bias"] == found["unet"]["after the fraction"] == found["wan"]["zero bias"] == 0
    assert found["unet"]["within the fraction"] < 1e-6
    assert max(found["unet"]["schedule"]) < 1e-5  # all, a third and none of the bias
    assert found["unet"]["came in"] == 0  # the model that came in has no wrapper


def test_wan_is_biased_in_its_text_attention_alone_and_other_overrides_stay(found):
    wan = found["wan"]
    assert wan["calls"] == [[72, 72, False], [72, 77, True]] * 2 and wan["mask"] == [2, 1, 72, 77]
    assert wan["unconditional rows"] == wan["other tokens"] == 0
    assert wan["ball inside"] == 3 and wan["cube outside"] == -3 and wan["moved"] > 0.01


def test_cores_ksampler_runs_the_steered_models(found):
    run = found["ksampler"]
    assert run["fraction 0"] == run["biased calls at fraction 0"] == 0
    assert run["biased calls at fraction 0.5"] == 0.5 and min(run["moved"]) > 1e-3
    assert run["wan"] == [True, True]
    # Three latent frames of 4 x 6 cells at once, then windows of two; both branches of guidance in one call.
    assert run["wan masks"] == [[2, 1, 72, 77]]
    # The second window of newer ComfyUI runs with the frame before it.
    second = [[2, 1, 72, 77]] if run["windows have the frame before"] else []
    assert run["wan masks in windows"] == [[2, 1, 48, 77], *second]


def test_conditionings_go_through_as_they_came_if_the_prompt_is_among_them(found):
    passed = found["conditioning"]
    assert passed["as they came"] and passed["combined"] == 2 and passed["empty"]
    assert "positive does not hold the prompt" in passed["other"] and "concatenate" in passed["concatenated"]


def test_boxes_are_what_they_say_or_are_asked_about(found):
    boxes = found["boxes"]
    assert boxes["corners"] == boxes["core"] == [[0.25, 0.25, 0.5, 0.5]]
    assert boxes["sizes"] == [[0.25, 0.25, 0.75, 0.75]]
    assert "say which by box_format='xywh' or 'xyxy'" in boxes["saved before"]
    assert boxes["drawn"] == [[0.25, 0.25, 0.5, 0.5], [0.0, 0.0, 0.125, 0.25]]
    assert "BBOX has 2 boxes for 16 frames" in boxes["drawn for one"]


def test_paths_are_timed_and_measured_as_their_tools_do(found):
    boxes = found["boxes"]
    assert boxes["motionctrl"] == [[0.45, 0.7, 0.55, 0.8]]  # lines, in 256
    assert boxes["freetraj"] == [[0.75, 0.0, 1.0, 0.25]]  # on at its speed after its last keyframe
    assert "(frame 10) has x1=1.08333, outside [0, 1]" in boxes["freetraj further"]
    assert boxes["freetraj cut"] == [[0.9375, 0.0, 1.0, 0.25]]
    assert 'objects[0] ("red cube") has no target in frames 1 to 2' in found["hidden"]


def test_what_can_not_be_is_one_clear_error(found):
    refused = found["refused"]
    assert "phrase 'green cone' not found in prompt" in refused["absent"]
    assert "phrase 'red cube' occurs 2 times" in refused["twice"]
    assert "the latent has 2 frames, but num_frames is 3" in refused["another number of frames"]
    assert "the conditioning has 50 tokens, the prompt of WM Mojito Apply 77" in refused["another conditioning"]
    assert "3 latent frames at a temporal stride of 4 hold 9" in refused["stride"]


def test_a_path_of_another_length_is_resampled(found):
    assert 'objects[0] ("red cube") has a path of 16 frames, the clip has 3' in found["resampled"]["report"]
    assert found["resampled"]["by the latent"] < 1e-6  # num_frames 0


def test_every_window_of_every_schedule_has_the_boxes_of_its_own_frames(found):
    fixed = found["ksampler"]["windows have the frame before"]
    for name, one in found["windows"].items():
        kind, schedule, fix = name.split(", ")
        assert one["finite"] and one["frames"] == list(range(7)), name
        assert one["calls"] >= 2 and one["off"] < 0.13, name  # a cell is 0.125 or 0.17 wide
        assert bool(one["borrowed"]) == (fixed and fix == "True"), name
