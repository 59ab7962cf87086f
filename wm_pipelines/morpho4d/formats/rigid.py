"""Objects that keep their shape: one set of Gaussians and a path for each, instead of all Gaussians in each frame."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wm_pipelines.morpho4d.formats.clip import Clip
from wm_pipelines.morpho4d.formats.splats import Splats, joined
from wm_pipelines.morpho4d.quaternions import from_matrices, matrices, slerp

TOLERANCE = 0.1
"""Deviation, in radii of the object, up to which it counts as rigid. A cube and a ball had 0.04 and
0.06 after 60 steps of a fit in the miniature world."""

STILL = 1e-5
"""Metres, and the sine of half the turn, below which an object does not move."""


@dataclass(frozen=True, eq=False)
class Part:
    """Gaussians that move as one.

    Args:
        splats: about the part's own origin.
        times: (T,) seconds, rising. translations: (T, 3). rotations: (T, 4), unit, w first, each on the side of the
            one before it.
        deviation: root mean square of what a rigid motion leaves of the frames, in radii of the object.
    """

    name: str
    splats: Splats
    times: torch.Tensor
    translations: torch.Tensor
    rotations: torch.Tensor
    deviation: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether any frame differs from the first."""
        along = (self.rotations * self.rotations[0]).sum(-1).abs().clamp(max=1)
        turn = (1 - along**2).sqrt().max()
        return bool((self.translations - self.translations[0]).abs().max() > STILL) or bool(turn > STILL)

    def at(self, time: float) -> Splats:
        """In the world: between keys places go on a line, rotations on the shorter arc; both ends are held."""
        after = int(torch.searchsorted(self.times, torch.tensor(float(time), dtype=self.times.dtype)))
        after = min(max(after, 0), len(self.times) - 1)
        before = max(after - 1, 0)
        gap = float(self.times[after] - self.times[before])
        share = min(max((float(time) - float(self.times[before])) / gap, 0.0), 1.0) if gap > 0 else 0.0
        rotation = slerp(self.rotations[before], self.rotations[after], torch.tensor(share))
        placed = self.splats.turned(rotation)
        shift = torch.lerp(self.translations[before], self.translations[after], share)
        return replace(placed, means=placed.means + shift)


@dataclass(frozen=True, eq=False)
class RigidScene:
    """Parts side by side, each with its path."""

    parts: tuple[Part, ...]

    def at(self, time: float) -> Splats:
        """All Gaussians in the world at `time` (seconds), part after part."""
        return joined([part.at(time) for part in self.parts])

    @property
    def times(self) -> tuple[float, ...]:
        """Every key of every part, seconds."""
        return tuple(torch.cat([part.times for part in self.parts]).unique().tolist())


def rigid_part(clip: Clip, object_id: int) -> Part:
    """One object as a part, about its centroid in the first frame; `deviation` says how well that fits.

    The motion of each frame is the rotation and translation that bring the first one nearest to it, weighted by
    opacity and volume (Kabsch, 1976). A Gaussian counts as its centre and the ends of its axes, so that its own turn
    is seen too. Where opacities, scales or colours change, the deviation is infinite.
    """
    which = clip.frames[0].object_id == object_id
    frames = [frame.picked(which) for frame in clip.frames]
    first = frames[0]
    weight = (first.opacities.double() * first.scales.double().prod(-1)).clamp_min(1e-30)
    weight = weight / weight.sum()
    centre, points = _points(first, weight)
    radius = float((weight @ (points**2).sum((1, 2))).sqrt())
    places, turns, left = [], [], []
    for frame in frames:
        place, moved = _points(frame, weight)
        turn = _nearest_turn(points, moved, weight)
        places.append(place)
        turns.append(turn)
        left.append(float(weight @ ((points @ turn.T - moved) ** 2).sum((1, 2))))
    quats = from_matrices(torch.stack(turns))
    for n in range(1, len(quats)):
        if quats[n] @ quats[n - 1] < 0:
            quats[n] = -quats[n]
    deviation = (sum(left) / len(left)) ** 0.5 / radius
    if not all(_same_looks(first, frame, q) for frame, q in zip(frames, quats, strict=True)):
        deviation = float("inf")
    return Part(
        name=clip.name(object_id),
        splats=replace(first, means=(first.means.double() - centre).float()),
        times=torch.tensor(clip.times, dtype=torch.float64),
        translations=torch.stack(places).float(),
        rotations=quats.float(),
        deviation=deviation,
    )


def rigid_scene(clip: Clip, tolerance: float = TOLERANCE) -> RigidScene:
    """A clip as parts, one for each object id in it.

    Args:
        tolerance: the most that `Part.deviation` may be.

    Raises:
        ValueError: an object bends, or changes its opacity, size or colour; names it.
    """
    parts = [rigid_part(clip, n) for n in clip.frames[0].object_id.unique().tolist()]
    bent = [f"{part.name!r} ({part.deviation:.3g})" for part in parts if part.deviation > tolerance]
    if bent:
        raise ValueError(
            f"not rigid within {tolerance:g} of their radius: {', '.join(bent)}; write a PLY sequence or .4dgs, or "
            "raise `tolerance`"
        )
    return RigidScene(tuple(parts))


def _points(splats: Splats, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The centroid (3,), and points (n, 4, 3) about it whose second moments are those of the Gaussians."""
    means = splats.means.double()
    centre = weight @ means
    axes = matrices(splats.quats.double()) * splats.scales.double()[:, None]  # (n, 3, 3), axes as columns
    return centre, torch.cat([(means - centre)[:, None], axes.mT], dim=1)


def _nearest_turn(points: torch.Tensor, moved: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The rotation matrix R that makes the weighted sum of |R p - q|^2 least."""
    u, _, vh = torch.linalg.svd(torch.einsum("n,nki,nkj->ij", weight, moved, points))
    sign = torch.ones(3, dtype=u.dtype)
    sign[2] = torch.det(u @ vh).sign()
    return (u * sign) @ vh


def _same_looks(first: Splats, frame: Splats, turn: torch.Tensor) -> bool:
    turned = first.turned(turn)
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor, float]] = (
        (first.opacities, frame.opacities, 1e-4),
        (first.scales.log(), frame.scales.log(), 1e-3),
        (turned.sh, frame.sh, 0.05),
    )
    return all(bool((a - b).abs().max() <= most) for a, b, most in pairs)
