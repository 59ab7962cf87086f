"""Trajectories from masks and of other trajectories, long clips, animated pictures and batches of maps.

Runs in each ComfyUI that COMFYUI_PATH names; see `comfy_homes.py`.
"""

import copy
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def folder(tiny_sd, tiny_videos, tmp_path_factory):
    """Small pipelines: a control of pictures, and clips on AnimateDiff and on LTX."""
    import torch

    from wm_pipelines import FlexEControlModel, FlexEControlPipeline, MojitoPipeline, WMConfig

    base = tmp_path_factory.mktemp("tools")
    torch.manual_seed(0)
    control = FlexEControlModel.from_unet(
        tiny_sd["unet"], n=4, r=1, condition_stride=4, feature_channels=(4, 4, 4), pre_channels=(4, 4), map_stride=2
    )
    with torch.no_grad():
        for name, parameter in control.trainable_parameters().items():
            if "zero_conv" in name or name.endswith("kronecker_u"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    made = {"tiny": FlexEControlPipeline(**copy.deepcopy(tiny_sd), control=control)}
    for name, kind in (("tiny-mojito", "animatediff"), ("tiny-ltx", "ltx")):
        made[name] = MojitoPipeline(**tiny_videos[kind][0](tiny_sd))
    for name, pipeline in made.items():
        method = "flexecontrol" if name == "tiny" else "mojito"
        pipeline.wm_config = WMConfig(method=method, pipeline=type(pipeline).__name__)
        pipeline.save_pretrained(base / name)
    return base


@pytest.fixture(scope="module")
def found(comfyui, folder):
    """What `comfy_tools.py` measured in one process."""
    return comfyui.answer(Path(__file__).parent / "comfy_tools.py", folder)


def test_masks_and_segments_become_objects(found):
    made = found["trajectories"]
    assert made["masks"] == [[[0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0.5, 0, 1, 0.5]]] and made["bridged"] == [1]
    names, boxes = made["segments"][:2], made["segments"][2]
    assert names == ["red cube", "blue ball"]
    assert boxes == [[0.25, 0.25, 0.375, 0.375], [0.625, 0.625, 0.75, 0.75]]


def test_a_trajectory_is_changed_and_joined(found):
    made = found["trajectories"]
    assert made["edited"] == [[[0.5, 0.25, 1, 0.75], [0.25, 0.25, 0.75, 0.75], [0, 0.25, 0.5, 0.75]]]
    assert made["weights"] == [2.0, 1.0] and made["json"] == ["red cube", "blue ball"] and made["alone"]
    (way,) = made["joined"]
    assert way[:3] == made["masks"][0] and way[4:] == made["edited"][0] and way[3] == [0.5, 0.125, 1, 0.625]
    steps = [b[0] - a[0] for a, b in zip(made["eased"][0], made["eased"][0][1:], strict=False)]
    assert steps == sorted(steps) and steps[-1] > 5 * steps[0]


def test_trajectories_that_can_not_be_are_one_clear_error(found):
    none, two, phrases, out, unknown, nothing = found["trajectories"]["refused"]
    assert none == "connect one of tracks, bboxes, masks, segs; none came in"
    assert two.endswith("masks and segs came in") and "phrases has 2 lines; masks are of one object" in phrases
    assert "leaves the picture" in out and out.endswith("set outside to 'clip'")
    assert "did you mean 'red cube'" in unknown and nothing == "connect first and second, or one of them; none came in"


def test_a_clip_longer_than_its_model_is_made_in_windows(found):
    made = found["clips"]
    assert made["long"] == [20, 64, 64, 3]
    assert made["too long"].endswith("positions for 16 frames; set window to as many or less")
    assert "stride=9 leaves out frames between windows of 8" in made["stride"]


def test_a_picture_is_animated_as_by_the_pipeline(found):
    made = found["clips"]
    assert made["animated"] < 1e-5 and made["dragged"] > 1e-3
    assert made["no picture"].startswith("image is connected, but AnimateDiffPipeline takes none")
    assert made["clock alone"] == "dual_clock needs image"


def test_each_map_of_a_batch_is_for_its_own_picture(found):
    made = found["maps"]
    assert made["in the batch"] == [2, 1] and made["regions"] == 3 and made["four"] == 4
    assert made["pictures"] < 1e-4 and made["differ"] > 1e-3
    regions, lengths, words, factor = made["refused"]
    assert regions == "image holds 2 maps and region 3 masks; one, or as many"
    assert lengths == "conditions holds batches of 2, 3 maps; those of one sampler must be as many"
    assert "schedule is '1, half'; numbers such as 1, 0.5, 0" in words and "factors from 0 to 1" in factor
    assert "this node takes one map for the whole latent batch" in made["native"]


def test_what_graphs_of_real_life_bring_now_and_then_works_or_is_one_clear_error(found):
    made = found["unusual"]
    assert made["grey, and a fourth channel"] == [0, 0] and "with 1, 3 or 4 channels" in made["two channels"]
    assert "region is empty" in made["empty region"]
    assert made["previews"] == [1, 7, 17] and "holds 3 pictures for a clip of 16" in made["pictures for frames"]
    masks, segs, trajectory, judged = made["nothing"]
    assert "so 'red cube' is nowhere" in masks and segs.startswith("segs holds no segment")
    assert trajectory.startswith("trajectory holds no object") and judged.startswith("neither scene nor caption")
    assert made["no segment"] == 0 and made["blank"] == "line 2 of text is blank; fill it, or take it away"
    same, shape, (first, last) = made["kept"]
    assert same == 0 and shape == [12, 64, 64, 3]
    assert first.startswith("1. clip 2: overall ") and last == "2. clip 1: nothing of the miniature world is seen"
    assert made["clips"] == "images holds 6 pictures, which are no 4 clips of one length"
    assert made["short"].startswith("a clip has 4 frames") and made["odd"] == 5
    assert made["schedule"].startswith("intensity_schedule scales motion_intensity, which is not given")
    assert "intensity_schedule is '1, x'" in made["factors"]


def test_a_base_and_its_native_twin_are_the_same_model(found):
    made = found["base"]
    assert set(made["far"]) == {"text", "unet", "decoded", "encoded", "noise"} and max(made["far"].values()) < 1e-5
    assert made["sampled"] == [[2, 4, 16, 16], True, True]
    assert made["report"] == "4 pixels a cell, 64 x 64: 128 x 128 in Empty Latent Image"
    narrow, motion, transformer = made["refused"]
    assert narrow == "the base has levels of 8 channels; native models have multiples of 32"
    assert "pipeline stands on UNetMotionModel" in motion and "LTXVideoTransformer3DModel" in transformer
