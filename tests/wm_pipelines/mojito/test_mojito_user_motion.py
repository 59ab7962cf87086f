"""A motion adapter of the user's: read from a folder or from AnimateDiff's file, and put under a pipeline."""

import copy

import pytest
import torch
from diffusers import MotionAdapter, StableDiffusionPipeline
from safetensors.torch import save_file

from wm_pipelines import MojitoPipeline, WMConfig
from wm_pipelines.mojito.user_motion import read_motion_adapter, with_motion

OPTIONS = {
    "motion_layers_per_block": 1, "motion_num_attention_heads": 2, "motion_norm_num_groups": 4,
    "motion_max_seq_length": 16,
}  # fmt: skip
THEIRS = {
    ".norm1.": ".norms.0.", ".norm2.": ".norms.1.", ".norm3.": ".ff_norm.", ".attn1.": ".attention_blocks.0.",
    ".attn2.": ".attention_blocks.1.", "motion_modules.0.": "motion_modules.0.temporal_transformer.",
    "motion_modules.1.": "motion_modules.1.temporal_transformer.",
}  # fmt: skip


def adapter(widths=(8, 16, 16), seed=3, **options):
    torch.manual_seed(seed)
    made = MotionAdapter(block_out_channels=widths, **{**OPTIONS, **options}).eval()
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.copy_(0.2 * torch.randn(tensor.shape))
    return made


def as_published(made):
    """Its tensors under the names of AnimateDiff's files, the positions among them."""
    state = {}
    for key, tensor in made.state_dict().items():
        if "pos_embed" in key:
            key = key.replace("transformer_blocks.0.pos_embed", "transformer_blocks.0.attn1.pos_encoder")
        for ours, theirs in THEIRS.items():
            key = key.replace(ours, theirs)
        state[key] = tensor.contiguous()
    return state


@pytest.mark.parametrize("mid", [True, False])
def test_a_file_of_animatediff_is_the_adapter_that_it_was_made_from(tmp_path, mid):
    made = adapter((32, 64), motion_layers_per_block=2, motion_num_attention_heads=8, motion_norm_num_groups=32,
                   motion_max_seq_length=24, use_motion_mid_block=mid)  # fmt: skip
    save_file(as_published(made), tmp_path / "mm.safetensors")
    read = read_motion_adapter(tmp_path / "mm.safetensors")
    assert read.config.motion_max_seq_length == 24 and read.config.use_motion_mid_block is mid
    own = read.state_dict()
    assert own.keys() == made.state_dict().keys()
    assert all(torch.equal(own[key], tensor) for key, tensor in made.state_dict().items())


@pytest.mark.parametrize("damage", ["missing", "extra", "other", "no positions"])
def test_a_file_that_is_no_adapter_is_refused(tmp_path, damage):
    state = as_published(adapter((32, 64), motion_num_attention_heads=8, motion_norm_num_groups=32))
    if damage == "missing":
        del state[next(key for key in state if "to_q" in key)]
    elif damage == "extra":
        state["conv_in.weight"] = torch.ones(2)
    elif damage == "other":
        state = {"a": torch.ones(1)}
    else:
        state = {key: tensor for key, tensor in state.items() if "pos_encoder" not in key}
    save_file(state, tmp_path / "mm.safetensors")
    with pytest.raises(ValueError, match="mm.safetensors (does not fit|is no motion adapter)"):
        read_motion_adapter(tmp_path / "mm.safetensors")


def test_a_pipeline_of_pictures_becomes_one_of_videos(tiny_sd, tmp_path):
    adapter().save_pretrained(tmp_path)
    pictures = StableDiffusionPipeline(
        **copy.deepcopy(tiny_sd), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline = with_motion(pictures, read_motion_adapter(tmp_path))
    assert type(pipeline) is MojitoPipeline
    wanted = MojitoPipeline(**copy.deepcopy(tiny_sd), motion_adapter=adapter())
    assert torch.equal(video(pipeline), video(wanted))


def test_a_mojito_pipeline_takes_it_in_place_of_its_own(tiny_sd):
    pipeline = MojitoPipeline(**copy.deepcopy(tiny_sd), motion_adapter=adapter(seed=4))
    pipeline.wm_config = WMConfig(method="mojito", pipeline="MojitoPipeline")
    before = video(pipeline)
    assert with_motion(pipeline, adapter()) is pipeline
    wanted = MojitoPipeline(**copy.deepcopy(tiny_sd), motion_adapter=adapter())
    assert torch.equal(video(pipeline), video(wanted)) and not torch.equal(video(pipeline), before)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"widths": (8, 16)}, r"UNet of widths \(8, 16\)"),
        ({"motion_layers_per_block": 2}, "built otherwise"),
    ],
)
def test_an_adapter_of_another_unet_is_refused(tiny_sd, made, message):
    pipeline = MojitoPipeline(**copy.deepcopy(tiny_sd), motion_adapter=adapter(seed=4))
    with pytest.raises(ValueError, match=message):
        with_motion(pipeline, adapter(**made))


def test_a_pipeline_without_a_unet_is_refused():
    with pytest.raises(ValueError, match="needs a pipeline with a UNet"):
        with_motion(object(), adapter())


def video(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    out = pipeline("a red cube", num_frames=4, height=32, width=32, num_inference_steps=2, generator=generator,
                   output_type="pt")  # fmt: skip
    return torch.as_tensor(out.frames)
