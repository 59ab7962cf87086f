"""The update of the latent as a function: against its rule, and against what it must leave alone."""

import pytest
import torch

from wm_pipelines.mojito.guidance.settings import GuidanceSettings
from wm_pipelines.mojito.guidance.update import Measured, updated


def quadratic(targets, calls=None):
    """Energy a video: the mean square distance to its target; its loss counts every entry."""

    def measure(z):
        if calls is not None:
            calls.append(z.detach().clone())
        found = []
        for row, target in zip(z, targets, strict=True):
            distance = (row - target).square()
            found.append(Measured(distance.sum(), float(distance.detach().mean()), torch.zeros(1, 1), []))
        return found

    return measure


@pytest.mark.parametrize(("iterations", "rate"), [(1, 0.1), (3, 0.05), (7, 0.3)])
def test_it_is_the_stated_rule(iterations, rate):
    z, targets = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    found = updated(z, quadratic(targets), rate, GuidanceSettings(iterations=iterations, threshold=0.0))
    expected = z
    for _ in range(iterations):
        expected = expected - rate * 2 * (expected - targets)
    torch.testing.assert_close(found.latents, expected)
    assert found.moves == [iterations] * 2 and found.measurements == iterations
    assert [len(row) for row in found.energies] == [iterations] * 2


def test_a_video_below_the_threshold_is_left_and_the_others_move_as_alone():
    z = torch.stack([torch.full((4,), 0.1), torch.full((4,), 3.0)])
    targets, settings = torch.zeros(2, 4), GuidanceSettings(iterations=4, threshold=0.2)
    both = updated(z, quadratic(targets), 0.1, settings)
    alone = updated(z[1:], quadratic(targets[1:]), 0.1, settings)
    assert torch.equal(both.latents[0], z[0]) and torch.equal(both.latents[1], alone.latents[0])
    assert both.moves == [0, *alone.moves] and len(both.energies[0]) == 1 and both.energies[1] == alone.energies[0]


def test_without_iterations_it_measures_once_and_gives_the_latents_back():
    calls, z = [], torch.randn(1, 5)
    found = updated(z, quadratic(torch.zeros(1, 5), calls), 0.5, GuidanceSettings(iterations=0, threshold=0.0))
    assert torch.equal(found.latents, z) and found.moves == [0] and len(calls) == 1 == found.measurements


def test_the_latents_that_came_are_not_changed():
    z = torch.randn(1, 5)
    kept = z.clone()
    updated(z, quadratic(torch.zeros(1, 5)), 0.5, GuidanceSettings())
    assert torch.equal(z, kept) and not z.requires_grad
