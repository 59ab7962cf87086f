"""The intensity dial inside MojitoPipeline: with and without guidance, in a batch, and its absence."""

import copy

import pytest
import torch

from wm_pipelines.mojito.modeling import MotionIntensityModel
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.trajectories.objects import MotionObject

PROMPT = "a red cube moving right"
CUBE = MotionObject("red cube", boxes=(0.0, 0.0, 0.5, 0.5))


@pytest.fixture(params=["temporal", "timestep", "text"])
def dialled(bases, request):
    """A tiny AnimateDiff pipeline with an awake modulator, and the same one without."""
    pipe, size = bases("animatediff")
    model = MotionIntensityModel.from_denoiser(pipe.unet, request.param)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    made = MojitoPipeline(**{**pipe.components, "intensity": model.eval(), "scheduler": copy.deepcopy(pipe.scheduler)})
    made.set_progress_bar_config(disable=True)
    return made, pipe, size


def run(pipe, size, prompt=PROMPT, seed=1, **more):
    generator = [torch.Generator().manual_seed(seed + i) for i in range(1 if isinstance(prompt, str) else len(prompt))]
    return pipe(prompt, num_inference_steps=2, output_type="latent", generator=generator, **size, **more).frames


def test_the_level_changes_the_clip_and_each_of_a_batch_has_its_own(dialled):
    pipe, _, size = dialled
    low, high = run(pipe, size, motion_intensity=1.0), run(pipe, size, seed=2, motion_intensity=9.0)
    assert not torch.equal(low, run(pipe, size, motion_intensity=9.0))
    both = run(pipe, size, [PROMPT, PROMPT], motion_intensity=[1.0, 9.0])
    torch.testing.assert_close(both, torch.cat([low, high]), rtol=0, atol=1e-4)


def test_guidance_and_dial_act_together(dialled):
    pipe, plain, size = dialled
    guided = {"objects": [CUBE], "guidance_fraction": 0.5, "guidance_iterations": 2}
    frames = run(pipe, size, motion_intensity=9.0, **guided)
    assert frames.isfinite().all()
    assert not torch.equal(frames, run(pipe, size, motion_intensity=9.0))
    assert not torch.equal(frames, run(plain, size, **guided))
    both = run(pipe, size, [PROMPT, PROMPT], motion_intensity=[9.0, 1.0], **guided)
    low = run(pipe, size, seed=2, motion_intensity=1.0, **guided)
    torch.testing.assert_close(both, torch.cat([frames, low]), rtol=0, atol=1e-4)


def test_a_schedule_scales_the_level_of_each_step(dialled):
    pipe, _, size = dialled
    high, low = run(pipe, size, motion_intensity=8.0), run(pipe, size, motion_intensity=2.0)
    assert torch.equal(run(pipe, size, motion_intensity=8.0, intensity_schedule=[1]), high)
    assert torch.equal(run(pipe, size, motion_intensity=8.0, intensity_schedule=[0.25, 0.25, 0.25]), low)
    falling = run(pipe, size, motion_intensity=8.0, intensity_schedule=[1, 0.25])
    rising = run(pipe, size, motion_intensity=8.0, intensity_schedule=(0.25, 1))
    assert not any(torch.equal(a, b) for a, b in ((falling, high), (falling, low), (falling, rising)))
    both = run(pipe, size, [PROMPT, PROMPT], motion_intensity=[8.0, None], intensity_schedule=[1, 0.25])
    torch.testing.assert_close(both, torch.cat([falling, run(pipe, size, seed=2)]), rtol=0, atol=1e-4)
    guided = {"objects": [CUBE], "guidance_fraction": 0.5, "guidance_iterations": 2, "motion_intensity": 8.0}
    steered = run(pipe, size, intensity_schedule=[1, 0.25], **guided)
    assert steered.isfinite().all() and not torch.equal(steered, run(pipe, size, **guided))


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_group_offload_brings_the_dials_weights_in_time(bases, offload, kind):
    pipe, size = bases("animatediff")
    model = MotionIntensityModel.from_denoiser(pipe.unet, "temporal", positions=True, text_dim=16)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.fit_text(torch.randn(40, 16))
    levels, text = [None, 3.0], torch.randn(2, 16)
    wanted = model.eval()(levels, text)
    made = MojitoPipeline(**{**copy.deepcopy(pipe.components), "motion_adapter": None, "intensity": model})
    made.set_progress_bar_config(disable=True)
    plain = run(made, size, motion_intensity=9.0)
    offload(made, kind)
    torch.testing.assert_close(model(levels, text), wanted)
    torch.testing.assert_close(run(made, size, motion_intensity=9.0), plain, rtol=0, atol=1e-4)


def test_a_text_encoder_in_bf16_is_warned_of(bases, caplog):
    pipe, size = bases("animatediff")
    model = MotionIntensityModel.from_denoiser(pipe.unet, "temporal", text_dim=16).eval()
    parts = {name: copy.deepcopy(part) for name, part in pipe.components.items()}
    made = MojitoPipeline(**{**parts, "intensity": model}).to(torch.bfloat16)
    made.set_progress_bar_config(disable=True)
    run(made, size)
    assert "keep pipe.text_encoder in float32 or float16" in caplog.text


def test_untrained_it_is_the_plain_pipeline_bit_for_bit(bases):
    pipe, size = bases("animatediff")
    for inject in ("temporal", "timestep"):
        fresh = MotionIntensityModel.from_denoiser(pipe.unet, inject)
        made = MojitoPipeline(**{**pipe.components, "intensity": fresh.eval()})
        made.set_progress_bar_config(disable=True)
        assert torch.equal(run(made, size, motion_intensity=5.0), run(pipe, size))
