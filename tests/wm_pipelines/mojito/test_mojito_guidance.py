"""A move of the latent must reach the scheduler's step, whatever the scheduler keeps from one call to the next."""

import inspect

import diffusers
import pytest
import torch

from wm_pipelines.mojito.guidance.noise_variance import KNOWN
from wm_pipelines.mojito.guidance.settings import GuidanceSettings
from wm_pipelines.mojito.guidance.state import MotionState
from wm_pipelines.mojito.guidance.steering import MotionGuide, begins_step
from wm_pipelines.mojito.videocrafter import VideoCrafterDDIMScheduler

CASES = [(name, {}) for name in KNOWN]
CASES += [
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),  # Wan's own
    ("PNDMScheduler", {"skip_prk_steps": True}),  # Stable Diffusion's own
]


def scheduler_of(name, options):
    if name.startswith("LMS"):
        pytest.importorskip("scipy", reason="LMSDiscreteScheduler needs scipy")
    kind = VideoCrafterDDIMScheduler if name.startswith("VideoCrafter") else getattr(diffusers, name)
    if "clip_sample" in inspect.signature(kind.__init__).parameters:
        options = {**options, "clip_sample": False}
    return kind(**options)


@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda case: case if isinstance(case, str) else "-".join(case)
)
def test_a_move_is_not_lost(bases, name, options):
    """With a network that says nothing, a latent that begins its third step further on ends it further on."""
    pipe, _ = bases("animatediff")
    move = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(5))

    def third_step(moved):
        scheduler = scheduler_of(name, options)
        scheduler.set_timesteps(12)
        takes = inspect.signature(scheduler.step).parameters
        more = {"old_pred_original_sample": None, "timestep_back": None}
        more = {key: value for key, value in more.items() if key in takes}
        if "generator" in takes:
            more["generator"] = torch.Generator().manual_seed(0)
        guide = MotionGuide(pipe.family, pipe.unet, scheduler, MotionState([]), GuidanceSettings())
        x, begun = torch.randn(move.shape, generator=torch.Generator().manual_seed(1)), 0
        with guide.active():
            for t in scheduler.timesteps:
                begins = begins_step(scheduler)
                begun += begins
                if begun == 4:
                    return x
                if begins and begun == 3 and moved:
                    guide.move = move
                x = scheduler.step(model_output=torch.zeros_like(x), timestep=t, sample=x, return_dict=False, **more)[
                    0
                ]

    further = third_step(True) - third_step(False)
    assert float((further * move).sum() / move.square().sum()) > 0.9


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_of_two_evaluations_the_first_begins_the_step(name):
    scheduler = scheduler_of(name, {})
    scheduler.set_timesteps(4)
    found, x = [], torch.ones(1, 1, 2, 2)
    for t in scheduler.timesteps:
        found.append(begins_step(scheduler))
        x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    assert found == [True, False] * 3 + [True]


def test_a_token_that_a_layer_does_not_see_counts_neither_for_the_share_nor_for_smoothness():
    from wm_pipelines.mojito.guidance.energy import in_box, smoothness
    from wm_pipelines.mojito.guidance.state import Slots, Sums

    total = torch.tensor([1.0, 1.0, 0.0]).expand(4, 2, 3)  # (F, H, J)
    path = torch.tensor([0.1, 0.4, 0.2, 0.9])[:, None, None] * total
    one = Sums(0.8 * total, total, path, path, 16)
    boxes = torch.tensor([0.2, 0.2, 0.6, 0.6]).expand(1, 4, 4)
    guides = [Slots(torch.arange(n), torch.zeros(n, dtype=torch.int64), boxes, torch.ones(1), 5) for n in (3, 2)]
    seen = Sums(*(t[..., :2] for t in one[:4]), 16)
    torch.testing.assert_close(in_box([one], guides[0]), torch.full((1, 4), 0.8))
    torch.testing.assert_close(smoothness([one], guides[0]), smoothness([seen], guides[1]))
    assert smoothness([one], guides[0]) > 0.1


def test_weights_count_among_the_objects_only():
    """One object of any weight has the same energy; of two, the heavier counts more, and no energy exceeds 1."""
    from wm_pipelines.mojito.guidance.energy import frame_energies
    from wm_pipelines.mojito.guidance.state import Slots, Sums

    total = torch.ones(3, 2, 2)
    sums = Sums(torch.tensor([0.2, 0.9]).expand(3, 2, 2) * total, total, total, total, 16)

    def energies(tokens, owners, weights):
        guide = Slots(
            torch.tensor(tokens), torch.tensor(owners), torch.zeros(len(weights), 3, 4), torch.tensor(weights), 5
        )
        return frame_energies([Sums(*(x[..., : len(tokens)] for x in sums[:4]), 16)], guide)

    torch.testing.assert_close(energies([1], [0], [1.0]), torch.full((3,), 0.64))
    torch.testing.assert_close(energies([1], [0], [5.0]), torch.full((3,), 0.64))
    torch.testing.assert_close(energies([1, 2], [0, 1], [1.0, 1.0]), torch.full((3,), (0.64 + 0.01) / 2))
    torch.testing.assert_close(energies([1, 2], [0, 1], [3.0, 1.0]), torch.full((3,), (3 * 0.64 + 0.01) / 4))
