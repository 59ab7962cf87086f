"""VideoCrafter2's frame rate and signal scale."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.embeddings import TimestepEmbedding, Timesteps

from wm_pipelines.mojito.convert import SCHEDULER
from wm_pipelines.mojito.guidance.noise_variance import latent_noise_variance
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.videocrafter import FpsEmbedding, VideoCrafterDDIMScheduler

PROMPT = "a red cube moving right"


def randn(seed, *shape):
    return torch.randn(shape or (2, 4, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {}),
        (SCHEDULER, {"eta": 1.0}),
        ({"thresholding": True, "clip_sample": False}, {}),
        ({"timestep_spacing": "trailing"}, {"use_clipped_model_output": True, "eta": 0.5}),
    ],
)
def test_without_a_signal_scale_it_is_ddim_bit_for_bit(options, call):
    ours, stock = VideoCrafterDDIMScheduler(**options), DDIMScheduler(**options)
    ours.SIGNAL_END = 1.0
    ours.set_timesteps(7)
    stock.set_timesteps(7)
    assert torch.equal(ours.timesteps, stock.timesteps)
    x = y = randn(0).float()
    for i, t in enumerate(stock.timesteps):
        noise = randn(i + 1).float()
        found = [
            s.step(noise, t, sample, **call, generator=torch.Generator().manual_seed(i))
            for s, sample in ((ours, x), (stock, y))
        ]
        assert all(torch.equal(a, b) for a, b in zip(found[0].to_tuple(), found[1].to_tuple(), strict=True))
        x, y = (out.prev_sample for out in found)
    at = torch.tensor([3, 800])
    assert torch.equal(ours.add_noise(x, noise, at), stock.add_noise(x, noise, at))


def test_the_signal_scale_is_the_authors():
    scheduler = VideoCrafterDDIMScheduler()
    found = scheduler.signal_scale(torch.tensor([-20, 0, 1, 399, 400, 999]))
    torch.testing.assert_close(found, torch.tensor([1, 1, 1 - 0.3 / 399, 0.7, 0.7, 0.7]))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_known_data_and_noise_make_the_round_trip(eta):
    """Given the true noise, each step finds the data and lands on the latent of the earlier timestep."""
    scheduler = VideoCrafterDDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(50)
    data, noise, fresh = randn(0), randn(1), randn(2)
    for now, then in zip(scheduler.timesteps[:-1], scheduler.timesteps[1:], strict=True):
        alpha, kappa = scheduler.alphas_cumprod[now].double(), scheduler.signal_scale(now).double()
        latent = scheduler.add_noise(data, noise, now[None])
        torch.testing.assert_close(latent, alpha.sqrt() * kappa * data + (1 - alpha).sqrt() * noise, rtol=0, atol=1e-6)
        out = scheduler.step(noise, now, latent, eta=eta, variance_noise=fresh if eta else None)
        torch.testing.assert_close(out.pred_original_sample, data, rtol=0, atol=1e-5)
        if not eta:
            torch.testing.assert_close(
                out.prev_sample, scheduler.add_noise(data, noise, then[None]), rtol=0, atol=1e-6
            )
        else:  # the noise is mixed, the signal is that of the earlier timestep
            spread = eta * scheduler._get_variance(now, then).double().sqrt()
            alpha, kappa = scheduler.alphas_cumprod[then].double(), scheduler.signal_scale(then).double()
            mixed = (1 - alpha - spread**2).sqrt() * noise + spread * fresh
            torch.testing.assert_close(out.prev_sample, alpha.sqrt() * kappa * data + mixed, rtol=0, atol=1e-6)
    last = scheduler.step(noise, 1, scheduler.add_noise(data, noise, torch.tensor([1])), return_dict=False)
    assert len(last) == 2 and torch.allclose(last[1], data, atol=1e-5)


def test_guidance_takes_its_noise_as_ddims():
    scheduler = VideoCrafterDDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[2]
    held = scheduler.add_noise(torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8), t[None])
    assert latent_noise_variance(scheduler, t) == pytest.approx(float(held.mean()) ** 2, rel=1e-5)


def test_other_predictions_are_refused_and_the_config_survives(tmp_path):
    with pytest.raises(ValueError, match="prediction_type is 'v_prediction'.*'epsilon'"):
        VideoCrafterDDIMScheduler(prediction_type="v_prediction").set_timesteps(5)
    VideoCrafterDDIMScheduler(**SCHEDULER).save_pretrained(tmp_path)
    assert VideoCrafterDDIMScheduler.from_pretrained(tmp_path).config.beta_end == 0.012


def test_the_embedding_is_diffusers_time_embedding_of_the_frame_rate():
    fps, stock = FpsEmbedding(32, 128), TimestepEmbedding(32, 128)
    stock.load_state_dict(fps.state_dict())
    torch.testing.assert_close(fps(28), stock(Timesteps(32, True, 0)(torch.tensor([28]))), rtol=0, atol=0)
    assert sum(p.numel() for p in FpsEmbedding().parameters()) == 2_050_560


@pytest.fixture
def with_fps(bases):
    pipe, size = bases("text-to-video")
    torch.manual_seed(0)
    pipe = MojitoPipeline(
        **{
            **pipe.components,
            "fps_embedding": FpsEmbedding(8, 32),
            "scheduler": VideoCrafterDDIMScheduler(**SCHEDULER),
        }
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe, {**size, "num_inference_steps": 3, "output_type": "latent"}


def sample(pipe, size, **more):
    return pipe(PROMPT, **{**size, **more}, generator=torch.Generator().manual_seed(0)).frames


def test_a_call_adds_the_frame_rate_and_takes_it_off(with_fps):
    pipe, size = with_fps
    stated = sample(pipe, size, fps=28)
    assert torch.equal(sample(pipe, size), stated) and not torch.equal(sample(pipe, size, fps=8), stated)
    assert not pipe.unet.time_embedding._forward_hooks
    with pytest.raises(RuntimeError, match="stop"), pipe.fps_embedding.applied(pipe.unet, 8):
        raise RuntimeError("stop")
    assert not pipe.unet.time_embedding._forward_hooks
    silent = copy.deepcopy(pipe.fps_embedding)
    with torch.no_grad():
        silent.linear_2.weight.zero_()
        silent.linear_2.bias.zero_()
    pipe.register_modules(fps_embedding=silent)
    quiet = sample(pipe, size)
    pipe.register_modules(fps_embedding=None)
    assert torch.equal(sample(pipe, size), quiet)


def test_objects_are_guided_on_such_a_base(with_fps):
    from wm_pipelines.mojito.trajectories.objects import MotionObject

    pipe, size = with_fps
    out = pipe(PROMPT, [MotionObject("red cube", boxes=(0, 0, 0.5, 0.5))], guidance_fraction=0.5, eta=0.5, **size)
    energies = out.report[0].energy[0]
    assert energies[-1] < energies[0]


@pytest.mark.parametrize("fps", [0, -1, float("nan"), "28", True])
def test_bad_frame_rates_are_refused_before_sampling(with_fps, fps):
    pipe, size = with_fps
    with pytest.raises(ValueError, match="fps=.*above 0"):
        sample(pipe, size, fps=fps)


def test_a_base_that_knows_no_frame_rate_says_so(bases, with_fps):
    pipe, size = bases("text-to-video")
    with pytest.raises(ValueError, match="fps=24 given but this base has no fps embedding"):
        sample(pipe, size, fps=24)
    pipe, size = with_fps
    pipe.register_modules(fps_embedding=FpsEmbedding(8, 16))
    with pytest.raises(ValueError, match="fps embedding has 16 channels, the time embedding .* 32"):
        sample(pipe, size)
    with (
        pytest.raises(ValueError, match="time embedding of Linear is missing"),
        FpsEmbedding(8, 16).applied(torch.nn.Linear(1, 1)),
    ):
        pass
