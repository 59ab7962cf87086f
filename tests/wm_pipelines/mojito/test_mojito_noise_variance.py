"""One update rule for every parametrisation: the noise in a latent, from known data and noise, for every class."""

import diffusers
import pytest
import torch

from wm_pipelines.mojito.guidance.noise_variance import (
    FLOW_MATCHING,
    KNOWN,
    MULTISTEP,
    VARIANCE_EXPLODING,
    check_scheduler,
    input_scale,
    latent_noise_variance,
)

CASES = [(name, {}) for name in KNOWN if name != "VideoCrafterDDIMScheduler"]
CASES += [(name, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}) for name in MULTISTEP]
CASES += [
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
]


@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda case: case if isinstance(case, str) else "-".join(case)
)
def test_it_is_the_variance_of_the_noise_that_the_scheduler_adds(name, options):
    if name.startswith("LMS"):
        pytest.importorskip("scipy", reason="LMSDiscreteScheduler needs scipy")
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(10)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in scheduler.timesteps[[0, 4, 7]]:
        # of zero data what is left is the noise's share
        empty = torch.zeros_like(noise)
        given = (t, noise) if name == "FlowMatchHeunDiscreteScheduler" else (t[None], noise)
        held = (
            scheduler.scale_noise(empty, *given)
            if name in FLOW_MATCHING
            else scheduler.add_noise(empty, noise, t[None])
        )
        sigma = held.std() / noise.std()
        assert latent_noise_variance(scheduler, t) == pytest.approx(float(sigma) ** 2, rel=1e-4)


@pytest.mark.parametrize("name", VARIANCE_EXPLODING)
def test_the_input_scale_is_the_scheduler_s_own(name):
    if name.startswith("LMS"):
        pytest.importorskip("scipy", reason="LMSDiscreteScheduler needs scipy")
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(6)
    for t in scheduler.timesteps[:5]:
        assert input_scale(scheduler, t) == pytest.approx(
            float(scheduler.scale_model_input(torch.ones(1), t)), rel=1e-5
        )
        scheduler.step(torch.zeros(1, 1, 2, 2), t, torch.ones(1, 1, 2, 2))


def test_the_rule_equals_the_reference_on_scaled_latents():
    """z / sqrt(alpha_bar) with step sigma**2 = (1 - alpha_bar) / alpha_bar gives the same latent."""
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(50)
    t = scheduler.timesteps[3]
    alpha = scheduler.alphas_cumprod[t].double()
    z = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    energy = (z / z.norm()).pow(3).sum()
    (gradient,) = torch.autograd.grad(energy, z)
    ours = z - 30 * latent_noise_variance(scheduler, t) * gradient
    scaled = (z / alpha.sqrt()).detach().requires_grad_()
    energy = (scaled * alpha.sqrt() / (scaled * alpha.sqrt()).norm()).pow(3).sum()
    (gradient,) = torch.autograd.grad(energy, scaled)
    theirs = scaled - 30 * (1 - alpha) / alpha * gradient
    torch.testing.assert_close(ours, theirs * alpha.sqrt(), rtol=1e-6, atol=1e-9)


def test_an_unknown_parametrisation_is_refused_by_name():
    with pytest.raises(ValueError, match="EDMEulerScheduler.*unknown parametrisation.*DDIMScheduler"):
        check_scheduler(diffusers.EDMEulerScheduler())
