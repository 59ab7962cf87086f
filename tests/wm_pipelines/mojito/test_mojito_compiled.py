"""A guided step under torch.compile: the pass that measures and the denoiser's own are one graph each."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from wm_pipelines.mojito.guidance import energy
from wm_pipelines.mojito.guidance.attention import motion_attention_processors
from wm_pipelines.mojito.guidance.steering import DenoiserCall, ended_after, ended_pass
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.trajectories.objects import MotionObject

pytestmark = pytest.mark.slow

PROMPT = "a red cube moving right"
CUBE = MotionObject("red cube", boxes=[(0.0, 0.2, 0.5, 0.7), (0.5, 0.2, 1.0, 0.7)])
SIZE = {"num_frames": 2, "height": 32, "width": 32}


@pytest.fixture
def small(tiny_sd):
    """A MojitoPipeline of two levels, and nothing compiled before or after."""
    from diffusers import MotionAdapter, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=4,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        adapter = MotionAdapter(
            block_out_channels=(8, 8), motion_layers_per_block=1, motion_num_attention_heads=2,
            motion_norm_num_groups=4, motion_max_seq_length=4, use_motion_mid_block=False,
        )  # fmt: skip
        pipe = MojitoPipeline(**{**copy.deepcopy(tiny_sd), "unet": unet, "motion_adapter": adapter})
    pipe.unet.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    torch._dynamo.reset()
    counters.clear()
    yield pipe
    torch._dynamo.reset()


def guide_of(pipe):
    call = pipe.stock_call(height=SIZE["height"], width=SIZE["width"])
    inputs = pipe.check_inputs(call, prompt=PROMPT, objects=[CUBE], num_frames=SIZE["num_frames"])
    plans = pipe.plan(call, inputs, quiet=True)
    return pipe.make_guide(call, plans, settings=pipe.guidance_settings(bias_in=1.0), taps=None)


def test_a_guided_step_is_two_graphs_of_inductor(small):
    denoiser, guide = small.unet, guide_of(small)
    state, text = guide.state, torch.randn(4, 77, 16, generator=torch.Generator().manual_seed(1))
    state.frames, state.height, state.width = 2, 8, 8
    latents = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    t = torch.tensor(500)

    def measure(z):
        state.sums.clear()
        ended_pass(denoiser, DenoiserCall((z, t), {"encoder_hidden_states": text[2:], "return_dict": False}))
        sums = [layer[0] for layer in state.sums.values()]
        state.sums.clear()
        return energy.frame_energies(sums, state.slots[0]).sum()

    def moved(measure):
        z = latents.clone().requires_grad_()
        loss = measure(z)
        (gradient,) = torch.autograd.grad(loss, z)
        return loss.detach(), gradient

    def denoise(z):
        return denoiser(torch.cat([z, z]), t, encoder_hidden_states=text, return_dict=False)[0]

    with motion_attention_processors(guide.family, denoiser, state):
        state.rows, state.measuring = [0], True
        with ended_after(guide.family, denoiser, state.tapped):
            expected = moved(measure)
            found = moved(torch.compile(measure, fullgraph=True))
        assert expected[1].abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        state.rows, state.measuring, state.bias_in = [None, 0], False, 1.0
        with torch.no_grad():
            torch.testing.assert_close(torch.compile(denoise, fullgraph=True)(latents), denoise(latents))
    assert not counters["graph_break"]


def test_a_denoiser_that_was_compiled_is_steered(small):
    """Its own passes are compiled without a break, the guide's are not; both as the plain denoiser's."""
    options = {"num_inference_steps": 4, "guidance_fraction": 0.25, "guidance_iterations": 1, "bias_in": 1.0}

    def run():
        generator = torch.Generator().manual_seed(0)
        return small(PROMPT, objects=[CUBE], generator=generator, output_type="latent", **SIZE, **options)

    plain = run()
    small.unet.compile(backend="eager", fullgraph=True)
    compiled = small.unet._compiled_call_impl
    found = run()
    assert torch.equal(found.frames, plain.frames) and found.report[0].energy == plain.report[0].energy
    assert counters["stats"]["unique_graphs"] and not counters["graph_break"]
    assert small.unet._compiled_call_impl is compiled
