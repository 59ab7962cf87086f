"""The update of the latent, z <- z - eta c_n**2 d(E + lambda_s S)/dz, as a function of the latent and nothing else.

How E and S are measured is the caller's (`steering`); here is when a video is moved, by how much, and when it is left.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from wm_pipelines.mojito.guidance import energy
from wm_pipelines.mojito.guidance.settings import GuidanceSettings
from wm_pipelines.mojito.guidance.state import Slots, Sums


class Measured(NamedTuple):
    """What one video's attention says of its boxes: the `loss` that its latent is moved down, a scalar with a graph;
    the `energy` a frame; (O, F) shares `in_box`; objects whose tokens are `unseen`."""

    loss: torch.Tensor
    energy: float
    in_box: torch.Tensor
    unseen: list[int]


@dataclasses.dataclass(frozen=True)
class Update:
    """What a guided step did to the latents of V videos.

    Attributes:
        latents: (V, ...) after it.
        energies: per video, the energy a frame of each iteration until it was left.
        moves: per video, how often it was moved.
        last: per video, what its last iteration measured.
        measurements: how often all were measured.
    """

    latents: torch.Tensor
    energies: list[list[float]]
    moves: list[int]
    last: list[Measured]
    measurements: int


def measured(sums: Sequence[Sums], slots: Slots, smooth_weight: float) -> Measured:
    """E + lambda_s S of one video, from the sums of each tapped layer."""
    energies = energy.frame_energies(sums, slots)
    loss = energies.sum()
    if smooth_weight:
        loss = loss + smooth_weight * energy.smoothness(sums, slots)
    return Measured(
        loss, float(energies.detach().mean()), energy.in_box(sums, slots).detach().cpu(), energy.unseen(sums, slots)
    )


def updated(
    latents: torch.Tensor,
    measure: Callable[[torch.Tensor], list[Measured]],
    rate: float,
    settings: GuidanceSettings,
) -> Update:
    """At most `settings.iterations` updates; a video below `settings.threshold` is left for the rest of the step.

    Args:
        latents: (V, ...) float32, unscaled.
        measure: latents -> one `Measured` a video, differentiable; called once an iteration, once at least.
        rate: eta c_n**2.
    """
    z, count = latents, 0
    found: list[Measured] = []
    energies: list[list[float]] = [[] for _ in latents]
    last: list[Measured | None] = [None] * len(latents)
    moves, left = [0] * len(latents), [False] * len(latents)
    for _ in range(max(settings.iterations, 1)):
        with torch.enable_grad():
            # a graph of its own for each iteration: the gradient is at this latent, not through the moves before
            z = z.detach().requires_grad_(settings.iterations > 0)
            found, count = measure(z), count + 1
            for v, one in enumerate(found):
                if not left[v]:
                    energies[v].append(one.energy)
                    last[v] = one._replace(loss=one.loss.detach())
                    left[v] = one.energy < settings.threshold
            if settings.iterations == 0 or all(left):
                break
            # no video's loss depends on another's latent, so the gradient of the sum is each one's own
            loss = torch.stack([one.loss for one, done in zip(found, left, strict=True) if not done]).sum()
            (gradient,) = torch.autograd.grad(loss, z)
        moves = [n + (not done) for n, done in zip(moves, left, strict=True)]
        moving = torch.tensor([not done for done in left], device=z.device).view(-1, *[1] * (z.ndim - 1))
        z = z.detach() - rate * gradient * moving
    # the last move is not measured: that would cost one more pass, and the denoiser's own comes next
    return Update(z.detach(), energies, moves, last, count)
